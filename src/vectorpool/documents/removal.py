"""The deletion of all that is the service's of one user, and the list of what is not and stays.

The order makes it resumable. A tombstone is durable before anything else is deleted, also where there is no log: from
then on the vectorstore is gone for every reader, and no writer that knew of none begins one. Then go the source
documents of every avatar, and what is kept of earlier ones. An ingest that was under way may have committed above the
tombstone meanwhile, so the log is ended once more. At last a listing shows that no document is left, and which names
beside them are other programs'. The receipt has all of it, and ``complete_at_ms`` only then. Sent again, a deletion
that was cut short goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from vectorpool import names
from vectorpool.answers import Deletion, TargetDeletion
from vectorpool.commitlog.deletions import load_receipt, save_receipt
from vectorpool.commitlog.ending import newest_header
from vectorpool.commitlog.fetch import store_errors
from vectorpool.documents.library import DocumentLibrary
from vectorpool.errors import InvalidId, OutcomeUnknown, UserNotFound
from vectorpool.objects.unusable import printable
from vectorpool.sources import SYSTEM, Sources

# Names that a receipt lists, and avatars whose names are looked at for it.
_MOST_LEFT: Final = 200
_MOST_AVATARS: Final = 1000
_PAGE: Final = 1000
# Rounds of deleting and listing, while others keep putting documents there.
_ROUNDS: Final = 3


async def remove_user(
    library: DocumentLibrary,
    user_id: str,
    end: Callable[[int, bool], Awaitable[int]],
    sources: Sources = SYSTEM,
    targets: Sequence[str] = (),
) -> Deletion:
    """Delete all that is ours of a user; return the receipt.

    ``end`` ends the log: it is told how many documents were deleted, and whether an empty log gets a tombstone; it
    returns how many objects it deleted, and may raise UserNotFound. ``targets`` are named in the receipt as those that
    may hold the user still: workers delete there. Raises UserNotFound if nothing is stored and there
    is no receipt, StoreUnavailable, OutcomeUnknown: sent again it goes on.
    """
    bucket = library.bucket
    receipt = await load_receipt(bucket, user_id)
    if receipt is not None and receipt.complete_at_ms is not None and await _is_as_told(library, user_id, receipt):
        return receipt
    if receipt is None and not await _has_anything(library, user_id):
        raise UserNotFound(f"Nothing is stored for user {user_id}, so nothing is deleted.")
    await _ended(end, 0)
    documents = 0
    for _ in range(_ROUNDS):
        removed = await library.delete_of_user(user_id)
        await library.discard_kept(user_id)
        await _ended(end, removed)
        documents += removed
        left, more, has_documents = await _left(library, user_id)
        if not has_documents:
            break
    receipt = await load_receipt(bucket, user_id)
    if receipt is None or has_documents:
        raise OutcomeUnknown(
            f"The vectorstore of user {user_id} is deleted, but documents are put there again and again. Stop what "
            "uploads them, and send the request again."
        )
    complete = sources.now_ms() if receipt.verified_empty_at_ms is not None else None
    receipt = msgspec.structs.replace(
        receipt,
        documents=receipt.documents or documents,
        left=left,
        left_more=more,
        complete_at_ms=complete,
        targets=_with_waiting(receipt.targets, targets),
    )
    with store_errors(bucket, "writing the receipt of a deletion"):
        # The limits that operators stored for the user go last: until then they hold for what is still there.
        await bucket.delete(names.limits_key(user_id))
        await save_receipt(bucket, receipt)
    return receipt


def _with_waiting(there: list[TargetDeletion], targets: Sequence[str]) -> list[TargetDeletion]:
    known = {each.target for each in there}
    return [*there, *(TargetDeletion(name) for name in targets if name not in known)]


async def _ended(end: Callable[[int, bool], Awaitable[int]], documents: int) -> None:
    try:
        await end(documents, True)
    except UserNotFound:
        return


async def _is_as_told(library: DocumentLibrary, user_id: str, receipt: Deletion) -> bool:
    """Whether the newest commit is still the tombstone of a receipt, and no document was put there since."""
    newest = await newest_header(library.bucket, user_id)
    if newest is None or not newest.header.tombstone or newest.header.seq != receipt.commit:
        return False
    return not (await _left(library, user_id))[2]


async def _has_anything(library: DocumentLibrary, user_id: str) -> bool:
    """Whether there is anything of ours but a tombstone and what stays below it: the end of the log looks closer."""
    bucket = library.bucket
    with store_errors(bucket, "listing what a user has"):
        if await bucket.list_objects(names.vectorstore_prefix(user_id), limit=1):
            return True
    return (await _left(library, user_id))[2]


async def _left(library: DocumentLibrary, user_id: str) -> tuple[list[str], bool, bool]:
    """Return the names that are not ours, whether there are more, and whether a source document is there."""
    bucket, own = library.bucket, names.user_prefix(user_id)
    avatars, documents = names.avatars_prefix(user_id), False
    with store_errors(bucket, "listing what a user has"):
        beside = await bucket.list_prefixes(own, limit=_PAGE)
        found = [f"{name}/" for name in beside if f"{own}{name}/" not in (names.vectorstore_prefix(user_id), avatars)]
        avatar_names = await bucket.list_prefixes(avatars, limit=_MOST_AVATARS)
        for avatar in avatar_names:
            if not _is_plain(avatar):
                found.append(f"avatars/{printable(avatar)}/")
                continue
            for name in await bucket.list_prefixes(f"{avatars}{avatar}/", limit=_PAGE):
                if name == "vectorstore_data":
                    documents = documents or bool(
                        await bucket.list_objects(f"{avatars}{avatar}/vectorstore_data/", limit=1)
                    )
                else:
                    found.append(f"avatars/{avatar}/{name}/")
    shown = [printable(name) for name in found[:_MOST_LEFT]]
    more = len(found) > _MOST_LEFT or len(avatar_names) >= _MOST_AVATARS or len(beside) >= _PAGE
    return shown, more, documents


def _is_plain(name: str) -> bool:
    try:
        names.check_avatar_id(name)
    except InvalidId:
        return False
    return True
