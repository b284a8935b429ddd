"""Calling a vendor's API: the client, HTTP, rate limits, prices. No vendor's formats are here."""
