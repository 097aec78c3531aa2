"""The two servers side by side: one request goes to both, in each one's own ids, and comes back as two answers.

Servers make up UUIDs. A path therefore names what it means (``<books>`` is the collection ``books``), each side fills
in the UUID that its own answer gave, and answers have every UUID replaced by the name again, or by ``<uuid>``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

import httpx
import msgspec

from tests.protocol.comparing import Answer, answer_of, differences, ties_sorted
from tests.support.chroma_server import ChromaServer

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
PLACE = re.compile(r"<([A-Za-z0-9_.-]+)>")
API = "/api/v2"


class Server(Protocol):
    """What both kinds of server have."""

    client: httpx.Client

    @property
    def url(self) -> str:
        """Where it listens."""

    @property
    def errors(self) -> str:
        """What it wrote to stderr."""


class ReferenceDropped(Exception):
    """The reference closed the connection without an answer, as it does when it panics: nothing to compare."""


class Side:
    """One server, and what its UUIDs are called."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._names: dict[str, str] = {}

    def send(
        self, method: str, path: str, content: bytes | None, headers: Mapping[str, str], places: Mapping[str, str]
    ) -> Answer:
        """Send a request whose path's ``<places>`` are filled in, and return the answer with names for UUIDs."""
        filled = PLACE.sub(lambda found: places.get(found[1]) or self.place(found[1], places), path)
        request = self.server.client.build_request(method, filled, content=content, headers=dict(headers))
        answer = answer_of(self.server.client.send(request))
        self._learn(answer.body)
        return msgspec.structs.replace(answer, body=self._named(answer.body))

    def place(self, name: str, places: Mapping[str, str]) -> str:
        """Return the path of a collection by its UUID; of one that was never there if the name is not known."""
        scope = f"{places.get('B', '')}:{name}"
        # The newest first: a name may have been given again.
        for uuid, known in reversed(self._names.items()):
            if known == scope:
                return f"{places['B']}/collections/{uuid}"
        return f"{places.get('B', '')}/collections/00000000-0000-4000-8000-000000000000"

    def _learn(self, body: Any) -> None:
        for found in body if isinstance(body, list) else [body]:
            if isinstance(found, dict) and isinstance(found.get("id"), str) and UUID.fullmatch(found["id"]):
                self._names.setdefault(found["id"], self._name_of(found))

    @staticmethod
    def _name_of(found: dict[str, Any]) -> str:
        if "database" in found:
            return f"{API}/tenants/{found['tenant']}/databases/{found['database']}:{found['name']}"
        return f"database {found.get('tenant')}/{found.get('name')}"

    def _named(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._named(inside) for key, inside in value.items()}
        if isinstance(value, list):
            return [self._named(inside) for inside in value]
        if isinstance(value, str):
            return UUID.sub(lambda found: f"<{self._names.get(found[0], 'uuid')}>", value)
        return value


class Sides:
    """Both servers. Requests go to the reference first, then to ours, in the same order."""

    def __init__(self, reference: Server, ours: Server) -> None:
        self.reference = Side(reference)
        self.ours = Side(ours)

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        places: Mapping[str, str] | None = None,
    ) -> tuple[Answer, Answer]:
        """Send one request to both and return (reference's answer, ours).

        ``body`` is sent as JSON, ``content`` as it is; without headers the content type is JSON where there is a body.
        A connection that ours drops is a failed assertion; one that the reference drops raises ReferenceDropped.
        """
        if content is None and body is not None:
            content = msgspec.json.encode(body)
        if headers is None:
            headers = {"content-type": "application/json"} if content is not None else {}
        arguments = (method, path, content, headers, places or {})
        try:
            reference = self.reference.send(*arguments)
        except httpx.TransportError as error:
            raise ReferenceDropped(told(method, path, content, [repr(error)])) from error
        try:
            return reference, self.ours.send(*arguments)
        except httpx.TransportError as error:
            dropped = f"the reference answered {reference.status}, ours dropped the connection: {error!r}"
            raise AssertionError(told(method, path, content, [dropped])) from error

    def restart_reference(self) -> str:
        """Start the reference again, since it may refuse all writes after a panic; return its last words."""
        server = self.reference.server
        assert isinstance(server, ChromaServer)
        said = server.errors[-1000:]
        server.close()
        server.start()
        return said

    def same(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        """Send one request to both, assert that the answers are equal, and return the reference's."""
        reference, ours = self.send(method, path, body, **more)
        found = compared(method, path, reference, ours)
        assert not found, told(method, path, body if body is not None else more.get("content"), found)
        return reference


def without_words(answer: Answer) -> Answer:
    """Return a refusal without its message: of several faults in one request, which is named first is open."""
    answer = _as_request_fault(answer)
    if answer.status == 400 and isinstance(answer.body, dict) and "message" in answer.body:
        return msgspec.structs.replace(answer, body={**answer.body, "message": ""})
    return answer


def compared(method: str, path: str, reference: Answer, ours: Answer) -> list[str]:
    """Return how two answers to one request differ, apart from orders that the protocol leaves open."""
    return differences(*(in_order(method, path, _as_request_fault(answer)) for answer in (reference, ours)))


def _as_request_fault(answer: Answer) -> Answer:
    """Return the reference's 500 for a query among ids that are not there as the 400 that vectorpool gives.

    ``test_deliberate`` states the difference; here it would hide the rest of a random history.
    """
    body = answer.body
    if answer.status == 500 and isinstance(body, dict) and "Error finding id" in body.get("message", ""):
        return msgspec.structs.replace(answer, status=400, body={**body, "error": "InvalidArgumentError"})
    return answer


def in_order(method: str, path: str, answer: Answer) -> Answer:
    """Return an answer with what has no defined order sorted: a page of collections, results of one distance.

    Which collections a page of them holds is open too, so only how many they are is left of one.
    """
    if isinstance(answer.body, dict) and "nanosecond heartbeat" in answer.body:
        # Only that it is a whole number can be equal.
        beat = type(answer.body["nanosecond heartbeat"]).__name__
        return msgspec.structs.replace(answer, body={**answer.body, "nanosecond heartbeat": beat})
    if isinstance(answer.body, list) and method == "GET":
        route, _, query = path.partition("?")
        if route.endswith("/collections"):
            partial = "limit" in query or "offset" in query
            body = [None] * len(answer.body) if partial else sorted(answer.body, key=lambda found: found["name"])
            return msgspec.structs.replace(answer, body=body)
    if path.endswith("/query"):
        return msgspec.structs.replace(answer, body=ties_sorted(answer.body))
    return answer


def told(method: str, path: str, body: Any, found: list[str]) -> str:
    """Return differences as a text that can be read, and sent again by hand."""
    shown = body.decode(errors="replace") if isinstance(body, bytes) else msgspec.json.encode(body).decode()
    return "\n  ".join([f"{method} {path} {shown[:600]}", *(line[:1000] for line in found[:20])])
