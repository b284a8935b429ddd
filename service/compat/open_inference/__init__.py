"""The Open Inference Protocol (KServe V2) over HTTP: its routes, its messages, and binary tensors."""
