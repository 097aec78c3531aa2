"""Random histories on both servers: after every step the answers are equal, and at the end everything that can be read.

The short forms take the same few histories each time, so that a failure is a change of ours and no luck. The long ones
(``-m long``) take new ones: ``PROTOCOL_EXAMPLES`` and ``PROTOCOL_STEPS`` set their size, ``--hypothesis-seed`` repeats
them, and a failing history is shrunk, which takes minutes on real servers. Each form prints a line that replays it.

The reference panics now and then and drops the connection. That history ends there, with a warning that names the
request, and the reference is started again.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import threading
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.protocol import by_value, generated
from tests.protocol.comparing import Answer, without_cut_ties
from tests.protocol.conftest import only_ours
from tests.protocol.sides import API, ReferenceDropped, Server, Side, Sides, compared, told, without_words
from vectorpool.engine.filters import has_empty_join

EXAMPLES, STEPS = int(os.environ.get("PROTOCOL_EXAMPLES", "500")), int(os.environ.get("PROTOCOL_STEPS", "60"))
NAMES = ["alpha", "beta", "gamma"]
EVERYTHING = ["documents", "embeddings", "metadatas", "uris"]
# Most histories are about the first collection, so that its records become many.
chosen = st.sampled_from(["alpha"] * 6 + ["beta", "beta", "gamma"])
# The paths of the requests in which filters on numbers differed on purpose.
DIFFERED: list[str] = []
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
        {"s": "", "b": True, "l": [], "any": ["x"], "ключ": 2, "f": 1733262915.8748221, "n": 2**63 - 1},
    ],
    "uris": ["u:a", None, None, "", None, "u:🎄"],
}


def agreed(sides: Sides, method: str, path: str, body: Any, places: dict[str, str]) -> Any:
    """Send a request to both, assert that the answers are one, and return the reference's body.

    Open are the words of a refusal, and of a query which of several records at one distance still fit. Where a filter
    on numbers differs on purpose, the reference is asked for the records that ours must find.
    """
    reference, ours = _both(sides, method, path, body, places)
    if told_earlier(reference, ours):
        return reference.body
    pair = [without_words(each) for each in (reference, ours)]
    if path.endswith("/query"):
        pair = [without_cut_ties(each, body.get("n_results", 10)) for each in pair]
    found = compared(method, path, *pair)
    assert not found, told(method, path, body, found)
    return reference.body


def _both(sides: Sides, method: str, path: str, body: Any, places: dict[str, str]) -> tuple[Answer, Answer]:
    try:
        meant = by_value.for_reference(sides, path, body, places)
    except httpx.TransportError as error:
        raise ReferenceDropped(told(method, path, body, [repr(error)])) from error
    if meant is None:
        return sides.send(method, path, body, places=places)
    DIFFERED.append(path)
    try:
        return by_value.post(sides.reference, path, meant, places), by_value.post(sides.ours, path, body, places)
    except httpx.TransportError as error:
        raise ReferenceDropped(told(method, path, meant, [repr(error)])) from error


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
            self.change("alpha", verb, body)

    def same(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request to both and return the answer, which must be one but for the words of a refusal."""
        try:
            return agreed(self.sides, method, path, body, self.places)
        except ReferenceDropped as error:
            del self.places
            said = self.sides.restart_reference()
            warnings.warn(f"a history ended early, the reference dropped a connection: {error}\n{said}", stacklevel=2)
            raise UnsatisfiedAssumption from error

    def change(self, name: str, verb: str, body: dict[str, Any]) -> None:
        """Send a write, but no embeddings for records to update that are not there.

        A backfill that finds nothing new makes the reference forget how far it is, and the next one applies its queue
        again: an update that had no effect then has one on the record of that id which was added since.
        """
        ids = body.get("ids")
        if verb == "update" and body.get("embeddings") and ids:
            there = self.same("POST", f"<{name}>/get", {"ids": ids, "include": []})
            if isinstance(there, dict) and not set(ids) <= set(there.get("ids", ())):
                return
        self.same("POST", f"<{name}>/{verb}", body)

    def empty(self, name: str) -> None:
        """Delete a collection's records, without which the reference hands their arrays to later ones."""
        self.same("POST", f"<{name}>/delete", {"ids": generated.IDS})

    @rule(name=chosen, requests=st.lists(generated.writes(), min_size=1, max_size=3))
    def write(self, name: str, requests: list[tuple[str, dict[str, Any]]]) -> None:
        for verb, body in requests:
            # A first write that is refused leaves the reference with a dimension, and ours as it was.
            if not generated.is_uneven(body) or self.same("GET", f"<B>/collections/{name}").get("dimension"):
                self.change(name, verb, body)

    @rule(name=chosen, body=generated.filters(), limit=generated.pages)
    def delete(self, name: str, body: dict[str, Any], limit: int | None) -> None:
        # A deletion whose filter joins no conditions is refused on purpose, see test_deliberate.
        assume(not has_empty_join(json.dumps(body.get("where"))))
        assume(not has_empty_join(json.dumps(body.get("where_document"))))
        self.same("POST", f"<{name}>/delete", {**body, **({} if limit is None else {"limit": limit})})
        self.same("POST", f"<{name}>/get", {"include": []})

    @rule(name=chosen, where=generated.crossed(), query=generated.queries(), limit=generated.pages)
    def numbers(self, name: str, where: dict[str, Any], query: dict[str, Any], limit: int | None) -> None:
        self.same("POST", f"<{name}>/get", {"where": where})
        self.same("POST", f"<{name}>/query", {**query, "where": where})
        self.same("POST", f"<{name}>/delete", {"where": where, **({} if limit is None else {"limit": limit})})
        self.same("POST", f"<{name}>/get", {"include": []})

    @rule(name=chosen, bodies=st.lists(generated.gets(), min_size=1, max_size=4))
    def get(self, name: str, bodies: list[dict[str, Any]]) -> None:
        for body in bodies:
            self.same("POST", f"<{name}>/get", body)
        self.same("GET", f"<{name}>/count")

    @rule(name=chosen, bodies=st.lists(generated.queries(), min_size=1, max_size=4))
    def query(self, name: str, bodies: list[dict[str, Any]]) -> None:
        for body in bodies:
            self.same("POST", f"<{name}>/query", body)

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


