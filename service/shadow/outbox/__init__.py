"""The outbox: its rows and tables, the store, and the thread in which its calls run."""
