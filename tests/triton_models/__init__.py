"""Tests of Triton's Python models, with a stand-in for what only Triton's stub brings."""
