"""What a student and its teacher are worth: the gap, calibration, self-agreement, intervals, and the report."""
