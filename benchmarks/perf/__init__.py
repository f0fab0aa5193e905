"""Load tests with NVIDIA's perf_analyzer: its input file, the binary, the profiles, the tables."""
