"""The interface of an embedder, and of the tokenizer that measures text for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    # numpy takes a quarter of a second to import, and the command line's help must not pay for it.
    import numpy as np
    import numpy.typing as npt


class Tokenizer(Protocol):
    """Measures text the way the model does. Safe to call from any thread."""

    @property
    def special_tokens(self) -> int:
        """How many tokens the model adds to each text; they count towards ``max_tokens``."""
        ...

    def spans(self, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        """Return, for each text, int64[tokens, 2]: where each token starts and ends, in characters."""
        ...

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, without the special ones."""
        ...


class Embedder(Protocol):
    """Schedule text into vectors.

    ``name`` is stable, such as ``onnx:all-MiniLM-L6-v2-int8``: vectors of two embedders are comparable if, and only
    if, their names are equal. ``dimension`` is known once ``start`` returned.
    """

    @property
    def name(self) -> str:
        """Who makes these vectors; stored with collections."""
        ...

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        ...

    @property
    def max_tokens(self) -> int:
        """Text beyond so many tokens, special ones included, does not change the vector."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """What measures text for this model, for chunking; there once ``start`` returned."""
        ...

    async def start(self) -> None:
        """Load the model, or ask the endpoint once; raise Misconfigured if that cannot work."""
        ...

    async def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return float32[len(texts), dimension], C-contiguous and finite, in the order of the texts.

        Raises QueueFull if too many texts wait already, LimitExceeded for more texts than could ever wait,
        EmbedderUnavailable if an endpoint does not answer, Draining after ``close``.
        """
        ...

    async def close(self) -> None:
        """Fail what waits with Draining, end the run that is under way, give threads and connections back."""
        ...
