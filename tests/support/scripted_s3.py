"""An S3 that answers as scripted: any error of a store, with its exact text, at a chosen request."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections import deque
from pathlib import Path
from types import TracebackType

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from vectorpool.objects.bucket import Bucket
from vectorpool.objects.stores import open_bucket
from vectorpool.settings import Settings

# What ``script`` may hold besides a status and a code.
_LISTED = "<Size>1</Size><ETag>e</ETag><LastModified>2025-01-01T00:00:00.000Z</LastModified>"
DEAF = (0, "deaf")
CUT = (0, "cut")


class ScriptedS3:
    """One bucket in memory behind HTTP. ``script`` holds answers for the next requests of a method.

    An answer is a status and S3's code, ``DEAF`` (no answer) or ``CUT`` (the request takes effect, and the
    connection breaks). Requests without a script are answered as S3 answers them. Use it as an async context manager.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        """``certificate`` is a file with a certificate and its key, to serve HTTPS with."""
        self._certificate = certificate
        self.objects: dict[str, bytes] = {}
        self.script: dict[str, deque[tuple[int, str]]] = {}
        self.always: dict[str, tuple[int, str]] = {}
        self.requests: list[str] = []

    async def __aenter__(self) -> ScriptedS3:
        tls = None
        if self._certificate is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(self._certificate)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    def settings(self, **options: object) -> Settings:
        """Return settings whose store is this bucket."""
        port = self._server.sockets[0].getsockname()[1]
        return Settings(
            **(  # type: ignore[arg-type]
                {
                    "store": "s3://scripted",
                    "s3_endpoint": f"http{'s' if self._certificate else ''}://127.0.0.1:{port}",
                    "s3_access_key_id": "key",
                    "s3_secret_access_key": "secret",
                    "s3_region": "us-east-1",
                }
                | options
            )
        )

    def bucket(self, **options: object) -> Bucket:
        """Return the product's bucket over this server."""
        return open_bucket(self.settings(**options))

    def plan(self, method: str, *answers: tuple[int, str]) -> None:
        """Answer the next requests of a method with ``answers``, in order."""
        self.script.setdefault(method, deque()).extend(answers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = head.split("\r\n")
                method, target, _ = lines[0].split(" ")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.requests.append(method)
                queue = self.script.get(method)
                answer = queue.popleft() if queue else self.always.get(method)
                if answer == DEAF:
                    await asyncio.sleep(3600)
                key = target.partition("?")[0].removeprefix("/scripted/")
                plain = self._answer(method, key, headers, body) if answer in (None, CUT) else None
                if answer == CUT:
                    writer.close()
                    return
                status, payload = plain if plain is not None else (answer[0], _error(answer[1]))  # type: ignore[index]
                length = len(payload)
                extra = 'etag: "e"\r\nlast-modified: Wed, 01 Jan 2025 00:00:00 GMT\r\n'
                if status == 200 and (asked := headers.get("range", "").removeprefix("bytes=")):
                    start, end = (int(number) for number in asked.split("-"))
                    extra += f"content-range: bytes {start}-{min(end, length - 1)}/{length}\r\n"
                    payload = payload[start : end + 1]
                    status, length = 206, len(payload)
                payload = b"" if method == "HEAD" else payload
                writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{extra}\r\n".encode() + payload)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()

    def _answer(self, method: str, key: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if method == "PUT":
            if headers.get("if-none-match") == "*" and key in self.objects:
                return 412, _error("PreconditionFailed")
            self.objects[key] = body
            return 200, b""
        if key == "/scripted":
            found = "".join(f"<Contents><Key>{key}</Key>{_LISTED}</Contents>" for key in sorted(self.objects))
            return 200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()
        if key not in self.objects:
            return 404, _error("NoSuchKey")
        return 200, self.objects[key]


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>The words of {code}.</Message></Error>".encode()


def own_certificate(folder: Path) -> Path:
    """Make a certificate for 127.0.0.1 that no system trusts; return a file with it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vectorpool tests")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return file
