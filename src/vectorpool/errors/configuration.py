"""Errors that end the start: the configuration is to be changed."""

from __future__ import annotations

from vectorpool.errors.base import VectorpoolError


class Misconfigured(VectorpoolError):
    """The service cannot start like this. One sentence says what to change."""

    code = "misconfigured"
    title = "The configuration does not work"


class StoreRefused(Misconfigured):
    """The object store cannot be used: unreachable, denied, missing, or without create-if-absent."""

    code = "store-refused"
    title = "The object store cannot be used"
