"""ONNX Runtime: providers and sessions, the graphs of a bundle, and the images that go in."""
