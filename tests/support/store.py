"""The base of every S3 server of the tests: its endpoint, its keys, and the creation of buckets."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from itertools import count

import boto3
from botocore.config import Config

from vectorpool.settings import Settings

_numbers = count(1)


@dataclass
class S3Server:
    """An S3 endpoint with one user's keys."""

    endpoint: str
    access_key_id: str = "vectorpooltestkey"
    secret_access_key: str = "vectorpooltestsecret"
    region: str = "us-east-1"
    name: str = field(default="s3")

    def client(self):
        """Return a boto3 client of this endpoint."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            region_name=self.region,
            config=Config(connect_timeout=5, read_timeout=30, retries={"max_attempts": 3}),
        )

    def make_bucket(self) -> str:
        """Create a bucket of a fresh name and return the name."""
        bucket = f"vectorpool-test-{next(_numbers)}"
        self.client().create_bucket(Bucket=bucket)
        return bucket

    def settings(self, store: str, **changes: object) -> Settings:
        """Return settings that reach this endpoint with its keys; ``store`` is an s3:// URL."""
        values: dict[str, object] = {
            "store": store,
            "s3_endpoint": self.endpoint,
            "s3_region": self.region,
            "s3_access_key_id": self.access_key_id,
            "s3_secret_access_key": self.secret_access_key,
        }
        return Settings(**(values | changes))

    def environ(self, store: str) -> dict[str, str]:
        """Return the variables that point a ``vectorpool`` process at this endpoint."""
        return {
            "VECTORPOOL_STORE": store,
            "VECTORPOOL_S3_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_REGION": self.region,
        }


def free_port() -> int:
    """Return a TCP port of the loopback address on which no program listens now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
