"""What an answer says when it is an error, whole or at the end of a stream."""

from __future__ import annotations

import json
from typing import Any

import httpx


def error_code(response: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal."""
    return response.status_code, response.json()["error"]["code"]


def last_error(response: httpx.Response) -> dict[str, Any]:
    """The error that a broken stream ends with; nothing may follow it, and nothing may look like a good end."""
    assert response.status_code == 200
    assert "[DONE]" not in response.text
    error: dict[str, Any] = json.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]
    return error
