"""What `benchmarks/serving.py` is made of: load, processes, environments, contenders, measurements, the report."""
