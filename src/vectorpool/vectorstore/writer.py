"""Write commands: each is checked before it changes anything, then applied by the handlers of its protocol.

``Writer.write`` raises a VectorpoolError if the command is refused, and then nothing has changed. After a failure
behind the first effect it raises HalfApplied: the replica may not be used any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vectorpool.commands import Write
from vectorpool.engine.engine import Engine
from vectorpool.engine.failures import refusal, translate
from vectorpool.errors import BrokenReplica
from vectorpool.limits import Quota
from vectorpool.settings import Settings
from vectorpool.vectorstore.effect import Effect, HalfApplied
from vectorpool.vectorstore.native_documents import DocumentWriter
from vectorpool.vectorstore.native_writes import NativeWriter
from vectorpool.vectorstore.protocol_writes import ProtocolWriter
from vectorpool.vectorstore.quota import Counter
from vectorpool.vectorstore.sidecar import Sidecar


class Writer:
    """Applies write commands to one open engine and its sidecar. One thread at a time."""

    def __init__(
        self,
        user_id: str,
        engine: Engine,
        sidecar: Sidecar,
        settings: Settings,
        is_new: Callable[[], bool],
        tombstone: Callable[[], int],
        live_bytes: Callable[[], int],
    ) -> None:
        self._counter = Counter(engine, sidecar, live_bytes)
        native = NativeWriter(engine, sidecar, settings)
        self._native = {**native.handlers, **DocumentWriter(native, tombstone).handlers}
        self._protocol = ProtocolWriter(user_id, engine, sidecar, settings, is_new).handlers

    def write(self, command: Write, quota: Quota | None = None, *, is_again: bool = False) -> tuple[Any, Effect]:
        """Apply one command within a quota; return its answer, fit for JSON, and its effect.

        ``is_again``: it was applied to an earlier state, and is acknowledged. Raises VectorpoolError, QuotaExceeded
        among them, or HalfApplied.
        """
        effect = Effect(is_again=is_again)
        handler = self._native.get(type(command))
        try:
            if quota is not None:
                effect.admission = self._counter.begin(command, quota)
            answer = (handler or self._protocol[type(command)])(command, effect)
            self._counter.end(effect.admission)
            return answer, effect
        except Exception as error:
            cause = translate(error) if handler is not None else refusal(error)
            if effect.touched or isinstance(cause, BrokenReplica):
                raise HalfApplied(cause) from error
            raise cause from error
