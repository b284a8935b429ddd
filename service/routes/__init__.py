"""The routes: HTTP in and out, one file per concern, over one engine."""
