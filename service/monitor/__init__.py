"""The mathematics of watching a student in production: live gap, alarms and drift.

Pure functions and small value types over counts. Nothing here reads a clock, opens a file or knows about
HTTP, Prometheus or the teacher; the callers count, these modules conclude.
"""
