"""What engines that load and unload over HTTP have in common: what a failed load means, and how long gone takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from ..exceptions import AttemptError, FailureKind

LOAD_TIMEOUT_S = 600.0
UNLOAD_TIMEOUT_S = 60.0
CONFIRM_TIMEOUT_S = 10.0
CONFIRM_POLL_S = 0.25

_OF_THE_MODEL = frozenset(
    {FailureKind.REJECTED, FailureKind.UNSUPPORTED, FailureKind.SERVER, FailureKind.FIRST_TOKEN_TIMEOUT}
)


def load_failure(error: AttemptError) -> AttemptError:
    """Return what a failed load means: that this model fails here, unless the server itself is to blame."""
    if error.kind not in _OF_THE_MODEL or (error.kind is FailureKind.SERVER and error.status == 503):
        return error
    late = error.kind is FailureKind.FIRST_TOKEN_TIMEOUT
    return AttemptError(
        error.message,
        kind=FailureKind.MODEL_FAILED,
        status=504 if late else 502,
        code=error.code if late else None,
        type=error.type if late else None,
    )


async def until_gone(backend: str, model: str, holds: Callable[[], Awaitable[bool]]) -> None:
    """Return once an engine holds a model no longer. Raises `AttemptError` (504) when it still does after a while."""
    with anyio.move_on_after(CONFIRM_TIMEOUT_S):
        while await holds():  # noqa: ASYNC110 - engines tell nobody when it is gone
            await anyio.sleep(CONFIRM_POLL_S)
        return
    raise AttemptError(
        f"backend '{backend}' still holds '{model}' {CONFIRM_TIMEOUT_S:g} s after it was told to unload it",
        kind=FailureKind.SERVER,
        status=504,
        engine_busy=True,
    )
