"""Allowances: users do not spend each other's rates, tokens spend their own beside them, and states are forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.support.tokens import Clock
from vectorpool.allowances import allowances as module
from vectorpool.allowances.allowances import Allowances, counted_as
from vectorpool.allowances.embedder import TOKEN_SPENDING, LimitedEmbedder
from vectorpool.allowances.usage import DocumentCounts, documents_size
from vectorpool.errors import QueueFull, QuotaExceeded, RateLimited
from vectorpool.limits import Given
from vectorpool.names import document_key
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings


class Spender:
    """Sends requests of users by the clock of a test."""

    def __init__(self, **limits: Any) -> None:
        self.clock = Clock()
        self.allowances = Allowances(Settings(**{f"limit_{name}": value for name, value in limits.items()}), self.clock)

    def begin(self, user: str = "alice", name: str = "t", claimed: Given | None = None) -> Any:
        spendings = self.allowances.spendings(user, name, claimed)
        self.allowances.enter(spendings)
        return spendings

    def admitted(self, count: int, **more: Any) -> int:
        """Send requests that end at once; return how many were admitted."""
        done = 0
        for _ in range(count):
            try:
                self.allowances.leave(self.begin(**more))
            except RateLimited:
                continue
            done += 1
        return done


def test_a_user_spends_its_own_rate_only() -> None:
    """One user's flood leaves another's burst whole; the error names limit, value, source and the wait."""
    spender = Spender(requests_per_s=2, burst=5)
    assert spender.admitted(100) == 5
    with pytest.raises(RateLimited) as refused:
        spender.begin()
    assert refused.value.retry_after_s == pytest.approx(0.5)
    assert refused.value.extra == {
        "limit_name": "requests_per_s",
        "limit": 2,
        "limit_source": "setting",
        "violated-policies": ["requests_per_s"],
    }
    assert spender.admitted(100, user="bob") == 5
    spender.clock.now_s += 1
    assert spender.admitted(100) == 2


def test_requests_at_once_are_counted_until_they_end() -> None:
    """Two may be under way; what ends makes room, and a refused one takes neither place nor rate."""
    spender = Spender(concurrent_requests=2, requests_per_s=100, burst=100)
    first, _ = spender.begin(), spender.begin()
    for _ in range(5):
        with pytest.raises(RateLimited, match="requests at once"):
            spender.begin()
    assert spender.allowances.rates_of("alice").requests_left == 98
    spender.allowances.leave(first)
    spender.begin()


def test_a_claim_narrows_its_tokens_and_leaves_the_user_the_rest() -> None:
    """Tokens of one name share what their claims allow; the user's own rate counts all of them."""
    spender = Spender(requests_per_s=1, burst=10)
    claimed = {"requests_per_s": 1.0, "burst": 3}
    assert spender.admitted(10, name="app", claimed=claimed) == 3
    assert spender.admitted(10, name="app", claimed=dict(claimed)) == 0, "another token of the name"
    assert spender.admitted(10, name="other", claimed={"burst": 50, "requests_per_s": 1000.0}) == 7, "never wider"
    assert spender.admitted(10) == 0


def test_a_lower_limit_counts_at_once() -> None:
    """Limits that are stored meanwhile are in force for the next request, and give no second burst."""
    spender = Spender(requests_per_s=1, burst=10)
    assert spender.admitted(20) == 10
    spender.allowances.stored.known["alice"] = module.StoredLimits({"burst": 20}, "e")
    spender.allowances.stored.generation += 1
    assert spender.admitted(20) == 10
    spender.allowances.stored.known["alice"] = module.StoredLimits({"burst": 2}, "f")
    spender.allowances.stored.generation += 1
    assert spender.admitted(20) == 0
    spender.clock.now_s += 10
    assert spender.admitted(20) == 2


def test_without_limits_nothing_is_kept() -> None:
    """No state is made for a user that has no limit."""
    spender = Spender()
    assert spender.allowances.is_idle
    assert spender.admitted(1000) == 1000
    assert spender.allowances._spending == {}
    assert spender.allowances.quota_of("alice", None) is None


def test_the_states_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rested users are forgotten first; a user that sends at the moment is never forgotten."""
    monkeypatch.setattr(module, "MAX_REMEMBERED", 10)
    spender = Spender(requests_per_s=1, burst=5)
    held = spender.begin("held")
    assert spender.admitted(10, user="spent") == 5
    for number in range(50):
        spender.admitted(1, user=f"u{number}")
        spender.clock.now_s += 0.01
    assert len(spender.allowances._spending) <= 11
    assert "held" in spender.allowances._spending
    spender.allowances.leave(held)


def test_the_headers_tell_policy_and_rest() -> None:
    """They are lists of structured fields, as the draft has them: quota, window, what is left, when there is more."""
    spender = Spender(requests_per_s=2, burst=10, concurrent_requests=3)
    spendings = spender.begin()
    headers = dict(spender.allowances.headers(spendings))
    assert headers[b"ratelimit-policy"] == b'"requests";q=10;w=5, "concurrent";q=3;qu="concurrent-requests"'
    assert headers[b"ratelimit"] == b'"requests";r=9;t=1, "concurrent";r=2'
    for _ in range(9):
        spender.allowances.enter([spendings[0]]) if spendings[0].under_way < 3 else spendings[0].requests.take(NOW)
    assert dict(spender.allowances.headers(spendings))[b"ratelimit"].startswith(b'"requests";r=0;t=1')
    only_quota = Spender(records=5)
    assert only_quota.allowances.headers(only_quota.begin()) == []


NOW = Clock().now_s


def test_a_request_of_no_user_is_its_callers() -> None:
    """A path without a user, or with one that cannot be, is counted for the caller, which no user's id can spell."""
    assert counted_as("alice", "app") == "alice"
    assert counted_as(None, "app") == counted_as("x" * 1000, "app") == "\napp"


