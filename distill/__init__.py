"""Offline: a teacher's knowledge becomes a student."""
