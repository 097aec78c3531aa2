"""Loaded by every Python that is started with this folder on its path: makes native code of a shard crash on demand.

A call of the bindings whose arguments hold the word ``crash-here`` ends the process by SIGSEGV, as a fault of native
code does: its own thread gets the signal, no handler of Python runs, and nothing is flushed. One with ``stay-here``
stays in native code, and makes the file that ``STAYS_AT`` names.

The clock of the front's quarantine is ahead by the seconds in the file that ``AHEAD_AT`` names.
"""

import os
import pathlib
import signal
import sys
import threading

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
                    signal.raise_signal(signal.SIGSEGV)
                if "stay-here" in repr(arguments):
                    pathlib.Path(os.environ["STAYS_AT"]).touch()
                    threading.Event().wait()
                return method(*arguments)

            return call

    calls._open = lambda directory: _Crashing(_open(directory))

elif "serve" in sys.orig_argv:
    from vectorpool.shard import router

    class _Ahead:
        """Sources whose clock a test moves."""

        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def monotonic_s(self):
            file = pathlib.Path(os.environ["AHEAD_AT"])
            return self._inner.monotonic_s() + (float(file.read_text() or 0) if file.exists() else 0.0)

    class _Quarantine(router.Quarantine):
        """A quarantine with that clock."""

        def __init__(self, settings, sources, **parts):
            super().__init__(settings, _Ahead(sources), **parts)

    router.Quarantine = _Quarantine
