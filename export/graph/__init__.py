"""Variants of an ONNX graph: fused, unpadded, quantised, in 16 bits."""
