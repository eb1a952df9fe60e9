"""Translations between API surfaces, OpenAI chat in the middle: pure functions over bytes and dicts."""
