"""Scheduling policies for GPU memory side by side, in virtual time: deterministic, no event loop, no sleeping."""
