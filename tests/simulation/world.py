"""A world: instances, clients that write and read through any of them, and faults; all from one seed.

Everything between a client's request and the bytes in the store is the real code: pool, slots, vectorstores, commit
logs. Clients check each answer when it arrives; the ledger checks each effect on the store; at the end, when all
faults are over and every late request has landed, a new instance reads everything.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from tests.simulation.clients import NIGHT_S, Client
from tests.simulation.instance import Instance
from tests.simulation.ledger import Ledger
from tests.simulation.loop import Deadlock, Domain, VirtualLoop
from tests.simulation.network import Network, VirtualSources, Wire
from vectorpool.commands import Flush
from vectorpool.commitlog import compaction, plan
from vectorpool.commitlog.image import block_digests
from vectorpool.commitlog.outcomes import Position
from vectorpool.errors import Damaged, InternalError, VectorpoolError
from vectorpool.objects.faulty import Faults

HOUR_S = 3600.0
RETENTION_S = 2 * HOUR_S
# Short against a history, so that erasures meet writes, other instances and faults.
ERASE_AFTER_S = 60.0
# Compactions and garbage removals in one history, in addition to those of the pools.
ROUNDS = 8
POLLS = 12
_SCRATCH = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
_CALM = Faults()


class Violation(AssertionError):
    """A promise was broken. The seed and the trace show how."""


@dataclass
class Plan:
    """The parameters of a world, drawn from its seed."""

    users: int
    instances: int
    clients: int
    actions: int
    fanout: int
    write_back: bool
    faults: Faults
    pause_s: float
    freezes: list[int] = field(default_factory=list)
    kills: list[int] = field(default_factory=list)
    outages: int = 0
    pollers: int = 0
    compactors: int = 0
    removers: int = 0
    # The number of times that the store refuses an instance for a while. Not drawn, so that seeds keep their histories.
    revocations: int = 0

    @staticmethod
    def draw(dice: random.Random) -> Plan:
        """Draw a world. About a quarter is calm, so that failures without faults are found too."""
        harm = dice.choice([0.0, 0.04, 0.1, 0.2])
        latency_s = dice.choice([0.02, 0.2, 1.5])
        return Plan(
            users=dice.choice([1, 1, 2]),
            instances=dice.choice([2, 2, 3]),
            clients=dice.choice([2, 3, 4, 6]),
            actions=dice.randint(18, 32),
            fanout=dice.choice([2, 3, 4]),
            write_back=dice.random() < 0.2,
            faults=Faults(
                before=harm * dice.random(),
                throttled=harm * dice.random(),
                delayed=harm * dice.random(),
                after=harm * dice.random(),
                truncated=harm * dice.random() / 2,
                latency_s=latency_s,
                delay_s=dice.choice([1.0, 60.0, 3 * HOUR_S]),
            ),
            pause_s=latency_s * dice.choice([0.5, 2, 8]),
            freezes=[dice.randint(50, 4000) for _ in range(dice.choice([0, 1, 1, 2, 3]))],
            kills=[dice.randint(50, 4000) for _ in range(dice.choice([0, 0, 1, 2]))],
            outages=dice.choice([0, 0, 1]),
            pollers=dice.choice([0, 0, 0, 2]),
            compactors=dice.choice([0, 0, 1]),
            removers=dice.choice([0, 1, 1]),
        )


@contextmanager
def _small_bounds() -> Iterator[None]:
    """Lower the bounds of compaction, so that short histories have bases."""
    before = plan.SLACK_BYTES, compaction.SLACK_BYTES, plan.BASE_EVERY
    plan.SLACK_BYTES = compaction.SLACK_BYTES = 8 * 1024  # type: ignore[misc]
    plan.BASE_EVERY = 10  # type: ignore[misc]
    try:
        yield
    finally:
        plan.SLACK_BYTES, compaction.SLACK_BYTES, plan.BASE_EVERY = before  # type: ignore[misc]


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the log of what is injected on purpose out of the output."""
    log = logging.getLogger("vectorpool")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


def _left(instance: Instance) -> list[asyncio.Task[None]]:
    residency = instance.pool._residency
    writers = [slot.writer for slot in residency.slots.values() if slot.writer is not None]
    return [*writers, *residency._hydrates, *residency._evictions]


