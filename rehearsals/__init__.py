"""Rehearsals of operation: real programs are put into trouble, and what Reflux promises is checked. Not part of it."""
