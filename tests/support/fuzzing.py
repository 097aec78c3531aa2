"""Requests by the service's own OpenAPI document: none breaks or stalls an instance, and a refused one changes nothing.

Most go to places that exist, with bodies that fit what is there, as anything else ends at 404 or 422; how often each
operation succeeded is counted. A request has to be answered within ``HANG_S``, and with no server error but those that
are documented.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from tests.support.service import Service

HANG_S = 20


@schemathesis.serializer("application/x-ndjson", "application/msgpack", "application/x-tar")
def _as_bytes(context: Any, value: Any) -> bytes:
    """Send what is bytes as it is, and what the document made up as JSON."""
    return value if isinstance(value, bytes) else json.dumps(value).encode()


class Fuzzed(ABC):
    """An instance with places that requests are sent to, and a user whom no request names."""

    def __init__(self, service: Service) -> None:
        self.service = service
        schema = schemathesis.openapi.from_dict(service.ok("GET", "/schema/openapi.json").json())
        self.operations = [found for found in (each.ok() for each in schema.get_all_operations()) if self.takes(found)]

    @abstractmethod
    def takes(self, operation: Any) -> bool:
        """Whether this operation is to be tried."""

    @abstractmethod
    def refill(self) -> None:
        """See to it that what requests are sent to exists, also when one of them deleted it."""

    @abstractmethod
    def state(self) -> Any:
        """Return what a refused request must not change."""

    @abstractmethod
    def aim(self, case: Any, name: str) -> None:
        """Set the parameters of a request so that it finds something."""

    @abstractmethod
    def bodies(self, name: str, body: Any) -> st.SearchStrategy[Any]:
        """Bodies for an operation in place of a generated one."""

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        return {}

    def is_documented(self, path: str, status: int) -> bool:
        """Whether the operation at this path may answer this server error."""
        return False


class Sent:
    """What became of the requests to one operation: how many were sent and succeeded, and what was wrong."""

    def __init__(self, fuzzed: Fuzzed, operation: Any) -> None:
        self.name: str = operation.definition.raw["operationId"]
        self.total = self.succeeded = 0
        self.statuses: dict[int, int] = {}
        self.broken: list[str] = []
        self._fuzzed = fuzzed
        self._path = operation.path
        self._state = fuzzed.state()

    def send(self, case: Any) -> None:
        """Send a request, and note what must not be: an undocumented server error, no answer, a refusal with effect."""
        try:
            response = case.call(base_url=self._fuzzed.service.url, headers=self._fuzzed.headers, timeout=HANG_S)
        except requests.exceptions.InvalidHeader:
            return  # It cannot be sent by any client.
        except requests.exceptions.RequestException as error:
            self.broken.append(f"{case.as_curl_command()}\n  {error!r}")
            return
        self.total += 1
        status = response.status_code
        self.statuses[status] = self.statuses.get(status, 0) + 1
        is_refused = status >= 400
        self.succeeded += not is_refused
        told = f"{case.as_curl_command()}\n  {status} {response.content[:300]!r}"
        if status >= 500 and not self._fuzzed.is_documented(self._path, status):
            self.broken.append(told)
        before, self._state = self._state, self._fuzzed.state()
        if is_refused and before != self._state:
            self.broken.append(f"{told}\n  changed {before} to {self._state}")


@st.composite
def cases(draw: st.DrawFn, fuzzed: Fuzzed, operation: Any, mode: GenerationMode) -> Any:
    """A request by the document; most are aimed at what exists, and the allowed ones given bodies that fit it."""
    case = draw(operation.as_strategy(generation_mode=mode))
    name = operation.definition.raw["operationId"]
    if draw(st.integers(0, 4)):
        fuzzed.aim(case, name)
    if mode is GenerationMode.POSITIVE:
        case.body = draw(fuzzed.bodies(name, case.body))
    return case


def fuzz(fuzzed: Fuzzed, operation: Any, mode: GenerationMode, examples: int) -> Sent:
    """Send so many requests to one operation and return what became of them."""
    sent = Sent(fuzzed, operation)

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases(fuzzed, operation, mode))
    def send(case: Any) -> None:
        sent.send(case)

    try:
        send()
    except Exception as error:
        # An operation without parameters cannot be broken; anything else is told.
        if type(error).__name__ not in ("Unsatisfiable", "SkipTest"):
            raise
    return sent


def fuzz_allowed(fuzzed: Fuzzed, examples: int, never: Collection[str]) -> list[Sent]:
    """Send requests that the document allows to every operation; more of them where none succeeded by chance."""
    everything: list[Sent] = []
    for operation in fuzzed.operations:
        sent = fuzz(fuzzed, operation, GenerationMode.POSITIVE, examples)
        if not sent.succeeded and sent.name not in never:
            fuzzed.refill()
            sent = fuzz(fuzzed, operation, GenerationMode.POSITIVE, 8 * examples)
        everything.append(sent)
        fuzzed.refill()
    return everything


def fuzz_refused(fuzzed: Fuzzed, examples: int) -> list[Sent]:
    """Send requests that break the document to every operation."""
    everything: list[Sent] = []
    for operation in fuzzed.operations:
        everything.append(fuzz(fuzzed, operation, GenerationMode.NEGATIVE, examples))
        fuzzed.refill()
    return everything
