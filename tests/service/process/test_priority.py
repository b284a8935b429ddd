"""A thread lowers its priority, and goes on where that is forbidden."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import get_native_id

import pytest

from service.process.priority import lower_priority


def in_a_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@pytest.mark.skipif(sys.platform != "linux", reason="niceness belongs to the whole process here")
def test_a_thread_can_lower_its_priority_below_that_of_its_process():
    def nice():
        lower_priority()
        return os.getpriority(os.PRIO_PROCESS, get_native_id())

    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert in_a_thread(nice) == min(before + 10, 19)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_a_thread_that_may_not_lower_its_priority_goes_on(monkeypatch):
    def forbid(*_):
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", forbid)
    assert in_a_thread(lambda: lower_priority() or "went on") == "went on"
