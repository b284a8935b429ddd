"""Asking a teacher for soft labels: the session, the store of answers, the account, the dry run."""
