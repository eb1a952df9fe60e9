"""Adapters, one for each kind of engine."""
