"""The root of the tree of errors, and how an error crosses from a shard to the front process."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import msgspec

# What a decoder of msgspec raises for bytes that others made: also for text that is not UTF-8, and for depth.
UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class ErrorWire(msgspec.Struct, frozen=True):
    """An error as it crosses from a shard to the front process."""

    code: str
    detail: str
    retry_after_s: float | None = None
    extra: dict[str, Any] = {}


class VectorpoolError(Exception):
    """Anything that this project reports on purpose."""

    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Something is wrong on our side"
    status: ClassVar[int] = 500
    retry_after_s: float | None = None

    _by_code: ClassVar[dict[str, type[VectorpoolError]]] = {}

    def __init__(self, detail: str, *, retry_after_s: float | None = None, extra: dict[str, Any] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra or {}
        self.retry_after_s = self.retry_after_s if retry_after_s is None else retry_after_s

    def __init_subclass__(cls) -> None:
        if "code" in cls.__dict__:
            assert cls.code not in VectorpoolError._by_code, f"two errors of code {cls.code}"
            VectorpoolError._by_code[cls.code] = cls

    def to_wire(self) -> ErrorWire:
        """Return the error as a struct that msgspec can encode."""
        return ErrorWire(self.code, self.detail, self.retry_after_s, self.extra)

    @staticmethod
    def from_wire(wire: ErrorWire) -> VectorpoolError:
        """Return the error that ``to_wire`` took apart; an unknown code becomes an InternalError."""
        cls = VectorpoolError._by_code.get(wire.code, InternalError)
        return cls(wire.detail, retry_after_s=wire.retry_after_s, extra=wire.extra)


class InternalError(VectorpoolError):
    """A defect of ours. The log has the traceback.

    To do: send the request once more. If it fails again, give the request id (X-Request-Id) and the log's traceback
    to the maintainers.
    """

    code = "internal-error"
