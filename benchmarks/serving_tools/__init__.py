"""The parts of `benchmarks/serving.py`: load, processes, environments, contenders, measurements, the report."""
