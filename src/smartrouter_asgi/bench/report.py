"""A benchmark of the user's own engine as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .page import bullets, facts, grid, heading, page, paragraph, table
from .plan import SIDES
from .plots import Axis, Plot, Series, figure
from .statistics import curve
from .words import DIFFERENCES, Result, headline, interval, method, rows, signed, verdict

WIDE = 20.0
"""Highest per lowest value from which a scale is logarithmic."""


def report(result: Result) -> str:
    """Return the page; it holds what the result holds, and nothing that would have to be fetched."""
    return page("Direct against routed", _parts(result), footer=_footer(result))


def _parts(result: Result) -> Iterator[str]:
    engine = result["engine"]
    yield paragraph(f"{engine['model']} on {engine['type']}, {result['measured_at'][:10]}", "soft")
    yield paragraph(headline(result), "lead")
    if not result["complete"]:
        yield paragraph("Stopped early: these are the requests that had ended by then.", "lead warn")
    if result["failures"]:
        failed = sum(row["count"] for row in result["failures"])
        yield paragraph(f"{failed} of {_requests(result)} requests failed and are left out.", "lead warn")
        yield table(("side", "reason", "requests"), [_failure(row) for row in result["failures"]], texts=2)
    yield heading("Figures")
    yield table(("", "direct", "routed"), rows(result))
    if result["added"] is not None:
        yield table(
            ("routed minus direct", "difference (95 % interval)", ""),
            [
                (title, interval(found), (verdict(found), _kind(found)))
                for name, title in DIFFERENCES
                if (found := result["added"][name]) is not None
            ],
            texts=3,
        )
    yield heading("Plots")
    yield grid((_first_tokens(result), _added(result), _gaps(result), _course(result)))
    yield heading("How it was measured")
    yield bullets(method(result))
    yield facts(_circumstances(result))


def _first_tokens(result: Result) -> str:
    values = {side: _values(result, side, "ttft_ms") for side in SIDES}
    return figure(
        Plot(
            title="Time to first token",
            x=Axis(label="ms", log=_is_wide([*values["direct"], *values["routed"]])),
            y=Axis(label="% of requests that took no longer", zero=True),
            series=[Series(name=side, points=_distribution(values[side]), kind="step") for side in SIDES],
            note="The further left, the sooner the first token is there.",
        )
    )


def _gaps(result: Result) -> str:
    curves = {side: result["sides"][side].get("gap_curve") or [] for side in SIDES}
    values = [value for found in curves.values() for value, _ in found if value > 0]
    return figure(
        Plot(
            title="Time between tokens",
            x=Axis(label="ms", log=_is_wide(values)),
            y=Axis(label="% of gaps that were no longer", zero=True),
            series=[
                Series(name=side, points=[(value, share) for value, share in curves[side]], kind="step")
                for side in SIDES
            ],
            note="A stream that stutters has a long tail to the right at the top.",
        )
    )


def _added(result: Result) -> str:
    """Draw each pair's difference; what came second in its pair must not look different."""
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for number, (direct, routed) in enumerate(_pairs(result), start=1):
        found[direct["first"]].append((number, routed["ttft_ms"] - direct["ttft_ms"]))
    middle = result["added"]["ttft_p50_ms"] if result["added"] else None
    rules = []
    if middle is not None:
        rules = [
            Series(name=f"median {signed(middle['value'])} ms", points=[(0, middle["value"])], kind="rule", colour=8)
        ]
    return figure(
        Plot(
            title="Added to the first token, pair by pair",
            x=Axis(label="pair"),
            y=Axis(label="ms, routed minus direct", zero=True),
            series=[
                Series(name="direct was first", points=found[True], kind="points", colour=1),
                Series(name="routed was first", points=found[False], kind="points", colour=2),
                *rules,
            ],
            note="Points on both sides of zero are noise. The two colours should lie alike.",
        )
    )


def _course(result: Result) -> str:
    points: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for number, sample in enumerate(result["samples"], start=1):
        if "failure" not in sample:
            points[sample["side"]].append((number, sample["total_ms"]))
    values = [value for found in points.values() for _, value in found]
    return figure(
        Plot(
            title="Whole answers in the course of the run",
            x=Axis(label="request"),
            y=Axis(label="ms", log=_is_wide(values), zero=not _is_wide(values)),
            series=[Series(name=side, points=points[side], kind="points") for side in SIDES],
            note="A drift or a jump that both sides share is the engine's or the machine's.",
        )
    )


def _pairs(result: Result) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    by_place: dict[tuple[int, int], dict[str, Mapping[str, Any]]] = {}
    for sample in result["samples"]:
        if "failure" not in sample:
            by_place.setdefault((sample["round"], sample["slot"]), {})[sample["side"]] = sample
    return [(found["direct"], found["routed"]) for found in by_place.values() if len(found) == len(SIDES)]


def _values(result: Result, side: str, metric: str) -> list[float]:
    return [sample[metric] for sample in result["samples"] if sample["side"] == side and "failure" not in sample]


def _distribution(values: Sequence[float]) -> list[tuple[float, float]]:
    found = curve(values) if values else []
    return [(found[0][0], 0.0), *found] if found else []


def _is_wide(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) / min(values) > WIDE


def _kind(found: Mapping[str, Any]) -> str:
    return {"more": "fair", "less": "good"}.get(found["verdict"], "")


def _failure(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["side"], row["reason"], str(row["count"])


def _requests(result: Result) -> int:
    return sum(int(result["sides"][side]["requests"]) for side in SIDES)


def _circumstances(result: Result) -> Iterator[tuple[str, str]]:
    machine, plan = result["machine"], result["plan"]
    yield "engine", f"{result['engine']['type']} at {result['engine']['url']}"
    yield "model", f"{result['engine']['model']} ({result['engine']['chosen']})"
    if result["router"]["url"]:
        yield "router", result["router"]["url"]
    yield "answers", f"at most {plan['max_tokens']} tokens, prompt: {plan['prompt']}"
    yield "load from", f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}"
    python = f"{machine['implementation']} {result['versions']['python']}"
    yield "versions", ", ".join([python, *(f"{k} {v}" for k, v in result["versions"].items() if k != "python")])
    yield "measured", result["measured_at"]


def _footer(result: Result) -> str:
    return f"Made by smartrouter-asgi {result['versions'].get('smartrouter-asgi', '')} bench"
