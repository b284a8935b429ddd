"""The mathematics of monitoring a student in production: live gap, alarms and drift.

Pure functions and small value types over counts, which the callers provide. Nothing here reads a clock, opens a file
or depends on HTTP, Prometheus or the teacher.
"""
