"""Train, export and measure captioners for mrnn-runtime."""

__version__ = "0.1.0"
