"""The interpreter's settings, by which neither a thread nor a collection of cycles holds a process up for long."""

from __future__ import annotations

import gc
import sys
from typing import Final

# An event loop that comes back from waiting needs the interpreter lock, and a thread that runs Python code gives it up
# after so long. The default is 5 ms, several times for each request: more than a whole query takes.
_SWITCH_S: Final = 0.0005


def switch_often() -> None:
    """Make threads hand the interpreter lock over after half a millisecond."""
    sys.setswitchinterval(_SWITCH_S)


def keep_what_is_loaded() -> None:
    """Make the collector of cycles pass over all that is there now, and stays: modules, routes, classes.

    Call it once the process can serve. A full collection stopped a front for 45 ms, about once in a thousand requests.
    """
    gc.freeze()
