"""Whether a task has enough data, and what more of it would bring: `reflux check`."""
