"""What a pool holds, as gauges: its slots by state, and its bounds with what is used of each."""

from __future__ import annotations

from vectorpool.commitlog.warm import WarmTier
from vectorpool.pool.residency import Residency
from vectorpool.pool.states import STATE_NAMES, state_name
from vectorpool.settings import Settings
from vectorpool.telemetry import families
from vectorpool.telemetry.figures import Sample


def occupancy(residency: Residency, warm: WarmTier, settings: Settings, label: str) -> list[Sample]:
    """Return the gauges of a pool, under the name of its shard."""
    slots = residency.slots.values()
    states = dict.fromkeys(STATE_NAMES, 0)
    for slot in slots:
        states[state_name(slot.state)] += 1
    values = {
        families.OPEN_SLOTS: residency.open_slots,
        families.OPEN_SLOTS_LIMIT: settings.open_slots,
        families.OPEN_BYTES: residency.open_bytes(),
        families.OPEN_BYTES_LIMIT: settings.open_bytes,
        families.WARM_BYTES: warm.total_bytes,
        families.WARM_BYTES_LIMIT: settings.warm_bytes,
        families.POOL_WAITING: residency.waiting,
        families.POOL_WAITING_LIMIT: settings.slot_waiters,
        families.QUEUED_WRITES: sum(len(slot.jobs) for slot in slots),
        families.QUEUED_BYTES: sum(slot.queued_bytes for slot in slots),
        families.UNCOMMITTED: sum(slot.store is not None and slot.store.is_dirty for slot in slots),
    }
    return [
        *(Sample(families.SLOTS.name, (label, state), count) for state, count in states.items()),
        *(Sample(family.name, (label,), value) for family, value in values.items()),
    ]
