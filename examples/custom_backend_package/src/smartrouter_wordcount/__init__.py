"""The backend type `wordcount` for smartrouter-asgi."""

from __future__ import annotations

from .backend import WordCountBackend

__all__ = ["WordCountBackend"]
