"""Errors of targets: the systems that a vectorstore is exported to and imported from."""

from __future__ import annotations

from vectorpool.errors.requests import InvalidRequest
from vectorpool.errors.retries import TryAgain


class InvalidTarget(InvalidRequest):
    """A target's URL that cannot be used as it stands, or a target that needs a package which is not installed."""

    code = "invalid-target"
    title = "The target is not valid"


class TargetRefused(InvalidRequest):
    """The target answered, and refuses: wrong credentials, a foreign table, another schema, no space."""

    code = "target-refused"
    title = "The target refuses"


class NotExportable(InvalidRequest):
    """A value that the target cannot hold. The error names the record, and nothing of its collection is left out."""

    code = "not-exportable"
    title = "The target cannot hold a value"


class TargetUnavailable(TryAgain):
    """The target does not answer. What was exported before stays as it is; the same export may be repeated."""

    code = "target-unavailable"
    title = "The target does not answer"
    retry_after_s = 30.0
