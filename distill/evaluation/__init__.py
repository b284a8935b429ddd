"""Evaluation of a student and its teacher: gap, calibration, self-agreement, intervals, report."""
