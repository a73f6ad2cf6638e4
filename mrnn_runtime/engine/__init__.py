"""ONNX Runtime: providers and sessions, and the graphs of a bundle that run on them."""