def _settings(examples: int, **more: Any) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        **more,
    )


# The same examples each time, and none of them shrunk.
SHORT: dict[str, Any] = {"derandomize": True, "phases": (Phase.generate,)}


def _run(sides: Sides, examples: int, steps: int, tenant: str, **more: Any) -> None:
    class Machine(History):
        pass

    Machine.sides, Machine.tenant, Machine.numbers = sides, tenant, itertools.count()
    run_state_machine_as_test(Machine, settings=_settings(examples, stateful_step_count=steps, **more))


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


filters = given(name=st.sampled_from(["queued", "synced"]), body=generated.gets(), query=generated.queries())


@filters
@_settings(200, **SHORT)
def test_filters(sides: Sides, stored: dict[str, str], name: str, body: dict[str, Any], query: dict[str, Any]) -> None:
    """Every filter finds the same records on both servers, whether they wait in the queue or not."""
    agreed(sides, "POST", f"<{name}>/get", body, stored)
    agreed(sides, "POST", f"<{name}>/query", query, stored)


NUMBERS: list[dict[str, Any]] = [
    {"n": 2.5},
    {"n": {"$ne": 2.5}},
    {"n": {"$gte": 1.5}},
    {"n": {"$lt": 1.5}},
    {"n": {"$in": [1.5, 1e308]}},
    {"n": {"$nin": [1.5, -3.5]}},
    {"f": {"$gt": 1733262915.8748221}},
    {"$and": [{"n": {"$gt": 0.5}}, {"$or": [{"any": 1.5}, {"#document": {"$contains": "e"}}]}]},
]


