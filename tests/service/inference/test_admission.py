"""What is let in is expected to be answered in time, the run that may have begun before it included."""

from __future__ import annotations

from service.inference.admission import Admission
from service.inference.batching import Limits
from service.inference.cost_model import Cost
from service.inference.queue import Queue

NOW = 1000.0


class Known(Cost):
    """Each run takes a second."""

    def seconds(self, tokens, runs):
        return float(runs)


def test_a_run_that_began_on_the_event_loop_is_part_of_the_wait_of_what_came_meanwhile():
    admission = Admission(Queue(), Known(), Limits(100), 10, [None])
    assert admission.refusal(1, 5, NOW + 1.5, NOW) is None
    admission.loop_busy_since = NOW - 1.0
    assert admission.refusal(1, 5, NOW + 1.5, NOW) is not None
    assert admission.refusal(1, 5, NOW + 2.5, NOW) is None


def test_what_runs_now_may_just_have_begun():
    admission = Admission(Queue(), Known(), Limits(100), 10, [NOW])
    assert admission.refusal(1, 5, NOW + 1.5, NOW) is not None
    assert admission.refusal(1, 5, NOW + 2.5, NOW) is None
