"""Thread priority: let background threads give the core to the event loop."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from threading import get_native_id

_NICENESS_STEP = 10
_MAX_NICENESS = 19


def lower_priority() -> None:
    """Let the calling thread run almost only when no other thread wants the core. On Linux only.

    Elsewhere a priority belongs to the whole process. Where a sandbox forbids the change, nothing happens.
    """
    if sys.platform != "linux":
        return
    own = get_native_id()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, own, min(os.getpriority(os.PRIO_PROCESS, own) + _NICENESS_STEP, _MAX_NICENESS))
