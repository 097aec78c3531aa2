"""The interpreter's settings, which each process sets for itself."""

from __future__ import annotations

import sys
from typing import Final

# An event loop that comes back from waiting needs the interpreter lock, and a thread that runs Python code gives it up
# after so long. The default is 5 ms, several times for each request: more than a whole query takes.
_SWITCH_S: Final = 0.0005


def switch_often() -> None:
    """Make threads hand the interpreter lock over after half a millisecond."""
    sys.setswitchinterval(_SWITCH_S)
