"""How a thread gives way to the event loop where they share a core."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from threading import get_native_id

_MORE = 10
_MOST = 19


def give_way() -> None:
    """Let the calling thread have the core when no other thread wants it, or nearly so. On Linux alone.

    Elsewhere niceness belongs to the whole process. Where a sandbox forbids it, the thread stays as it is.
    """
    if sys.platform != "linux":
        return
    own = get_native_id()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, own, min(os.getpriority(os.PRIO_PROCESS, own) + _MORE, _MOST))
