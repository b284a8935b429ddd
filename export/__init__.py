"""Export a trained student as a bundle: an optimised ONNX graph with everything that serving needs to trust it."""

import os

# ONNX Runtime reads this when it is imported. Without it, it keeps an identifier and a database in the home directory
# and starts a thread that sends telemetry.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
