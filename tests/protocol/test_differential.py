"""Random histories on both servers: after every step the answers are equal, and at the end everything that can be read.

``PROTOCOL_EXAMPLES`` and ``PROTOCOL_STEPS`` set the size of the long form (``-m long``), which also shrinks a failing
history; that takes minutes on real servers. Either form prints the history with a line that replays it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.protocol import generated
from tests.protocol.comparing import Answer, without_cut_ties
from tests.protocol.sides import API, Server, Side, Sides, compared, told, without_words

NAMES = ["alpha", "beta", "gamma"]
EVERYTHING = ["documents", "embeddings", "metadatas", "uris"]
# Most histories are about the first collection, so that its records become many.
chosen = st.sampled_from(["alpha"] * 6 + ["beta", "beta", "gamma"])
# Something of every kind, so that the first filters have what to find.
STORED = {
    "ids": ["a", "b", "c", "d", "e", "ключ"],
    "embeddings": [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.25, -1.5], [1, 0, 0], [-2, 0.125, 0.5]],
    "documents": ["red apple", "green Äpfel 100%", None, "", "Red 漢字かな a_b", '"quoted" 🎄 back\\slash'],
    "metadatas": [
        {"n": 1, "s": "x", "f": 0.5, "b": True, "l": ["x", "y"], "any": 1},
        {"n": 2, "s": "y", "f": 2.0, "b": False, "l": [1, 2], "any": 1.0},
        None,
        {"n": -3, "s": "значение", "l": [True], "any": True, "ключ": "x"},
        {"n": 2**53 + 1, "f": 1 / 3, "l": [0.5, 1.0], "any": "x"},
        {"s": "", "b": True, "l": [], "any": ["x"], "ключ": 2},
    ],
    "uris": ["u:a", None, None, "", None, "u:🎄"],
}


def asked(sides: Sides, path: str, body: dict[str, Any], places: dict[str, str]) -> None:
    """Send one query to both, and assert that the answers are equal but for what is open where distances tie."""
    answers = sides.send("POST", path, body, places=places)
    if told_earlier(*answers):
        return
    reference, ours = (without_cut_ties(answer, body.get("n_results", 10)) for answer in answers)
    found = compared("POST", path, reference, ours)
    assert not found, told("POST", path, body, found)


def told_earlier(reference: Answer, ours: Answer) -> bool:
    """Whether ours tells of a body's own fault what the reference tells of a collection that is not there.

    Of two faults in one request either may be told; ``test_deliberate`` says why ours comes first.
    """
    if (reference.status, ours.status) != (404, 400):
        return False
    faults = ("Inconsistent dimensions", "Inconsistent number of IDs", "Validation error: embeddings", "Empty ID")
    return bool(ours.body["message"].startswith(faults))


class History(RuleBasedStateMachine):
    """One history in a database of its own."""

    sides: Sides
    numbers: Iterator[int]
    tenant: str

    @initialize(configuration=generated.configurations(), seed=st.lists(generated.writes(odd=False), max_size=4))
    def begin(self, configuration: dict[str, Any], seed: list[tuple[str, dict[str, Any]]]) -> None:
        tenant = f"{API}/tenants/{self.tenant}"
        number = next(self.numbers)
        self.places = {"T": tenant, "B": f"{tenant}/databases/number-{number}"}
        if number == 0:
            self.same("POST", f"{API}/tenants", {"name": self.tenant})
        self.same("POST", "<T>/databases", {"name": f"number-{number}"})
        self.same("POST", "<B>/collections", {"name": "alpha", "configuration": configuration})
        self.same("POST", "<B>/collections", {"name": "beta"})
        self.same("POST", "<alpha>/add", STORED)
        for verb, body in seed:
            self.same("POST", f"<alpha>/{verb}", body)

    def same(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request to both and return the answer, which must be one but for the words of a refusal."""
        reference, ours = (without_words(each) for each in self.sides.send(method, path, body, places=self.places))
        found = compared(method, path, reference, ours)
        assert not found, told(method, path, body, found)
        return reference.body

    def empty(self, name: str) -> None:
        """Delete a collection's records, without which the reference hands their arrays to later ones."""
        self.same("POST", f"<{name}>/delete", {"ids": generated.IDS})

    @rule(name=chosen, requests=st.lists(generated.writes(), min_size=1, max_size=3))
    def write(self, name: str, requests: list[tuple[str, dict[str, Any]]]) -> None:
        for verb, body in requests:
            path = f"<{name}>/{verb}"
            reference, ours = self.sides.send("POST", path, body, places=self.places)
            found = [] if told_earlier(reference, ours) else compared("POST", path, reference, ours)
            assert not found, told("POST", path, body, found)

    @rule(name=chosen, body=generated.filters(), limit=generated.pages)
    def delete(self, name: str, body: dict[str, Any], limit: int | None) -> None:
        self.same("POST", f"<{name}>/delete", {**body, **({} if limit is None else {"limit": limit})})
        self.same("POST", f"<{name}>/get", {"include": []})

    @rule(name=chosen, bodies=st.lists(generated.gets(), min_size=1, max_size=4))
    def get(self, name: str, bodies: list[dict[str, Any]]) -> None:
        for body in bodies:
            self.same("POST", f"<{name}>/get", body)
        self.same("GET", f"<{name}>/count")

    @rule(name=chosen, bodies=st.lists(generated.queries(), min_size=1, max_size=4))
    def query(self, name: str, bodies: list[dict[str, Any]]) -> None:
        for body in bodies:
            asked(self.sides, f"<{name}>/query", body, self.places)

    @rule(name=chosen, request=generated.collection_requests())
    def collection(self, name: str, request: tuple[str, dict[str, Any] | None]) -> None:
        match request:
            case ("POST", body):
                self.same("POST", "<B>/collections", {"name": name, **(body or {})})
            case ("PUT", body):
                self.same("PUT", f"<{name}>", body)
            case ("DELETE", _):
                self.empty(name)
                self.same("DELETE", f"<B>/collections/{name}")
        self.same("GET", f"<B>/collections/{name}")
        self.same("GET", "<B>/collections_count")

    # --- The end -------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "places"):
            return
        self.same("GET", "<B>/collections")
        for name in NAMES:
            self.same("GET", f"<B>/collections/{name}")
            self.same("GET", f"<{name}>/count")
            self.same("POST", f"<{name}>/get", {"include": EVERYTHING})
            self.same("POST", f"<{name}>/query", {"query_embeddings": [[1, 2, 3]], "n_results": 100})
            self.empty(name)
        self.same("DELETE", "<B>")


