"""Loaded networks: onnxruntime, torch, and whole pipelines in one process without Triton."""
