"""Redaction of personal data and secrets: `redact.redact` is the entry, the finders are beside it."""
