"""Affinity: requests that share a prompt's beginning go where its cache is. Pure.

Engines keep the work done on a prompt's beginning for a while; a conversation that stays at one of them begins sooner.
1. A key says what belongs together (`affinity_key`): a session's name, or the beginning of the prompt.
2. Weighted rendezvous hashing orders a tier by the key (`by_key`): each worker finds the same order by itself, shares
   are in proportion to weights, and a deployment that comes or goes moves no sessions but those it gains or loses.
3. A deployment that has far more to do than its share is passed over for the next in that order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import msgspec

from ..deployment import Deployment
from ..wire.call import Call

Affinity: TypeAlias = Literal["none", "session", "prefix"]
"""What keeps requests together: nothing, a session they name, or a session or else the prompt's beginning."""

AffinityKey: TypeAlias = Callable[[Affinity], bytes | None]
"""Finds the key of one request for a kind of affinity, when it is wanted; None: it belongs to nothing."""

SESSION_FIELDS = ("litellm_session_id", "prompt_cache_key")
"""Fields of a body that name a session: LiteLLM's, and OpenAI's for the very purpose."""

MESSAGE_BYTES = 2048
"""So much of a message's beginning counts; a first user message counts however long the instructions before it are."""

INSTRUCTIONS = 3
"""So many messages before the first of the user count."""

PROMPT_BYTES = 1024

_KEY_BYTES = 8
_HASH_BITS = 8 * _KEY_BYTES
_QUOTE = b'"'[0]
_FLOAT_BITS = 53  # of a hash, those that a float holds exactly

_messages_decoder = msgspec.json.Decoder(list[msgspec.Raw])


class _Role(msgspec.Struct):
    role: str = ""


_role_decoder = msgspec.json.Decoder(_Role)


def affinity_key(affinity: Affinity, call: Call, *, session: bytes | None) -> bytes | None:
    """Return what a call has in common with those it belongs to, hashed; None when it belongs to none.

    `session` is the name that came in a header; it goes before the body's. A `user` names a session only where nothing
    better is asked for: it is one person's, or one service's, and not one conversation's. Embeddings share no prompt.
    """
    if affinity == "none" or call.operation == "embeddings":
        return None
    name = session or next(filter(None, (_text(call, field) for field in SESSION_FIELDS)), None)
    if name is None and affinity == "session":
        name = _text(call, "user")
    if name is not None:
        return _hash(name)
    return _prefix_key(call) if affinity == "prefix" else None


def by_key(
    deployments: Sequence[Deployment], key: bytes, inflight: Callable[[Deployment], float] | None = None
) -> list[Deployment]:
    """Order deployments for a key; the first that is not overloaded goes before all others.

    Overloaded: more than twice its share, and two, of what the others have in flight.
    """
    ranked = sorted(deployments, key=lambda deployment: _distance(deployment, key))
    if inflight is None or len(ranked) < 2:
        return ranked
    loads = [inflight(deployment) for deployment in ranked]
    weights = [deployment.weight for deployment in ranked]
    busy, weight = sum(loads), sum(weights)
    for index, (own, share) in enumerate(zip(loads, weights, strict=True)):
        others = weight - share
        if others <= 0 or own <= 2.0 * share * (busy - own) / others + 2.0:
            ranked.insert(0, ranked.pop(index))
            break
    return ranked


def _distance(deployment: Deployment, key: bytes) -> float:
    """Return how far a deployment is from a key: exponentially distributed, at the rate of its weight.

    The least of such numbers belongs to each deployment as often as its weight says.
    """
    if deployment.weight <= 0:
        return math.inf
    digest = hashlib.blake2b(deployment.id.encode(), digest_size=_KEY_BYTES, key=key).digest()
    uniform = ((int.from_bytes(digest) >> (_HASH_BITS - _FLOAT_BITS)) + 0.5) / 2.0**_FLOAT_BITS
    return -math.log(uniform) / deployment.weight


def _prefix_key(call: Call) -> bytes | None:
    """Return the key of what stays the same while a conversation goes on; None when there is nothing of it."""
    if call.operation == "completions":
        return _hash(memoryview(call.fields["prompt"])[:PROMPT_BYTES])
    try:
        messages = _messages_decoder.decode(call.fields["messages"])
    except (msgspec.DecodeError, RecursionError):
        return None  # the engine will say what is wrong with it
    parts: list[memoryview] = []
    for message in messages:
        is_users = _is_users(message)
        if is_users or len(parts) < INSTRUCTIONS:
            parts.append(memoryview(message)[:MESSAGE_BYTES])
        if is_users:
            break
    return _hash(*parts) if parts else None


def _is_users(message: msgspec.Raw) -> bool:
    try:
        return _role_decoder.decode(message).role == "user"
    except (msgspec.DecodeError, RecursionError):
        return False


def _text(call: Call, field: str) -> bytes | None:
    """Return the text of a field as it stands in the body; None when there is none."""
    raw = call.fields.get(field)
    if raw is None:
        return None
    view = memoryview(raw)
    return bytes(view[1:-1]) if view[0] == _QUOTE and len(view) > 2 else None


def _hash(*parts: bytes | memoryview) -> bytes:
    hasher = hashlib.blake2b(digest_size=_KEY_BYTES)
    for part in parts:
        hasher.update(part)
    return hasher.digest()
