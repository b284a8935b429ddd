"""Where texts come from, how they are split, and whether they will do."""
