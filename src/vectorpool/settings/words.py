"""What every module of settings needs: a setting with its text, and the words that some of them take."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Meta

Durability = Literal["write-through", "write-back"]
Consistency = Literal["strong", "bounded", "local"]
EmbedderKind = Literal["onnx", "sentence-transformers", "openai"]
Space = Literal["cosine", "l2", "ip"]
# What happens to a vectorstore whose newest commit is damaged.
RecoverMode = Literal["ask", "auto"]
# Where a recovered state goes: to the collections' own names, or to new collections beside what the log has.
RecoverInto = Literal["same", "new"]
ChunkStrategy = Literal["auto", "tokens", "sentences", "markdown", "rows", "code", "none"]

Positive = Meta(ge=1)


def setting(text: str, **bounds: Any) -> Meta:
    """Return what describes a setting in its table, and bounds its value."""
    return Meta(description=text, **bounds)
