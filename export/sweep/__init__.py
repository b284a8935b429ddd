"""The sweep: a ladder of students and their cascades, each measured as exported, and the best within a budget."""
