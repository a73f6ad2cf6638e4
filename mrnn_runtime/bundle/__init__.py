"""A model's folder: its manifest, its checksums, its vocabulary, and how it is loaded."""
