"""The parts of one engine that its endpoints share."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import SERVER_BUSY, APIError, ConnectionDropped
from .faults import INFERENCE_PATHS

if TYPE_CHECKING:
    from .clock import EngineClock
    from .faults import Fault, Faults
    from .gpu import SimulatedGPU
    from .http_server import Response
    from .models import Library, SimulatedModel
    from .observation import Observation
    from .runners import RunnerPool

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"


@dataclass(slots=True, kw_only=True)
class Simulation:
    """Library, GPU, runners, clock, faults and observation of one engine."""

    version: str
    library: Library
    gpu: SimulatedGPU
    pool: RunnerPool
    clock: EngineClock
    faults: Faults
    observation: Observation
    default_num_ctx: int
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    async def meet(self, path: str, model: SimulatedModel | None, response: Response) -> Fault | None:
        """Take the fault for a request and suffer what comes before any work; None when that answered it."""
        fault = self.faults.take(path, model.name if model else None)
        if fault.stall == "headers":
            await self.faults.until_cleared()
        if fault.busy:
            raise APIError(503, SERVER_BUSY)
        if fault.status is not None:
            body = encode(fault.body) if isinstance(fault.body, dict) else fault.body
            body = body.encode() if isinstance(body, str) else body
            await response.send(fault.status, body, fault.content_type, fault.headers)
            return None
        if path not in INFERENCE_PATHS:
            await self.clock.sleep(fault.first_token_delay_s)
            if fault.crash == "error":
                raise APIError(500, fault.crash_message)
            if fault.crash is not None:
                raise ConnectionDropped(reset=fault.crash == "reset")
        return fault


def encode(value: Any) -> bytes:
    """Encode as Go does: compact, text as UTF-8, `<`, `>` and `&` escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e").encode()


async def send_json(response: Response, value: Any, status: int = 200) -> None:
    """Answer with one JSON value."""
    await response.send(status, encode(value), JSON)


def omit_empty(**values: Any) -> dict[str, Any]:
    """Return the values that are not zero or empty: Go's `omitempty`."""
    return {key: value for key, value in values.items() if value}
