"""Clients: they write and read through any instance, and check each answer against the promises made before."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import msgspec

from tests.simulation.instance import Instance
from tests.simulation.ledger import Truth
from tests.simulation.replica import POISON, decode_seen
from vectorpool.commands import AddRecords, DeleteRecords, Evict, Flush, GetRecords, ReadOptions, UpsertRecords, Write
from vectorpool.context import AS_SET, RequestContext
from vectorpool.errors import Damaged, InternalError, OutcomeUnknown, RecordExists, UserNotFound, VectorpoolError

if TYPE_CHECKING:
    from tests.simulation.world import World

PATIENCE_S = 30.0
NIGHT_S = 10_000.0
NIGHTS = 0.03
# The share of requests with a deadline.
HURRIED = 0.1
RECORDS = 5
ALL = GetRecords(collection="c")


class Client:
    """One client: its requests come one after the other, unless one takes longer than the client waits."""

    def __init__(self, world: World, name: str, hurried: float = HURRIED) -> None:
        self._hurried = hurried
        self._world = world
        self._name = name
        self._dice = random.Random(world.dice.getrandbits(64))
        # The newest commit that an answer carried, for each user: later reads require it.
        self._commits: dict[str, int] = {}

    async def live(self, actions: int) -> None:
        """Send ``actions`` requests."""
        for _ in range(actions):
            world, dice = self._world, self._dice
            # A night passes at random, so that commits become old.
            await asyncio.sleep(NIGHT_S if dice.random() < NIGHTS else dice.expovariate(1 / world.plan.pause_s))
            instance, user = dice.choice(world.instances), dice.choice(world.users)
            what = dice.random()
            work: tuple[Any, ...]
            if what < 0.60:
                work = self._write, instance, user, self._draw_write(instance)
            elif what < 0.85:
                work = self.read, instance, user
            elif what < 0.90:
                work = self._read_own, instance, user
            else:
                work = self._operate, instance, user, Evict() if what < 0.96 else Flush()
            await asyncio.wait([world.serve(instance, *work)], timeout=PATIENCE_S)

    async def poll(self, instance_name: str, reads: int) -> None:
        """Read strongly through one instance again and again, without waiting for the answers."""
        for _ in range(reads):
            world = self._world
            await asyncio.sleep(self._dice.expovariate(1 / world.plan.faults.latency_s))
            instance = next(i for i in world.instances if i.name == instance_name)
            world.serve(instance, self.read, instance, self._dice.choice(world.users))

    def _draw_write(self, instance: Instance) -> Write:
        dice, token = self._dice, f"t{next(self._world.tokens)}"
        record, kind = f"r{dice.randrange(RECORDS)}", dice.random()
        if kind < 0.25:
            return AddRecords(collection="c", ids=[record], documents=[token])
        if kind < 0.40:
            return DeleteRecords(collection="c", ids=[record], where={"token": token})
        if kind < 0.44 and not instance.writes_back:
            record = POISON
        return UpsertRecords(collection="c", ids=[record], documents=[token])

    def _context(self, instance: Instance, options: ReadOptions | None = None) -> RequestContext:
        """Return the context of a request; some have a deadline, which may pass at any step."""
        hurried = self._dice.random() < self._hurried
        timeout_s = self._dice.expovariate(1 / (10 * self._world.plan.faults.latency_s)) if hurried else None
        context = RequestContext(read=options or AS_SET, timeout_s=timeout_s, sources=instance.sources)
        context.start()
        return context

    # --- Writes --------------------------------------------------------------------------------------

    async def _write(self, instance: Instance, user: str, command: Write) -> None:
        world, truth = self._world, self._world.ledger.truth(user)
        assert isinstance(command, AddRecords | UpsertRecords | DeleteRecords) and command.ids is not None
        what, record = type(command).__name__.removesuffix("Records").lower(), command.ids[0]
        token = command.where["token"] if isinstance(command, DeleteRecords) else command.documents[0]
        story = f"{self._name} {what} {record} of {user} as {token} at {instance.name}"
        world.note(story)
        floor, since = truth.acknowledged, truth.seq
        context = self._context(instance)
        try:
            answer = await instance.pool.execute(user, command, context)
        except OutcomeUnknown:
            world.note(f"{story}: outcome unknown")
            if context.remaining_s() != 0.0:
                # After its deadline a write may still be committed: the instance's own readers may see it.
                truth.doubtful.add(token)
            return
        except VectorpoolError as error:
            world.note(f"{story}: refused, {error.code}")
            self._check_refusal(instance, story, truth, token, record, since, error)
            return
        world.note(f"{story}: acknowledged in commit {answer.commit}")
        if isinstance(command, DeleteRecords) and not msgspec.json.decode(answer.body)["deleted"]:
            if not instance.writes_back and not truth.was(record, present=False, since=since):
                world.violated(f"{story}: told that the record is not there, and it was there all the time")
            return
        if instance.writes_back:
            if isinstance(command, UpsertRecords):
                world.promises.append((instance, user, token))
            return
        seq = truth.seq_of(token)
        if seq is None:
            world.violated(f"{story}: acknowledged, and not in the log")
            return
        if seq != answer.commit:
            world.violated(f"{story}: acknowledged as commit {answer.commit}, and it is in commit {seq}")
        if truth.places[token] < floor:
            world.violated(f"{story}: stands before a write that was acknowledged before it began")
        truth.acknowledge(token)
        self._commits[user] = max(answer.commit, self._commits.get(user, 0))

    def _check_refusal(
        self, instance: Instance, story: str, truth: Truth, token: str, record: str, since: int, error: VectorpoolError
    ) -> None:
        if token in truth.places:
            self._world.violated(f"{story}: refused with {error.code}, and it is in the log")
        truth.refused.add(token)
        says_present = isinstance(error, RecordExists) or error.extra.get("cause") == RecordExists.code
        if says_present and not instance.writes_back and not truth.was(record, present=True, since=since):
            self._world.violated(f"{story}: told that the record exists, and it was never there meanwhile")
        self._check_error(story, error)

    def _check_error(self, story: str, error: VectorpoolError) -> None:
        damage = isinstance(error, Damaged) and error.code != "broken-replica"
        if isinstance(error, InternalError) or (damage and not self._world.plan.faults.truncated):
            self._world.violated(f"{story}: {error.code}, {error.detail}")

    # --- Reads ---------------------------------------------------------------------------------------

    async def read(self, instance: Instance, user: str) -> int | None:
        """Read everything, strongly; return how many writes were seen, or None if there was no answer."""
        truth = self._world.ledger.truth(user)
        return await self._read(instance, user, None, truth.acknowledged, "strongly")

    async def _read_own(self, instance: Instance, user: str) -> None:
        least = self._commits.get(user, 0)
        floor = self._world.ledger.truth(user).lengths[least]
        await self._read(
            instance, user, ReadOptions(consistency="local", min_commit=least), floor, f"from commit {least}"
        )

    async def _read(
        self, instance: Instance, user: str, options: ReadOptions | None, floor: int, how: str
    ) -> int | None:
        world, truth = self._world, self._world.ledger.truth(user)
        story = f"{self._name} reads {user} {how} at {instance.name}"
        refused, doubtful = set(truth.refused), set(truth.doubtful)
        world.note(story)
        try:
            answer = await instance.pool.execute(user, ALL, self._context(instance, options))
        except UserNotFound:
            world.note(f"{story}: nothing there")
            if floor:
                world.violated(f"{story}: nothing there, but {floor} writes had been promised")
            return 0
        except VectorpoolError as error:
            world.note(f"{story}: {error.code}")
            if error.code == "commit-not-reached":
                world.violated(f"{story}: {error.detail}")
            self._check_error(story, error)
            return None
        seen = decode_seen(answer.body).tokens
        world.note(f"{story}: {len(seen)} writes, commit {answer.commit}")
        if answer.commit > truth.seq:
            world.violated(f"{story}: it carries commit {answer.commit}, which does not exist")
            return None
        count = truth.lengths[answer.commit]
        if seen[:count] != [line.token for line in truth.lines[:count]]:
            world.violated(f"{story}: what it shows is not what commit {answer.commit} holds")
        if count < floor:
            world.violated(f"{story}: stale, {count} writes where {floor} had been promised before it began")
        if ghosts := refused.intersection(seen):
            world.violated(f"{story}: it shows {sorted(ghosts)}, refused before it began")
        if options is None and (ghosts := doubtful.intersection(seen[count:])):
            world.violated(
                f"{story}: it shows {sorted(ghosts)}, whose outcome was unknown before it began, and still is"
            )
        return len(seen)

    # --- Operations ----------------------------------------------------------------------------------

    async def _operate(self, instance: Instance, user: str, command: Evict | Flush) -> None:
        story = f"{self._name} {type(command).__name__.lower()}s {user} at {instance.name}"
        self._world.note(story)
        try:
            await instance.pool.execute(user, command)
        except VectorpoolError as error:
            self._world.note(f"{story}: {error.code}")
            self._check_error(story, error)
