"""Listening for requests, and leaving without losing one."""
