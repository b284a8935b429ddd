"""A trained student becomes a bundle: an optimised ONNX graph with all that serving needs to trust it."""

import os

# Read as ONNX Runtime is imported: else it keeps an identifier and a database in the home, and a thread that sends.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
