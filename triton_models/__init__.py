"""The code inside Triton's Python models: front ends, stages, networks."""
