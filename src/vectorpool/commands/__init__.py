"""Every operation on a vectorstore as a msgspec struct: commands are data.

One struct an operation serves the shard protocol, the re-apply after a lost commit, and the audit line. Embeddings
travel as raw little-endian float32. A command is a subclass of one of the kinds in ``base``, with a tag; it is on the
wire from then on. Its handler names it with ``handles``, beside the code that answers it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from vectorpool.commands.base import *
from vectorpool.commands.base import Command as Command
from vectorpool.commands.chroma import *
from vectorpool.commands.documents import *
from vectorpool.commands.native import *
from vectorpool.commands.operation import *


def operations(kind: type[Command] = Command) -> Iterator[type[Command]]:
    """Yield every command of a kind: the classes without subclasses, since the others are kinds."""
    subclasses = kind.__subclasses__()
    if not subclasses:
        yield kind
    for subclass in subclasses:
        yield from operations(subclass)


if TYPE_CHECKING:
    WireCommand: TypeAlias = Command
else:
    # msgspec decodes into the struct whose tag the message carries.
    WireCommand: Any = Union[tuple(operations())]  # noqa: UP007
