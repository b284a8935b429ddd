"""Make a smaller student of a trained one: without its least important attention heads and feed-forward neurons."""
