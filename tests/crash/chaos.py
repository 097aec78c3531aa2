"""What happens to instances and their store, by a seed: killed, frozen, started again, cut off."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence

from tests.support.radosgw import Radosgw
from tests.support.service import Service

# Longer than the store's time-out (3 s, two attempts at most) and than the shorter of the clients' own.
_FREEZE_S = (5.0, 8.0)
_START_ATTEMPTS = 20
# Killed and not yet started again at the same time: with one fewer than there are, writes go on meanwhile.
_DEAD_AT_ONCE = 2


class Chaos:
    """Kills instances until there were ``kills``, freezes some in between, and cuts the store off now and then."""

    def __init__(
        self, services: Sequence[Service], store: Radosgw | None, *, kills: int, freeze_share: float, seed: int
    ) -> None:
        self._kills = kills
        self._freeze_share = freeze_share
        self._lock = threading.Lock()
        self._dead = threading.Semaphore(_DEAD_AT_ONCE)
        self._enough = threading.Event()
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._treat, service, random.Random(seed + at)), daemon=True)
            for at, service in enumerate(services)
        ]
        if store is not None:
            dice = random.Random(seed + len(services))
            self._threads.append(threading.Thread(target=self._guarded, args=(self._cut, store, dice), daemon=True))

    def run(self, timeout_s: float) -> None:
        """Do all of it; on return everything runs again. ``failures`` says what did not."""
        for thread in self._threads:
            thread.start()
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(deadline_s - time.monotonic(), 0.1))
            if thread.is_alive():
                self.failures.append(f"the chaos did not end within {timeout_s:.0f} s")
                self._enough.set()

    def _guarded(self, function, subject, dice: random.Random) -> None:
        try:
            function(subject, dice)
        except Exception as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            self._enough.set()

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1
            if self.counts["kills"] >= self._kills:
                self._enough.set()

    # --- Instances -----------------------------------------------------------------------------------

    def _treat(self, service: Service, dice: random.Random) -> None:
        while not self._enough.wait(dice.uniform(0.2, 2.5)):
            if dice.random() < self._freeze_share:
                service.freeze()
                self._count("freezes")
                time.sleep(dice.uniform(*_FREEZE_S))
                if dice.random() < 0.75:
                    service.thaw()
                    continue
            with self._dead:
                service.kill_all()
                self._count("kills")
                time.sleep(dice.random() * 0.5)
                self._start(service)

    def _start(self, service: Service) -> None:
        for attempt in range(_START_ATTEMPTS):
            try:
                service.start()
            except AssertionError:
                # It refuses to start without its store, as it should; a container's host starts it again.
                if attempt == _START_ATTEMPTS - 1:
                    raise
                self._count("refused starts")
                time.sleep(0.5)
            else:
                return

    # --- The store -----------------------------------------------------------------------------------

    def _cut(self, store: Radosgw, dice: random.Random) -> None:
        while not self._enough.wait(dice.uniform(10.0, 20.0)):
            self._count("store outages")
            if dice.random() < 0.5:
                store.kill()
                time.sleep(dice.uniform(0.2, 3.0))
                store.restart()
            else:
                store.freeze()
                time.sleep(dice.uniform(2.0, 7.0))
                store.thaw()
