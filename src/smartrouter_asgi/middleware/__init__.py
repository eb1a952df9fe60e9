"""The layers as middlewares, each in its own module."""
