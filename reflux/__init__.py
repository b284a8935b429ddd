"""The command `reflux`."""
