"""What `benchmarks/speed.py` measures, one file for each kind of measurement."""