class World:
    """See the module. ``run`` once; ``violations`` lists the broken promises, ``trace`` all events."""

    def __init__(self, seed: int, **changes: Any) -> None:
        """Draw the world of a seed; ``changes`` replace parts of its plan."""
        self.seed = seed
        self.dice = random.Random(seed)
        self.plan = replace(Plan.draw(self.dice), **changes)
        self.loop = VirtualLoop(self.dice.getrandbits(32))
        self.trace: list[str] = []
        self.violations: list[str] = []
        sources = VirtualSources(self.loop, random.Random(self.dice.getrandbits(64)))
        self.network = Network(self.loop, sources)
        self.ledger = Ledger(sources, int(RETENTION_S * 1000), self.violated)
        self.ledger.log = self.note
        self.users = [f"u{at}" for at in range(self.plan.users)]
        self.instances: list[Instance] = []
        self.tokens = itertools.count(1)
        # Requests and background work under way, each with its instance.
        self.served: dict[asyncio.Task[None], Instance] = {}
        # Acknowledged writes of write-back instances, which hold while the instance runs: (instance, user, token).
        self.promises: list[tuple[Instance, str, str]] = []
        self._wires: list[Wire] = []
        self.steps = 0
        self._fingerprint = ""
        self._broken = asyncio.Event()
        self._scratch = Path()

    def note(self, line: str) -> None:
        """Write a line of the trace."""
        self.trace.append(f"{self.loop.time():12.3f} {line}")

    def violated(self, what: str) -> None:
        """Record a broken promise; the run ends."""
        self.note(f"VIOLATION: {what}")
        self.violations.append(what)
        self._broken.set()

    # --- The run -------------------------------------------------------------------------------------

    def run(self) -> World:
        """Run the whole history; raise Violation if a promise was broken."""
        self._scratch = Path(tempfile.mkdtemp(prefix="vectorpool-simulation-", dir=_SCRATCH))
        try:
            with _small_bounds(), _silence():
                try:
                    self.loop.run_until_complete(self._live())
                except Deadlock as error:
                    self.violated(f"the world stands still: {error}")
                finally:
                    self.steps = self.loop.steps
                    self._fingerprint = f"{self.loop.steps} {self.loop.digest}"
                    self._end()
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
        if self.violations:
            raise Violation(f"seed {self.seed}: {self.violations[0]}")
        return self

    def digest(self) -> str:
        """Return a hash of everything that happened."""
        return block_digests("\n".join([*self.trace, self._fingerprint]).encode())[:16].hex()

    async def _live(self) -> None:
        history = asyncio.create_task(self._history())
        broken = asyncio.create_task(self._broken.wait())
        await asyncio.wait([history, broken], return_when=asyncio.FIRST_COMPLETED)
        if history.done() and (error := history.exception()) is not None:
            raise error

    async def _history(self) -> None:
        for at in range(self.plan.instances):
            self.start(f"i{at}", write_back=self.plan.write_back and at == 0)
        self._plan_interrupts()
        clients = [Client(self, f"c{at}") for at in range(self.plan.clients)]
        share = -(-self.plan.actions // len(clients))
        polls = [Client(self, f"p{at}").poll(f"i{at % 2}", POLLS) for at in range(self.plan.pollers)]
        background = [
            *(asyncio.create_task(self._compactor()) for _ in range(self.plan.compactors)),
            *(asyncio.create_task(self._remover()) for _ in range(self.plan.removers)),
            *(asyncio.create_task(self._outage()) for _ in range(self.plan.outages)),
            *(asyncio.create_task(self._revocation()) for _ in range(self.plan.revocations)),
        ]
        await asyncio.gather(*(client.live(share) for client in clients), *polls)
        for task in background:
            task.cancel()
        await self._heal()
        await self._judge()

    def start(self, name: str, *, write_back: bool) -> None:
        """Start an instance; a killed one of that name is replaced, on the same machine."""
        self.instances = [instance for instance in self.instances if instance.name != name]
        machine = self._scratch / name
        if self.dice.random() < 0.5:
            shutil.rmtree(machine, ignore_errors=True)
        self.instances.append(
            Instance(
                name,
                machine,
                self.loop,
                self.network,
                self.ledger,
                self.plan.faults,
                self.dice,
                level=self.level_of(name),
                compact_fanout=self.plan.fanout,
                retention_s=RETENTION_S,
                erase_after_s=ERASE_AFTER_S,
                durability="write-back" if write_back else "write-through",
                open_slots=1 if self.dice.random() < 0.3 else 4,
                warm_bytes=0 if self.dice.random() < 0.5 else 2**20,
            )
        )
        self._wires.append(self.instances[-1].wire)

    def level_of(self, name: str) -> int:
        """Return the schema level of the engine of an instance that starts now; 0 for none."""
        return 0

    # --- Faults --------------------------------------------------------------------------------------

    def _plan_interrupts(self) -> None:
        start = self.loop.steps
        for step in self.plan.freezes:
            self.loop.interrupts[start + step] = self._freeze
        for step in self.plan.kills:
            self.loop.interrupts[start + step] = self._kill

    def _freeze(self, domain: Domain) -> None:
        """Freeze the instance that would run now, in the middle of its work."""
        instance = self._instance_of(domain)
        if instance is None:
            # The network or a client is at work: try at the next step.
            self.loop.interrupts[self.loop.steps + 1] = self._freeze
            return
        frozen_s = self.dice.choice([1.0, 60.0, 3 * HOUR_S])
        self.note(f"{instance.name} freezes for {frozen_s:.0f} s")
        domain.frozen_until_s = self.loop.time() + frozen_s

    def _kill(self, domain: Domain) -> None:
        """Kill the instance that would run now, and start another on its machine."""
        instance = self._instance_of(domain)
        if instance is None:
            self.loop.interrupts[self.loop.steps + 1] = self._kill
            return
        self.note(f"{instance.name} is killed and started again")
        domain.is_dead = True
        self.start(instance.name, write_back=instance.writes_back)

    def _instance_of(self, domain: Domain) -> Instance | None:
        return next((instance for instance in self.instances if instance.domain is domain), None)

    async def _outage(self) -> None:
        await asyncio.sleep(self.dice.random() * self.plan.pause_s * 10)
        hit = list(self.instances) if self.dice.random() < 0.5 else [self.dice.choice(self.instances)]
        length_s = self.dice.choice([1.0, 30.0, 600.0])
        self.note(f"no store for {', '.join(i.name for i in hit)} for {length_s:.0f} s")
        for instance in hit:
            instance.wire.faults = Faults(before=0.5, after=0.5)
        await asyncio.sleep(length_s)
        for instance in hit:
            instance.wire.faults = self.plan.faults

    async def _revocation(self) -> None:
        """The store refuses an instance for a while: only its writes, or all; each request, or some of them."""
        await self._wait_a_while()
        instance = self.dice.choice(self.instances)
        length_s = self.dice.choice([1.0, 30.0, 600.0])
        operations = frozenset({"create", "put", "delete"}) if self.dice.random() < 0.5 else None
        self.note(f"{instance.name} is refused by the store for {length_s:.0f} s")
        harm = self.dice.choice([0.0, 0.3])
        instance.wire.faults = msgspec.structs.replace(
            self.plan.faults,
            before=0.0,
            after=harm,
            delayed=harm,
            denied=self.dice.choice([0.5, 1.0]),
            operations=operations,
        )
        await asyncio.sleep(length_s)
        instance.wire.faults = self.plan.faults

    # --- Background work of instances ----------------------------------------------------------------

    async def _compactor(self) -> None:
        """Compact at random times, due or not, from a commit that may be old."""
        for _ in range(ROUNDS):
            await self._wait_a_while()
            instance, user = self.dice.choice(self.instances), self.dice.choice(self.users)
            truth = self.ledger.truth(user)
            if truth.seq:
                seq = self.dice.randint(max(1, truth.seq - 3), truth.seq)
                position = Position(seq, truth.hashes[seq])
                self.serve(
                    instance, self._in_background, instance, "compacts", instance.stores.log(user).compact, position
                )

    async def _remover(self) -> None:
        for _ in range(ROUNDS):
            await self._wait_a_while()
            instance, user = self.dice.choice(self.instances), self.dice.choice(self.users)
            self.serve(
                instance, self._in_background, instance, "removes garbage", instance.stores.log(user).remove_garbage
            )

    async def _wait_a_while(self) -> None:
        await asyncio.sleep(NIGHT_S if self.dice.random() < 0.2 else self.dice.random() * self.plan.pause_s * 10)

    async def _in_background(
        self, instance: Instance, what: str, work: Callable[..., Awaitable[Any]], *of: Any
    ) -> None:
        try:
            done = await work(*of)
        except VectorpoolError as error:
            self.note(f"{instance.name} {what}: {error.code}")
            if isinstance(error, Damaged) and not self.plan.faults.truncated:
                self.violated(f"{instance.name} {what}, and finds damage: {error.detail}")
            if isinstance(error, InternalError):
                self.violated(f"{instance.name} {what}, and fails: {error.detail}")
        else:
            self.note(f"{instance.name} {what}: {done}")

    def serve(self, instance: Instance, work: Callable[..., Awaitable[Any]], *of: Any) -> asyncio.Task[None]:
        """Do ``work`` inside an instance: it freezes and dies with it."""
        task = self.loop.create_task(self._guard(instance, work, *of), context=instance.domain.context)
        self.served[task] = instance
        task.add_done_callback(lambda done: self.served.pop(done, None), context=self.loop.world.context)
        return task

    async def _guard(self, instance: Instance, work: Callable[..., Awaitable[Any]], *of: Any) -> None:
        try:
            await work(*of)
        except Exception as error:
            self.violated(f"{instance.name} fails with {type(error).__name__}: {error}")

    # --- The end -------------------------------------------------------------------------------------

    async def _heal(self) -> None:
        """End all faults and freezes, and wait until nothing is under way any more."""
        self.note("all is healed")
        self.loop.interrupts.clear()
        for instance in self.instances:
            instance.wire.faults = _CALM
            instance.stores.heal()
            instance.domain.frozen_until_s = 0.0
        while working := [task for task, instance in self.served.items() if not instance.is_dead]:
            await asyncio.wait(working)
        # Work that continues after its caller's deadline ends too: writes, hydrates and evictions.
        while left := [task for instance in self.instances if not instance.is_dead for task in _left(instance)]:
            await asyncio.wait(left)
        while self.network.under_way:
            await self.network.settle()
            for wire in self._wires:
                await wire.settle()

    async def _judge(self) -> None:
        """Read everything through every instance and through a new one, and check the whole log."""
        for instance in self.instances:
            if instance.writes_back:
                for user in self.users:
                    await self.serve(
                        instance, self._in_background, instance, "flushes", instance.pool.execute, user, Flush()
                    )
        for instance, user, token in self.promises:
            if not instance.is_dead and token not in self.ledger.truth(user).places:
                self.violated(f"{instance.name} acknowledged {token}, lived on, and {token} is not in the log")
        self.start("judge", write_back=False)
        judge = self.instances[-1]
        judge.wire.faults = _CALM
        judge.stores.heal()
        client = Client(self, "judge", hurried=0.0)
        for user in self.users:
            for instance in self.instances:
                await self.serve(instance, self._see_all, client, instance, user)
            await self.serve(judge, self._check_log, judge, user)

    async def _see_all(self, client: Client, instance: Instance, user: str) -> None:
        seen = await client.read(instance, user)
        # Counted after the read, because the read may have settled a commit of unknown outcome.
        if seen != (count := len(self.ledger.truth(user).lines)):
            self.violated(f"at the end {instance.name} shows {seen} writes of {user}, and the log holds {count}")

    async def _check_log(self, judge: Instance, user: str) -> None:
        truth = self.ledger.truth(user)
        if not truth.seq:
            return
        log = judge.stores.log(user)
        report = await log.scrub()
        if not report.ok or report.newest_intact_seq != truth.seq:
            self.violated(f"at the end scrub finds in the log of {user}: {report.problems}")
        self.ledger.check_retained(truth)
        retained = self.ledger.retained(truth)
        for seq in {retained[-1], *self.dice.sample(retained, min(2, len(retained)))}:
            hydrated = await log.hydrate(judge.machine / f"{user}-at-{seq}", at=seq)
            if hydrated is None or hydrated.image.checksum() != truth.states[seq]:
                self.violated(f"at the end commit {seq} of {user} hydrates to another state")

    def _end(self) -> None:
        """End every task, those of killed instances too, without an effect on the store."""
        self.network.is_down = True
        self.loop.release()
        for _ in range(50):
            tasks = asyncio.all_tasks(self.loop)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            with suppress(Deadlock, asyncio.CancelledError):
                self.loop.run_until_complete(asyncio.wait(tasks))
        self.loop.close()
