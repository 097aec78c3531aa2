"""Webhooks to a real server on this machine, which the guard is told to allow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from vectorpool.errors import WebhookRefused
from vectorpool.sources import SystemSources
from vectorpool.webhooks.addresses import AddressGuard
from vectorpool.webhooks.delivery import Delivery, deliver, event
from vectorpool.webhooks.signatures import is_genuine

SECRET = "the receiver's secret"
LOCAL = AddressGuard("127.0.0.1")


class Receiver:
    """A server that answers as it is told, and keeps what it got."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.got.append((headers, body))
        answer = self.answers[min(len(self.got), len(self.answers)) - 1]
        if answer:
            writer.write(answer)
            with suppress(ConnectionError):
                await writer.drain()
        writer.close()


@asynccontextmanager
async def receiver(*answers: bytes) -> AsyncIterator[Receiver]:
    made = Receiver(list(answers))
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{lines}\r\n".encode() + body


class Waits(SystemSources):
    """The real sources, but waits are noted and not waited."""

    def __init__(self) -> None:
        self.waited: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waited.append(seconds)


async def send(to: Receiver, *, guard: AddressGuard = LOCAL, sources: Waits | None = None, **more: Any) -> Delivery:
    url = f"http://127.0.0.1:{to.port}/hook?of=me"
    return await deliver(url, event("job.done", {"n": 1}), SECRET, guard=guard, sources=sources or Waits(), **more)


async def test_a_message_is_signed_and_delivered_once() -> None:
    """The receiver can verify what it gets, and an answer of 2xx ends it."""
    async with receiver(answer("200 OK", b"thanks")) as to:
        sent = await send(to, headers={"x-webhook-key": "k"})
    [(headers, body)] = to.got
    assert sent == Delivery(True, 1, 200, answer=b"thanks")
    assert is_genuine(SECRET, headers, body, SystemSources().now_ms() // 1000)
    assert (headers["x-webhook-key"], headers["host"]) == ("k", f"127.0.0.1:{to.port}")


async def test_what_may_pass_is_sent_again_with_the_same_id() -> None:
    """Broken connections, 5xx and 429 are repeated after growing waits, and Retry-After is heeded."""
    waits = Waits()
    again = (b"", answer("503 No"), answer("429 Slow", b"", "retry-after: 30"), answer("204 Fine"))
    async with receiver(*again) as to:
        sent = await send(to, sources=waits)
    assert (sent.delivered, sent.attempts, sent.status) == (True, 4, 204)
    assert len({headers["webhook-id"] for headers, _ in to.got}) == 1
    assert waits.waited[2] == 30.0
    assert waits.waited[0] < waits.waited[2]


async def test_attempts_are_bounded_and_the_reason_is_kept() -> None:
    """After the last attempt the caller has the dead letter: how often, and why."""
    async with receiver(answer("500 Broken")) as to:
        sent = await send(to, attempts=3)
    assert (sent.delivered, sent.attempts, sent.reason, len(to.got)) == (False, 3, "the server answered 500", 3)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (lambda to: answer("302 Found", b"", f"location: http://127.0.0.1:{to}/other"), "redirects are not followed"),
        (lambda _: answer("401 No"), "the server answered 401"),
    ],
)
async def test_what_does_not_pass_is_not_repeated(first: Callable[[int], bytes], reason: str) -> None:
    """A redirect is not followed, and a refusal is final."""
    async with receiver(b"") as to:
        to.answers = [first(to.port)]
        sent = await send(to)
    assert (sent.delivered, sent.attempts, len(to.got)) == (False, 1, 1)
    assert reason in sent.reason


async def test_an_endless_answer_is_cut_off() -> None:
    """No more than the bound is read of an answer, and it counts by its status."""
    async with receiver(answer("200 OK", b"x" * 4_000_000)) as to:
        sent = await send(to, max_answer_bytes=1000)
    assert (sent.delivered, sent.answer) == (True, None)


async def test_a_server_that_does_not_answer_is_given_up() -> None:
    """An attempt has a time limit of its own."""
    silent = asyncio.Event()

    async def wait(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.wait()
        writer.close()

    server = await asyncio.start_server(wait, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        sent = await deliver(url, event("a", {}), None, guard=LOCAL, attempts=2, attempt_s=0.1, sources=Waits())
        silent.set()
    assert (sent.delivered, sent.attempts) == (False, 2)
    assert "did not answer" in sent.reason


async def test_no_connection_is_made_to_this_machine_unless_allowed() -> None:
    """Without the setting nothing reaches a local server, by address or by name."""
    async with receiver(answer("200 OK")) as to:
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
            url = f"http://{host}:{to.port}/"
            sent = await deliver(url, event("a", {}), SECRET, guard=AddressGuard(), sources=Waits())
            assert not sent.delivered
            assert "private" in sent.reason
    assert to.got == []


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost"])
async def test_spellings_of_this_machine_are_refused(host: str) -> None:
    """What the system's resolver reads as this machine is refused, however it is spelled."""
    guard = AddressGuard()
    with pytest.raises((WebhookRefused, OSError)):
        await guard.resolve(guard.target(f"http://{host}/"))


async def test_a_name_that_changes_its_meaning_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is looked up once for an attempt, and the connection goes to the address that was checked."""
    asked: list[str] = []
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def rebind(host: Any, port: Any, **more: Any) -> Any:
        if host != "rebind.example":
            return await real(host, port, **more)
        asked.append(host)
        # Allowed when it is asked the first time, inside from then on.
        return [(2, 1, 6, "", ("127.0.0.1" if len(asked) == 1 else "127.0.0.2", port))]

    monkeypatch.setattr(loop, "getaddrinfo", rebind, raising=False)
    async with receiver(answer("503 Later"), answer("200 OK")) as to:
        url = f"http://rebind.example:{to.port}/"
        sent = await deliver(url, event("a", {}), SECRET, guard=LOCAL, sources=Waits())
    assert asked == ["rebind.example"] * 2
    assert [headers["host"] for headers, _ in to.got] == [f"rebind.example:{to.port}"]
    assert not sent.delivered
