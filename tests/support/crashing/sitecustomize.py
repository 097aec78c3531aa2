"""Loaded by every Python that is started with this folder on its path: makes native code of a shard crash on demand.

A call of the bindings whose arguments hold the word ``crash-here`` ends the process by SIGSEGV, as a fault of native
code does: no handler runs, and nothing is flushed.
"""

import os
import signal
import sys

if "vectorpool.shard.process" in sys.orig_argv:
    from vectorpool.engine import calls

    _open = calls._open

    class _Crashing:
        """The bindings, one call of which crashes."""

        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            method = getattr(self._inner, name)

            def call(*arguments):
                if "crash-here" in repr(arguments):
                    os.kill(os.getpid(), signal.SIGSEGV)
                return method(*arguments)

            return call

    calls._open = lambda directory: _Crashing(_open(directory))
