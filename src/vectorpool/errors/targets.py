"""Errors of targets: the systems that a vectorstore is exported to and imported from."""

from __future__ import annotations

from vectorpool.errors.requests import InvalidRequest
from vectorpool.errors.retries import TryAgain


class InvalidTarget(InvalidRequest):
    """A target's URL that cannot be used as it stands, or a target that needs a package which is not installed.

    To do: write the URL as the message shows, or install the extra that it names.
    """

    code = "invalid-target"
    title = "The target is not valid"


class TargetRefused(InvalidRequest):
    """The target answered, and refuses: wrong credentials, a foreign table, another schema, no space.

    To do: do what its own sentence in the message asks for, and repeat the export.
    """

    code = "target-refused"
    title = "The target refuses"


class NotExportable(InvalidRequest):
    """A value that the target cannot hold. The error names the record, and nothing of its collection is left out.

    To do: change or delete the record that is named, or export to another target.
    """

    code = "not-exportable"
    title = "The target cannot hold a value"


class TargetUnavailable(TryAgain):
    """The target does not answer. What was exported before stays as it is.

    To do: see whether the target runs and can be reached, and repeat the same export.
    """

    code = "target-unavailable"
    title = "The target does not answer"
    retry_after_s = 30.0


class UnknownTarget(InvalidRequest):
    """The target is none that the operator named. Users name targets; they never send a URL.

    To do: name one of the targets that the message lists, or ask the operator to add yours to ``VECTORPOOL_TARGETS``.
    """

    code = "unknown-target"
    title = "The operator named no such target"