# --- Texts to embed -----------------------------------------------------------------------------------


class Words:
    """A tokenizer that counts words, and two more for a text."""

    special_tokens = 2

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def spans(self, texts: Sequence[str]) -> Any:
        raise NotImplementedError


class Model:
    """An embedder that remembers texts, and is full while a test says so."""

    name, dimension, max_tokens, tokenizer = "words", 1, 50, Words()

    def __init__(self) -> None:
        self.asked = 0
        self.is_full = False

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def embed(self, texts: Sequence[str], user_id: str = "") -> np.ndarray[Any, np.dtype[np.float32]]:
        if self.is_full:
            raise QueueFull("full")
        self.asked += len(texts)
        return np.zeros((len(texts), 1), np.float32)


async def test_tokens_to_embed_are_a_rate() -> None:
    """What the model reads is counted; more than is left is owed, and refused until it is paid back."""
    spender, model = Spender(embedding_tokens_per_min=60), Model()
    embedder = LimitedEmbedder(model, spender.allowances)
    await embedder.embed(["one two three"] * 4, "alice")
    assert spender.allowances.rates_of("alice").embedding_tokens_left == 40
    await embedder.embed(["word " * 1000] * 3, "alice")
    assert spender.allowances.rates_of("alice").embedding_tokens_left == 40 - 150
    with pytest.raises(RateLimited) as refused:
        await embedder.embed(["a"], "alice")
    assert refused.value.extra["limit_name"] == "embedding_tokens_per_min"
    assert refused.value.retry_after_s == pytest.approx(111)
    await embedder.embed(["a"], "bob")
    spender.clock.now_s += 111.1
    asked = model.asked
    await embedder.embed(["a"], "alice")
    assert model.asked == asked + 1


async def test_what_was_not_embedded_is_not_counted() -> None:
    """A full queue costs no tokens; neither does a user without a limit, or work for no user."""
    spender, model = Spender(embedding_tokens_per_min=60), Model()
    embedder = LimitedEmbedder(model, spender.allowances)
    model.is_full = True
    with pytest.raises(QueueFull):
        await embedder.embed(["a b c"], "alice")
    assert spender.allowances.rates_of("alice").embedding_tokens_left == 60
    model.is_full = False
    await embedder.embed(["word " * 500] * 9)
    free = Spender()
    await LimitedEmbedder(model, free.allowances).embed(["word " * 500] * 9, "alice")
    assert free.allowances._spending == {}


async def test_a_tokens_claim_limits_what_it_embeds() -> None:
    """The claim of the request's token counts beside the user's limit."""
    spender, model = Spender(), Model()
    embedder = LimitedEmbedder(model, spender.allowances)
    claimed = {"embedding_tokens_per_min": 10}
    mark = TOKEN_SPENDING.set(spender.begin(claimed=claimed)[-1])
    try:
        await embedder.embed(["one two three four five six seven eight"], "alice")
        with pytest.raises(RateLimited, match="The token"):
            await embedder.embed(["a"], "alice")
    finally:
        TOKEN_SPENDING.reset(mark)
    await embedder.embed(["a"], "alice")


# --- Source documents -----------------------------------------------------------------------------------


async def test_documents_are_counted_by_a_listing_now_and_then() -> None:
    """Own changes count at once, those of other programs within a minute, and sooner where there is no room."""
    bucket, clock = MemoryBucket(), Clock()
    counts = DocumentCounts(clock)
    counts.open(bucket)

    async def put(*names: str) -> None:
        for name in names:
            await bucket.put(document_key("alice", "7", name), b"text")

    await put("a", "b")
    await counts.take("alice", 4)
    await put("c", "d")
    await counts.take("alice", 4)
    with pytest.raises(QuotaExceeded) as refused:
        await counts.take("alice", 4)
    assert (refused.value.status, refused.value.extra["limit_name"]) == (507, "documents")
    counts.give_back("alice")
    await counts.take("alice", 4)
    await bucket.delete(document_key("alice", "7", "a"))
    with pytest.raises(QuotaExceeded):
        await counts.take("alice", 4)
    clock.now_s += 3
    await counts.take("alice", 4)
    with pytest.raises(QuotaExceeded):
        await counts.take("alice", 0)
    await counts.take("alice", 50)
    size = await documents_size(bucket, "alice")
    assert (size.objects, size.bytes, size.complete) == (3, 12, True)
    assert not (await documents_size(bucket, "alice", 2)).complete
