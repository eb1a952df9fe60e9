"""/api/embed and the legacy /api/embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .effects import Ticket
from .errors import APIError, ConnectionDropped
from .generation import count_tokens
from .gotime import nanoseconds
from .models import canonical_name
from .options import parse_options
from .requests import Embedding, parse_embed, parse_embeddings
from .simulation import omit_empty, send_json
from .vectors import embed, normalized

if TYPE_CHECKING:
    from .effects import Runner
    from .faults import Fault
    from .http_parser import Request
    from .http_server import Response
    from .models import SimulatedModel
    from .observation import Exchange
    from .simulation import Simulation


class EmbeddingEndpoints:
    """The two endpoints for vectors."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    async def embed(self, request: Request, response: Response, exchange: Exchange) -> None:
        """POST /api/embed: vectors of length 1; an empty input only loads."""
        simulation = self._simulation
        asked = parse_embed(request.body)
        began_s = simulation.clock.now_s()
        found = simulation.library.find(asked.model)
        fault = await simulation.meet(request.path, found, response)
        if fault is None:
            return
        if found is None and canonical_name(asked.model) is None:
            raise APIError(404, f"model '{asked.model}' not found")
        model = _pulled(asked.model, found)
        ticket, num_ctx = self._ticket(asked, model)
        async with simulation.pool.hold(ticket, fault) as runner:
            loaded_s = simulation.clock.now_s()
            if not asked.texts:
                await send_json(response, {"model": asked.model, "embeddings": []})
                return
            tokens = sum(_tokens(text, num_ctx, truncate=asked.truncate) for text in asked.texts)
            await self._evaluate(ticket, runner, tokens, fault, exchange)
            vectors = [
                normalized(embed(text, model.embedding_length), max(0, asked.dimensions)) for text in asked.texts
            ]
        now_s = simulation.clock.now_s()
        counts = omit_empty(
            total_duration=nanoseconds(now_s - began_s),
            load_duration=nanoseconds(loaded_s - began_s),
            prompt_eval_count=tokens,
        )
        await send_json(response, {"model": asked.model, "embeddings": vectors, **counts})

    async def embeddings(self, request: Request, response: Response, exchange: Exchange) -> None:
        """POST /api/embeddings: one vector of any length; an empty prompt only loads."""
        simulation = self._simulation
        asked = parse_embeddings(request.body)
        found = simulation.library.find(asked.model)
        fault = await simulation.meet(request.path, found, response)
        if fault is None:
            return
        if found is None and canonical_name(asked.model) is None:
            raise APIError(400, "model is required")
        model = _pulled(asked.model, found)
        ticket, num_ctx = self._ticket(asked, model)
        async with simulation.pool.hold(ticket, fault) as runner:
            vector: list[float] = []
            for text in asked.texts:
                await self._evaluate(ticket, runner, _tokens(text, num_ctx, truncate=True), fault, exchange)
                vector = embed(text, model.embedding_length)
        await send_json(response, {"embedding": vector})

    def _ticket(self, asked: Embedding, model: SimulatedModel) -> tuple[Ticket, int]:
        load, _ = parse_options(model, asked.options, default_num_ctx=self._simulation.default_num_ctx, shift=True)
        return Ticket(model, load, asked.keep_alive_s), load.num_ctx

    async def _evaluate(self, ticket: Ticket, runner: Runner, tokens: int, fault: Fault, exchange: Exchange) -> None:
        """Take a slot and the time for so many tokens; a crash strikes before the answer, whatever `after_tokens`."""
        simulation = self._simulation
        stats = simulation.observation.stats
        await simulation.pool.slot(ticket)
        stats.active_generations += 1
        stats.peak_active_generations = max(stats.peak_active_generations, stats.active_generations)
        simulation.observation.changed()
        finished = False
        try:
            await simulation.clock.sleep(tokens / runner.model.prompt_tokens_per_s + fault.first_token_delay_s)
            if fault.stall is not None:
                await simulation.faults.until_cleared()
            if fault.crash is not None:
                simulation.pool.crashed(runner, fault.crash_message, kills_runner=fault.kills_runner)
                if fault.crash == "error":
                    raise APIError(500, fault.crash_message)
                raise ConnectionDropped(reset=fault.crash == "reset")
            exchange.tokens += tokens
            finished = True
        finally:
            stats.active_generations -= 1
            stats.generations += finished
            stats.aborted_generations += not finished
            simulation.observation.changed()


def _pulled(name: str, found: SimulatedModel | None) -> SimulatedModel:
    if found is None:
        raise APIError(404, f'model "{name}" not found, try pulling it first')
    return found


def _tokens(text: str, num_ctx: int, *, truncate: bool) -> int:
    tokens = count_tokens(text)
    if tokens > num_ctx and not truncate:
        raise APIError(400, "the input length exceeds the context length")
    return min(tokens, num_ctx)
