"""ONNX Runtime: providers and sessions, the graphs of a bundle that run on them, and their images."""
