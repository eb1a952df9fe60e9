"""VRAM gating: a request enters the inner app only with a lease on GPU memory for its model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from .._asgi import BodyLimits, ReplayReceive, at_the_edge, declared
from ..deployment import Deployment
from ..exceptions import AttemptError, DeadlineExceededError, QueueFullError, VRAMExhaustedError
from ..resilience.attempt import Attempt, let_go
from ..resilience.deadline import Timeouts
from ..state import RequestState, find_state
from ..types import ASGIApp, Receive, Scope, Send
from ..vram.gate import VRAMGate

logger = logging.getLogger("smartrouter_asgi")


class VRAMGateMiddleware:
    """Asks the gate for a lease before the inner app is called, and gives it back when the engine has stopped working.

    The deployment comes from `model_of(scope)` (None: no GPU is needed), else from the attempt in the scope.
    Deployments the gate does not cover pass straight through.

    A client that leaves, or an attempt that went silent, leaves the lease draining. Raises `AdmissionError`s (503).
    """

    starts_attempts = True

    def __init__(
        self,
        app: ASGIApp,
        *,
        gate: VRAMGate,
        model_of: Callable[[Scope], Deployment | None] | None = None,
        timeouts: Timeouts | None = None,
        body: BodyLimits | None = None,
    ) -> None:
        self.app = app
        self._gate = gate
        self._starts_inside = declared(app, "starts_attempts")
        self._model_of = model_of
        self._timeouts = timeouts or Timeouts()
        self._body = body or BodyLimits()
        self._unknown: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = find_state(scope)
        if state is None or state.body is None:
            await at_the_edge(self, scope, receive, send, limits=self._body)
            return
        attempt = state.attempt
        deployment = self._deployment(state, attempt, scope)
        if deployment is not None and self._model_of is not None:
            self._tell_of_unknown(deployment)
        if deployment is None or not self._gate.covers(deployment):
            if attempt is not None and not self._starts_inside:
                attempt.start()
            await self.app(scope, receive, send)
            return
        state.bound(self._timeouts)
        lease = attempt.lease if attempt is not None else None
        if lease is None:
            if attempt is not None and not attempt.waits and not self._gate.is_ready(deployment):
                raise QueueFullError(f"the model of '{deployment.id}' is not in memory, or its place is wanted")
            lease = await self._gate.admit(
                deployment,
                deadline=state.commit_by,
                priority=state.priority,
                may_spill=attempt is not None and attempt.others,
            )
        if attempt is None:
            attempt = state.attempt = Attempt(number=1, deployment=deployment, started=time.monotonic())
            state.attempts = 1
        attempt.lease = lease
        try:
            if not self._starts_inside:  # a queue further in must not hold a half-open breaker's probe
                attempt.start()
            await self.app(scope, ReplayReceive(state), send)
        except AttemptError as exc:
            if exc.code == VRAMExhaustedError.code:
                self._gate.doubt()
            if not attempt.keeps_lease:
                let_go(lease, busy=exc.engine_busy)
            raise
        except Exception as exc:
            let_go(lease, busy=isinstance(exc, DeadlineExceededError))
            attempt.lease = None
            raise
        except BaseException:  # cancelled: the client has left, the engine may not know yet
            lease.drain()
            raise
        lease.release()
        attempt.lease = None  # should the resilience layer have kept the answer back, the next attempt asks anew

    def _tell_of_unknown(self, deployment: Deployment) -> None:
        """Warn once of a backend that the gate has no lifecycle for: its models would pass ungated, in silence."""
        if deployment.backend not in self._unknown and not self._gate.knows(deployment.backend):
            self._unknown.add(deployment.backend)
            logger.warning("the gate knows no backend %r: its models are not gated", deployment.backend)

    def _deployment(self, state: RequestState, attempt: Attempt | None, scope: Scope) -> Deployment | None:
        if self._model_of is not None:
            deployment = self._model_of(scope)
            # Who names a model here wants it gated.
            return deployment if deployment is None or deployment.gated else replace(deployment, gated=True)
        if attempt is not None:
            return attempt.deployment
        return state.plan.candidates[0] if state.plan is not None else None
