"""Labelling: ask a teacher for soft labels, within a budget, and store every answer."""
