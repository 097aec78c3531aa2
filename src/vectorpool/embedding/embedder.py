"""The interface of an embedder, and of the tokenizer that counts tokens for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    # numpy takes a quarter of a second to import, and the command line's help does not need it.
    import numpy as np
    import numpy.typing as npt


class Tokenizer(Protocol):
    """Counts tokens as the model does. Safe to call from any thread."""

    @property
    def special_tokens(self) -> int:
        """The number of tokens that the model adds to each text; they count towards ``max_tokens``."""
        ...

    def spans(self, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        """Return, for each text, int64[tokens, 2]: where each token starts and ends, in characters."""
        ...

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, without the special ones."""
        ...


class Embedder(Protocol):
    """Converts text to vectors.

    ``name`` is stable, such as ``onnx:all-MiniLM-L6-v2-int8``: vectors of two embedders are comparable if, and only
    if, their names are equal. ``dimension`` is available after ``start`` returned.
    """

    @property
    def name(self) -> str:
        """The embedder's stable name, which is stored with collections."""
        ...

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        ...

    @property
    def max_tokens(self) -> int:
        """The number of tokens, special ones included, beyond which text does not change the vector."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, for chunking; available after ``start`` returned."""
        ...

    async def start(self) -> None:
        """Load the model, or ask the endpoint once; raise Misconfigured if that cannot work."""
        ...

    async def embed(self, texts: Sequence[str], user_id: str = "") -> npt.NDArray[np.float32]:
        """Return float32[len(texts), dimension], C-contiguous and finite, in the order of the texts.

        Users take turns; texts for no user (the command line's) are one user's. Raises QueueFull if too many texts
        wait already, of all users or of this one, LimitExceeded if the texts alone exceed the queue's bound,
        EmbedderUnavailable if an endpoint does not answer, Draining after ``close``.
        """
        ...

    async def close(self) -> None:
        """Fail waiting calls with Draining, finish the run under way, end threads and close connections."""
        ...
