"""Authentication: API keys, the file they are in, and their rate limits."""
