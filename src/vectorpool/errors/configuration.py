"""Errors that end the start: the configuration is to be changed."""

from __future__ import annotations

from vectorpool.errors.base import VectorpoolError


class Misconfigured(VectorpoolError):
    """The service cannot start like this.

    To do: change what the sentence names, and start again. The exit code is 2.
    """

    code = "misconfigured"
    title = "The configuration does not work"


class StoreRefused(Misconfigured):
    """The object store cannot be used: unreachable, denied, missing, or without create-if-absent.

    To do: look at the bucket's name, its region, the credentials and their rights, as the sentence says; then start
    again.
    """

    code = "store-refused"
    title = "The object store cannot be used"