@only_ours
@pytest.mark.parametrize("name", ["queued", "synced"])
def test_numbers(sides: Sides, stored: dict[str, str], name: str) -> None:
    """Filters that compare numbers by value find, ask and delete the records of the model, and nothing else differs."""
    DIFFERED.clear()
    for where in NUMBERS:
        for more in ({}, {"limit": 2, "offset": 1, "include": EVERYTHING}, {"ids": ["a", "b", "ключ", "missing"]}):
            agreed(sides, "POST", f"<{name}>/get", {"where": where, **more}, stored)
        for more in ({}, {"ids": ["a", "b", "ключ"]}, {"n_results": 1, "include": ["distances", "embeddings"]}):
            body = {"query_embeddings": [[1, 2, 3], [0, 1, 0]], "where": where, "include": ["distances"], **more}
            agreed(sides, "POST", f"<{name}>/query", body, stored)
        for limit in (1, None):
            agreed(sides, "POST", f"<{name}>/delete", {"where": where, "limit": limit}, stored)
            agreed(sides, "POST", f"<{name}>/get", {"include": EVERYTHING}, stored)
        agreed(sides, "POST", f"<{name}>/add", STORED, stored)
    differed = [path.rpartition("/")[2] for path in DIFFERED]
    assert all(differed.count(verb) >= len(NUMBERS) // 2 for verb in ("get", "query", "delete")), differed


@pytest.mark.long
@filters
@_settings(EXAMPLES)
def test_many_filters(
    sides: Sides, stored: dict[str, str], name: str, body: dict[str, Any], query: dict[str, Any]
) -> None:
    """Every one of many more filters finds the same records on both servers."""
    agreed(sides, "POST", f"<{name}>/get", body, stored)
    agreed(sides, "POST", f"<{name}>/query", query, stored)


def test_histories(sides: Sides) -> None:
    """Both servers answer every step of some short random histories alike."""
    _run(sides, 10, 15, "short", **SHORT)


@pytest.mark.long
@pytest.mark.timeout(0)
def test_many_histories(sides: Sides) -> None:
    """Both servers answer every step of many long random histories alike."""
    _run(sides, EXAMPLES, STEPS, "long")


# --- What the comparison must notice -----------------------------------------------------------------


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
        _run(broken, 10, 10, "forgetful", **SHORT)


@pytest.fixture
def deaf() -> Iterator[str]:
    """The address of a server that closes every connection without an answer."""

    def close_all() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=close_all)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_connection_that_ours_drops_is_told(sides: Sides, ours: Server, deaf: str) -> None:
    """A request that ours leaves without an answer fails, with the request and what the reference answered."""
    broken = Sides(sides.reference.server, ours)
    with httpx.Client(base_url=deaf) as client:
        broken.ours.server = SimpleNamespace(client=client, url=deaf, errors="")
        with pytest.raises(AssertionError, match=r"POST .*/tenants .*\n.* answered 4.., ours dropped the connection"):
            broken.send("POST", f"{API}/tenants", {"name": "x"})


@only_ours
def test_histories_go_on_after_a_panic_of_the_reference(sides: Sides) -> None:
    """A history in which the reference panics ends with a warning that names the request; the next one is compared."""
    history = History()
    history.sides, history.tenant, history.numbers = sides, "panicking", itertools.count()
    history.begin(configuration={}, seed=[])
    with (
        pytest.warns(UserWarning, match=r'(?s)"metadata":\{"k":\[1,2\]\}.*panicked'),
        pytest.raises(UnsatisfiedAssumption),
    ):
        history.same("POST", "<B>/collections", {"name": "listed", "metadata": {"k": [1, 2]}})
    history.teardown()
    history.begin(configuration={}, seed=[])
    assert len(history.same("POST", "<alpha>/get", {})["ids"]) == len(STORED["ids"])
    history.teardown()
