"""A write on its way to its commit, and the error of its caller if it fails."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from vectorpool.commands import Write
from vectorpool.commitlog.format import Summary
from vectorpool.errors import CommitConflict, InternalError, StoreUnavailable, VectorpoolError
from vectorpool.limits import Quota
from vectorpool.sources import Sources
from vectorpool.vectorstore.effect import Effect, HalfApplied
from vectorpool.vectorstore.replica import Replica

logger = logging.getLogger(__name__)

# How often a commit may lose its number before its callers get an error; each time another writer progressed.
MAX_REBASES = 12
_REBASE_PAUSE_S = 0.01


# The body of an answer, and what the command changed.
Applied = tuple[bytes, Effect]


class Ticket:
    """A write on its way: the command, and then its answer or its error."""

    __slots__ = ("body", "broke_a_replica", "command", "effect", "error", "is_poison", "quota")

    def __init__(self, command: Write, quota: Quota | None = None) -> None:
        self.command = command
        # What the user may have stored after it. It counts until the write is acknowledged.
        self.quota = quota
        self.body = b""
        self.effect = Effect()
        self.error: VectorpoolError | None = None
        # The write failed half-way and would fail again: it is not applied a second time.
        self.is_poison = False
        self.broke_a_replica = False


async def pause_before_rebase(sources: Sources, attempt: int) -> None:
    """Wait for a random time, longer after each lost race, so that two writers do not meet again and again."""
    await sources.sleep(sources.random() * _REBASE_PAUSE_S * 2 ** min(attempt, 6))


def too_many_conflicts() -> CommitConflict:
    """Return the error of a write that lost its number too often."""
    return CommitConflict(f"Other writers committed first {MAX_REBASES} times in a row. Send the write again.")


def in_doubt(cause: VectorpoolError) -> StoreUnavailable:
    """Return the error of a request that arrived while the outcome of an earlier commit stayed unknown."""
    return StoreUnavailable(
        "An earlier commit of this user is not resolved yet, because the object store does not answer. "
        f"Nothing of this request was applied; send it again. ({cause.code})"
    )


def unconfirmed(refusal: VectorpoolError) -> StoreUnavailable:
    """Return the error for a refusal by a replica that may be stale, or may hold writes that were not committed."""
    return StoreUnavailable(
        "The write does not apply to the state that this instance knows, and whether that is the newest could not be "
        f"found out ({refusal.code}). Nothing of this write was applied; send it again."
    )


def give_up(tickets: list[Ticket], error: Exception, *, acknowledged: list[Ticket] | None) -> VectorpoolError:
    """Give an error to each ticket of a write that failed; return the error of the tickets that had none before.

    ``acknowledged`` is None under write-through; under write-back, tickets in it keep their answers.
    """
    if isinstance(error, VectorpoolError):
        cause = error
    else:
        logger.exception("a write failed unexpectedly", exc_info=error)
        cause = InternalError("The write failed for a reason of ours; it was not committed.")
    for ticket in tickets:
        if ticket.error is None and not (acknowledged is not None and ticket in acknowledged):
            ticket.error = cause
        elif ticket.error is not None and acknowledged is None and not ticket.is_poison:
            ticket.error = unconfirmed(ticket.error)
    return cause


async def apply(ticket: Ticket, replica: Replica, run: Callable[..., Awaitable[Applied]]) -> bool:
    """Apply a command in a thread of ``run``, and give its ticket the answer or the error.

    Returns False if it failed half-way: the replica must be built anew, and the command is applied once more, unless it
    is poison now. The disk, and not the command, may have broken the replica the first time.
    """
    try:
        ticket.body, ticket.effect = await run(replica.write, ticket.command, None, ticket.quota)
    except HalfApplied as error:
        ticket.error, ticket.is_poison = error.cause, ticket.broke_a_replica or error.cause.code != "broken-replica"
        ticket.broke_a_replica = True
        logger.warning("a command was applied by half, the replica is built anew: %s", error.cause.code)
        return False
    except VectorpoolError as error:
        # Also if an older state accepted the command: the refusal of the newest state is the answer.
        ticket.error = error
    else:
        ticket.error = None
    return True


async def apply_again(
    uncommitted: list[Ticket], replica: Replica, run: Callable[..., Awaitable[Applied]], *, acknowledged: bool
) -> bool:
    """Apply commands to a replica that was built anew, in threads of ``run``; those that fail leave the list.

    A quota does not count for what was ``acknowledged``.

    Returns False if one failed half-way: the replica must be built again, and the next call goes without it.
    """
    for ticket in list(uncommitted):
        try:
            ticket.body, ticket.effect = await run(
                replica.write, ticket.command, ticket.effect.made, None if acknowledged else ticket.quota, acknowledged
            )
        except (HalfApplied, VectorpoolError) as error:
            cause = error.cause if isinstance(error, HalfApplied) else error
            uncommitted.remove(ticket)
            ticket.error = cause
            logger.warning("a rebased command no longer applies: %s", cause.code)
            if isinstance(error, HalfApplied):
                return False
    return True


def summarise(tickets: list[Ticket]) -> Summary:
    """Return the summary of a commit of these tickets, for people."""
    effects = [ticket.effect for ticket in tickets]
    return Summary(
        added=sum(e.written for e in effects),
        deleted=sum(e.deleted for e in effects),
        collections=tuple(sorted({name for e in effects for name in e.collections})),
    )
