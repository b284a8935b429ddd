"""Calling an API: settings, the client, HTTP, errors, rate limits and prices. Vendors' formats are elsewhere."""
