"""The pool against a dictionary: whatever happens to slots, two instances answer as one dictionary would."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from vectorpool.commands import (
    Command,
    CountRecords,
    CreateCollection,
    DeleteRecords,
    DeleteVectorstore,
    Evict,
    Flush,
    GetRecords,
    Hydrate,
    UpsertRecords,
    Vectors,
)
from vectorpool.errors import UserNotFound, VectorpoolError
from vectorpool.objects.memory import MemoryBucket
from vectorpool.pool.pool import Pool
from vectorpool.pool.stores import StoreFactory
from vectorpool.settings import Settings

USERS = st.sampled_from(["42", "anna@example.org", "Ünï cøde", "x"])
IDS = st.lists(st.sampled_from([f"r{n}" for n in range(12)]), min_size=1, max_size=6, unique=True)
INSTANCES = st.integers(0, 1)


class PoolAgainstDictionary(RuleBasedStateMachine):
    """Two pools of two slots on one bucket, four users, and the dictionary that says what they hold."""

    @initialize(durability=st.sampled_from(["write-through", "write-back"]))
    def open(self, durability: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.root = Path(tempfile.mkdtemp())
        self.bucket = MemoryBucket()
        self.durability = durability
        self.model: dict[str, dict[str, str]] = {}
        self.version = 0
        # Under write-back another instance sees a write after the next commit: one instance keeps the model exact.
        self.instances = 2 if durability == "write-through" else 1
        self.pools = [self._make(n) for n in range(self.instances)]

    def _make(self, number: int) -> Pool:
        options = Settings(
            replica_dir=str(self.root / str(number)),
            durability=self.durability,  # type: ignore[arg-type]
            open_slots=2,
            compact_fanout=2,
            workers=2,
        )

        async def make() -> Pool:
            pool = Pool(StoreFactory(self.bucket, options), options)
            await pool.start()
            return pool

        return self.loop.run_until_complete(make())

    def _do(self, instance: int, user: str, command: Command) -> Any:
        answer = self.loop.run_until_complete(self.pools[instance % self.instances].execute(user, command))
        return json.loads(answer.body)

    @rule(instance=INSTANCES, user=USERS, ids=IDS)
    def upsert(self, instance: int, user: str, ids: list[str]) -> None:
        if user not in self.model:
            self._do(instance, user, CreateCollection(name="memories", get_or_create=True))
        self.version += 1
        text = f"version {self.version}"
        vectors = Vectors(dimension=4, data=np.full((len(ids), 4), self.version, "<f4").tobytes())
        command = UpsertRecords(collection="memories", ids=ids, vectors=vectors, documents=[text] * len(ids))
        assert self._do(instance, user, command) == {"written": len(ids)}
        self.model.setdefault(user, {}).update(dict.fromkeys(ids, text))

    @rule(instance=INSTANCES, user=USERS, ids=IDS)
    def delete(self, instance: int, user: str, ids: list[str]) -> None:
        if user in self.model:
            expected = len(self.model[user].keys() & set(ids))
            answer = self._do(instance, user, DeleteRecords(collection="memories", ids=ids))
            assert answer == {"deleted": expected}
            for record_id in ids:
                self.model[user].pop(record_id, None)

    @rule(instance=INSTANCES, user=USERS)
    def read(self, instance: int, user: str) -> None:
        try:
            answer = self._do(instance, user, GetRecords(collection="memories"))
        except UserNotFound:
            assert user not in self.model
        else:
            assert {r["id"]: r["document"] for r in answer["records"]} == self.model[user]

    @rule(instance=INSTANCES, user=USERS)
    def a_refused_write_changes_nothing(self, instance: int, user: str) -> None:
        vectors = Vectors(dimension=5, data=bytes(20))
        try:
            self._do(instance, user, UpsertRecords(collection="memories", ids=["bad"], vectors=vectors))
        except VectorpoolError as error:
            assert error.status < 500
        else:
            # An emptied collection keeps its dimension; only one that never held a record takes any.
            raise AssertionError("a wrong dimension was taken")

    @rule(instance=INSTANCES, user=USERS, operation=st.sampled_from([Evict(), Flush(), Hydrate()]))
    def operate(self, instance: int, user: str, operation: Command) -> None:
        try:
            self._do(instance, user, operation)
        except UserNotFound:
            assert user not in self.model

    @rule(instance=INSTANCES, user=USERS)
    def delete_vectorstore(self, instance: int, user: str) -> None:
        try:
            self._do(instance, user, DeleteVectorstore())
        except UserNotFound:
            assert user not in self.model
        self.model.pop(user, None)

    @rule(instance=INSTANCES)
    def restart(self, instance: int) -> None:
        number = instance % self.instances
        report = self.loop.run_until_complete(self.pools[number].drain(30))
        assert (report.unfinished, report.uncommitted) == (0, [])
        self.pools[number] = self._make(number)

    @rule(instance=INSTANCES)
    def everybody_at_once(self, instance: int) -> None:
        async def count(user: str) -> int:
            answer = await self.pools[instance % self.instances].execute(user, CountRecords(collection="memories"))
            return int(json.loads(answer.body)["count"])

        async def all_of_them() -> list[int]:
            return await asyncio.gather(*(count(user) for user in self.model for _ in range(3)))

        expected = [len(records) for records in self.model.values() for _ in range(3)]
        assert self.loop.run_until_complete(all_of_them()) == expected

    @invariant()
    def bounds_hold(self) -> None:
        for pool in getattr(self, "pools", []):
            view = pool.view()
            assert view.open_slots <= 2
            assert sum(slot.state in ("ready", "committing") for slot in view.slots) <= 2

    def teardown(self) -> None:
        if hasattr(self, "pools"):
            for pool in self.pools:
                self.loop.run_until_complete(pool.drain(30))
            self.loop.close()
            shutil.rmtree(self.root)


PoolAgainstDictionary.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestPoolAgainstDictionary = PoolAgainstDictionary.TestCase
