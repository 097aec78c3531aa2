"""The process in which indexes are built: ``python -m vectorpool.engine.index_process DIRECTORY``.

Chroma builds for a minute or more, and takes as much memory as the index. In a process of its own that takes no time
from requests that the system has other use for, and it ends when it is not wanted any more. The answer is one line: how
many indexes were written. It ends with the process that started it, which holds its standard input open.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Final

# Other processes of the instance go first.
_NICE: Final = 10


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> None:
    """Write the indexes of the directory that the command line names."""
    os.nice(_NICE)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from vectorpool.engine.index_build import build_indexes  # noqa: PLC0415 - the watch begins first
    from vectorpool.platform.fsync import skip_fsync  # noqa: PLC0415 - as above

    # The directory is removed when this process fails, so it need not survive a power cut.
    skip_fsync()
    os.write(1, b"%d\n" % build_indexes(Path(sys.argv[1])))
    # Chroma's threads may still run.
    os._exit(0)


if __name__ == "__main__":
    main()
