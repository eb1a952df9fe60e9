"""The command line: `serve`, `check`, `models`, `bench`. What is heavy is imported by the command that needs it."""

from .command import main

__all__ = ["main"]
