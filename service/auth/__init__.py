"""Who may ask: API keys, their file, and rate limits."""
