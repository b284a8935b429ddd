"""From a bundle to predictions: loading it with its self-test, and the threads that run it."""
