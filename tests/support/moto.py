"""moto's S3 server, in a thread of this process. It runs on every machine."""

from __future__ import annotations

from dataclasses import dataclass, field

from moto.server import ThreadedMotoServer

from tests.support.store import S3Server, free_port


@dataclass
class Moto(S3Server):
    """One running moto server."""

    name: str = "moto"
    _server: ThreadedMotoServer | None = field(default=None)

    @classmethod
    def start(cls) -> Moto:
        """Start the server on a free port."""
        port = free_port()
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
        server.start()
        return cls(endpoint=f"http://127.0.0.1:{port}", _server=server)

    def close(self) -> None:
        """Stop the server; its objects are lost."""
        if self._server is not None:
            self._server.stop()
            self._server = None
