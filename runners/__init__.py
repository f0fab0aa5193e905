"""Running of networks: in onnxruntime, in torch, and whole pipelines in one process."""
