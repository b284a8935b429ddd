"""A trained student becomes a bundle: an optimised ONNX graph with all that serving needs to trust it."""
