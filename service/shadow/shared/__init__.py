"""The shadow store that many processes share: PostgreSQL, in place of the outbox in a file."""
