"""`reflux new`: from a file of texts to a task file that passes `reflux check`."""
