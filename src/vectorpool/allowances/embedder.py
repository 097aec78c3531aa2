"""An embedder that counts the tokens of users with a limit, in front of the one that embeds.

Every text to embed passes here with its user, those of background work too. What a token's claim allows is found by the
context of the request's task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from vectorpool.allowances.allowances import Allowances, Spending
from vectorpool.embedding.embedder import Embedder, Tokenizer
from vectorpool.errors import VectorpoolError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# What the token of the request takes, if its claim limits the tokens to embed.
TOKEN_SPENDING: Final[ContextVar[Spending | None]] = ContextVar("token_spending", default=None)

# Counting the tokens of fewer characters takes about as long as asking a thread to do it.
_INLINE_CHARS: Final = 2048


class LimitedEmbedder:
    """An ``Embedder`` around another one. ``embed`` raises RateLimited too."""

    def __init__(self, inner: Embedder, allowances: Allowances) -> None:
        self._inner = inner
        self._allowances = allowances

    @property
    def name(self) -> str:
        """The inner embedder's name."""
        return self._inner.name

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return self._inner.dimension

    @property
    def max_tokens(self) -> int:
        """The number of tokens beyond which text does not change the vector."""
        return self._inner.max_tokens

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._inner.tokenizer

    async def start(self) -> None:
        """Start the inner embedder."""
        await self._inner.start()

    async def close(self) -> None:
        """Close the inner embedder."""
        await self._inner.close()

    async def embed(self, texts: Sequence[str], user_id: str = "") -> npt.NDArray[np.float32]:
        """Return what the inner embedder returns. What it refuses is not counted."""
        spendings = self._allowances.spendings(user_id, "", None) if user_id else []
        if (own := TOKEN_SPENDING.get()) is not None:
            spendings.append(own)
        if not self._allowances.limits_tokens(spendings):
            return await self._inner.embed(texts, user_id)
        # Who owes something is refused before its texts are looked at.
        self._allowances.take_tokens(spendings, 0)
        is_short = sum(map(len, texts)) <= _INLINE_CHARS
        count = self._count(texts) if is_short else await asyncio.to_thread(self._count, texts)
        self._allowances.take_tokens(spendings, count)
        try:
            return await self._inner.embed(texts, user_id)
        except VectorpoolError:
            self._allowances.give_tokens_back(spendings, count)
            raise

    def _count(self, texts: Sequence[str]) -> int:
        """Return the tokens that the model will read."""
        tokenizer, most = self._inner.tokenizer, self._inner.max_tokens
        return sum(min(count + tokenizer.special_tokens, most) for count in tokenizer.count(texts))