def _run(sides: Sides, examples: int, steps: int, tenant: str, phases: Sequence[Phase] = tuple(Phase)) -> None:
    class Machine(History):
        pass

    Machine.sides, Machine.tenant, Machine.numbers = sides, tenant, itertools.count()
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            print_blob=True,
            phases=phases,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture(scope="module")
def stored(sides: Sides) -> dict[str, str]:
    """A database with the stored records in two collections: in the queue of one, in the HNSW files of the other."""
    places = {"T": f"{API}/tenants/stored", "B": f"{API}/tenants/stored/databases/shelf"}
    sides.same("POST", f"{API}/tenants", {"name": "stored"})
    sides.same("POST", "<T>/databases", {"name": "shelf"}, places=places)
    for name, threshold in (("queued", 1000), ("synced", 2)):
        body = {"name": name, "configuration": {"hnsw": {"sync_threshold": threshold, "batch_size": threshold}}}
        sides.same("POST", "<B>/collections", body, places=places)
        sides.same("POST", f"<{name}>/add", STORED, places=places)
    return places


@pytest.mark.long
@given(name=st.sampled_from(["queued", "synced"]), body=generated.gets(), query=generated.queries())
@settings(max_examples=300, deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck))
def test_filters(sides: Sides, stored: dict[str, str], name: str, body: dict[str, Any], query: dict[str, Any]) -> None:
    """Every filter finds the same records on both servers, whether they wait in the queue or not."""
    sides.same("POST", f"<{name}>/get", body, places=stored)
    asked(sides, f"<{name}>/query", query, stored)


@pytest.mark.long
def test_histories(sides: Sides) -> None:
    """Both servers answer every step of some short random histories alike."""
    _run(sides, 40, 25, "short", (Phase.generate,))


class _Forgetful(Side):
    """A side whose gets lose the last record they found, as a server might."""

    def send(self, method: str, path: str, *rest: Any) -> Answer:
        answer = super().send(method, path, *rest)
        if path.endswith("/get") and answer.status == 200 and len(answer.body["ids"]) > 5:
            return msgspec.structs.replace(answer, body={**answer.body, "ids": answer.body["ids"][:-1]})
        return answer


def test_histories_notice_a_lost_record(reference: Server, ours: Server) -> None:
    """A server that forgets one record in its answers is found out, and the step that shows it is told."""
    broken = Sides(reference, ours)
    broken.ours = _Forgetful(ours)
    with pytest.raises(AssertionError, match=r"/get .*\n.*ids: reference \d+ items"):
        _run(broken, 10, 10, "forgetful", (Phase.generate,))


@pytest.mark.long
@pytest.mark.timeout(0)
def test_many_histories(sides: Sides) -> None:
    """Both servers answer every step of many long random histories alike."""
    _run(sides, int(os.environ.get("PROTOCOL_EXAMPLES", "500")), int(os.environ.get("PROTOCOL_STEPS", "60")), "long")
