"""MinIO in a container, where Docker runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support.store import S3Server

# That of compose.yaml: Docker Hub, which testcontainers asks by itself, has MinIO no more.
IMAGE = (
    "quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z"
    "@sha256:14cea493d9a34af32f524e538b8346cf79f3321eff8e708c1e2960462bd8936e"
)


@dataclass
class Minio(S3Server):
    """One running MinIO."""

    name: str = "minio"
    _container: Any = None

    @classmethod
    def start(cls) -> Minio:
        """Start the container. The errors of docker-py and testcontainers are raised as they are."""
        from testcontainers.minio import MinioContainer

        container = MinioContainer(image=IMAGE)
        container.start()
        config = container.get_config()
        return cls(
            endpoint=f"http://{config['endpoint']}",
            access_key_id=config["access_key"],
            secret_access_key=config["secret_key"],
            _container=container,
        )

    def close(self) -> None:
        """Remove the container."""
        if self._container is not None:
            self._container.stop()
            self._container = None


def docker_runs() -> str | None:
    """Return None if a Docker daemon answers, else the reason."""
    import docker

    try:
        docker.from_env(timeout=3).ping()
    except Exception as error:
        return str(error).splitlines()[0][:120]
    return None
