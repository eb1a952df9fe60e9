"""The wire form of the simulated Ollama: statuses, bodies, streams, options."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from smartrouter_asgi.testing.ollama import GIB, MIB, SimulatedModel, demo_models

from .simulated_engine import ask, lines, plain

CHAT = plain("chat", 2)
TOOLS = plain("tools", 2, capabilities=("completion", "tools"))
THINK = plain("think", 2, capabilities=("completion", "thinking", "tools"))
EMBED = plain("embed", 1, capabilities=("embedding",), embedding_length=64, context_length=32)

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "d",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture
async def client(start):
    _, client = await start(CHAT, TOOLS, THINK, EMBED, num_parallel=4)
    return client


async def test_the_root_and_the_version_look_like_ollama(client):
    for method in ("GET", "HEAD"):
        root = await client.request(method, "/")
        assert (root.status_code, root.headers["content-length"]) == (200, "17")
        assert root.text == ("Ollama is running" if method == "GET" else "")
    assert (await client.get("/api/version")).json() == {"version": "0.33.0"}
    assert (await client.head("/api/version")).status_code == 200
    assert (await client.head("/api/tags")).status_code == 200


async def test_an_unknown_path_is_404_text_and_a_wrong_method_405(client):
    missing = await client.get("/api/nothing")
    assert (missing.status_code, missing.text) == (404, "404 page not found")
    wrong = await client.get("/api/chat")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:11434", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("10.1.2.3", 200),
        ("box.local", 200),
        ("gateway.example.com", 403),
        ("8.8.8.8:80", 403),
    ],
)
async def test_a_foreign_host_header_gets_an_empty_403(client, host, status):
    response = await client.get("/api/version", headers={"host": host})
    assert response.status_code == status
    assert bool(response.content) == (status == 200)


async def test_tags_tell_size_digest_details_and_capabilities(client):
    tags = {row["name"]: row for row in (await client.get("/api/tags")).json()["models"]}
    assert set(tags) == {"chat:latest", "tools:latest", "think:latest", "embed:latest"}
    row = tags["think:latest"]
    assert row["model"] == row["name"]
    assert row["size"] == 2 * GIB
    assert re.fullmatch(r"[0-9a-f]{64}", row["digest"])
    assert row["details"]["family"] == "simulated"
    assert row["capabilities"] == ["completion", "thinking", "tools"]


async def test_show_has_the_keys_that_a_memory_estimate_needs(start):
    model = SimulatedModel("llama", 4 * GIB, parameters={"num_ctx": 4096, "stop": ["<a>", "<b>"]})
    _, client = await start(model)
    shown = (await client.post("/api/show", json={"model": "llama"})).json()
    info = shown["model_info"]
    architecture = info["general.architecture"]
    per_token = (
        info[f"{architecture}.block_count"]
        * info[f"{architecture}.attention.head_count_kv"]
        * (info[f"{architecture}.attention.key_length"] + info[f"{architecture}.attention.value_length"])
        * 2
    )
    assert per_token == model.kv_bytes_per_token == 131072
    assert [line.split() for line in shown["parameters"].splitlines()] == [
        ["num_ctx", "4096"],
        ["stop", '"\\u003ca\\u003e"'],
        ["stop", '"\\u003cb\\u003e"'],
    ]
    assert info["tokenizer.ggml.tokens"] is None
    verbose = (await client.post("/api/show", json={"model": "llama", "verbose": True})).json()
    assert len(verbose["model_info"]["tokenizer.ggml.tokens"]) > 5


async def test_a_chat_streams_by_default_one_object_a_line(client):
    async with client.stream("POST", "/api/chat", json={**ask("chat"), "stream": None}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/x-ndjson"
        events = [json.loads(line) async for line in response.aiter_lines()]
    *parts, last = events
    assert all(event["done"] is False and "done_reason" not in event for event in parts)
    assert all(event["message"]["content"] for event in parts)
    assert last["message"] == {"role": "assistant", "content": ""}
    assert (last["done"], last["done_reason"]) == (True, "stop")
    assert last["eval_count"] == len(parts)
    text = "".join(event["message"]["content"] for event in parts)
    assert text.startswith("This is a simulated answer from chat:latest to: «hello there».")
    assert any(ord(character) > 0xFFFF for character in text)
    assert all(event["model"] == "chat" for event in events)


async def test_an_answer_in_one_piece_is_json_with_durations_in_nanoseconds(client):
    before = datetime.now(UTC)
    response = await client.post("/api/generate", json={"model": "chat", "prompt": "why?", "stream": False})
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    body = response.json()
    assert body["response"].startswith("This is a simulated answer")
    assert len(body["context"]) == body["prompt_eval_count"] + body["eval_count"]
    assert 0.9e9 < body["load_duration"] < body["total_duration"]
    assert body["eval_duration"] >= body["eval_count"] / CHAT.tokens_per_s * 1e9 * 0.9
    created = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?Z", body["created_at"])
    assert created
    assert abs((datetime.fromisoformat(created[1] + "+00:00") - before).total_seconds()) < 60


async def test_a_statistic_that_is_zero_is_missing(client):
    body = (await client.post("/api/chat", json=ask("chat", options={"num_predict": 0}))).json()
    assert (body["message"]["content"], body["done_reason"]) == ("", "length")
    assert "eval_count" not in body
    assert "eval_duration" not in body
    assert body["prompt_eval_count"] > 0


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/api/chat", b"", 400, "missing request body"),
        ("/api/chat", b"{nonsense", 400, "invalid character 'n' looking for beginning of value"),
        ("/api/chat", b"[]", 400, "json: cannot unmarshal array into Go value of type api.ChatRequest"),
        ("/api/chat", {"messages": []}, 400, "model is required"),
        ("/api/chat", ask("in valid"), 400, "model is required"),
        ("/api/chat", ask("none"), 404, "model 'none' not found"),
        ("/api/generate", {"model": "none:7b"}, 404, "model 'none:7b' not found"),
        ("/api/generate", {}, 404, "model '' not found"),
        ("/api/show", {"model": "none"}, 404, "model 'none' not found"),
        ("/api/show", {}, 400, "model is required"),
        ("/api/embed", {"model": "none", "input": "x"}, 404, 'model "none" not found, try pulling it first'),
        ("/api/embeddings", {"prompt": "x"}, 400, "model is required"),
        ("/api/embed", {"model": "embed", "input": [1, 2]}, 400, "invalid input type"),
        ("/api/embed", {"model": "embed", "input": [[1, 2]]}, 400, "invalid input type"),
        ("/api/chat", ask("embed"), 400, '"embed" does not support chat'),
        ("/api/generate", {"model": "embed", "prompt": "x"}, 400, '"embed" does not support generate'),
        ("/api/chat", ask("chat", tools=[WEATHER]), 400, '"chat" does not support tools'),
        ("/api/chat", ask("chat", think=True), 400, '"chat" does not support thinking'),
        ("/api/chat", ask("chat", think="high"), 400, '"chat" does not support thinking'),
        ("/api/chat", ask("think", think="huge"), 400, "invalid think value"),
        ("/api/chat", ask("chat", keep_alive="300"), 400, 'time: missing unit in duration "300"'),
        ("/api/chat", ask("chat", keep_alive="5x"), 400, 'time: unknown unit "x" in duration "5x"'),
        ("/api/chat", ask("chat", format="yaml"), 400, "invalid format"),
        ("/api/chat", ask("chat", top_logprobs=21), 400, "top_logprobs must be between 0 and 20"),
        ("/api/chat", ask("chat", options={"num_ctx": "8k"}), 500, 'option "num_ctx" must be of type integer'),
        ("/api/chat", ask("chat", options={"temperature": "hot"}), 500, 'option "temperature" must be of type float32'),
        ("/api/chat", ask("chat", options={"stop": "x"}), 500, 'option "stop" must be of type array'),
    ],
)
async def test_what_is_wrong_with_a_request_is_an_error_text_with_ollamas_status(client, path, body, status, error):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await client.post(path, content=content)
    assert response.status_code == status
    assert response.json()["error"].startswith(error)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "text", "text": "parts"}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a":1}'}}]},
        {"role": "user", "content": "look", "images": ["data:image/png;base64,AAAA"]},
    ],
)
async def test_openai_shapes_are_refused_with_400(client, message):
    response = await client.post("/api/chat", json={"model": "chat", "messages": [message]})
    assert response.status_code == 400


async def test_the_native_shapes_of_the_same_things_are_accepted(client):
    messages = [
        {"role": "user", "content": "look", "images": ["AAAA"]},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "sunny", "tool_name": "f"},
    ]
    body = (await client.post("/api/chat", json=ask("tools", tools=[WEATHER]) | {"messages": messages})).json()
    assert "A tool said: «sunny»" in body["message"]["content"]


async def test_an_unknown_option_is_ignored(client):
    assert (await client.post("/api/chat", json=ask("chat", options={"sparkle": "yes"}))).status_code == 200


async def test_a_thinking_model_thinks_unless_told_not_to(client):
    thoughtful = (await client.post("/api/chat", json=ask("think"))).json()["message"]
    assert thoughtful["thinking"].startswith("Simulated reasoning")
    assert not thoughtful["content"].startswith("Simulated reasoning")
    assert "thinking" not in (await client.post("/api/chat", json=ask("think", think=False))).json()["message"]
    generated = await client.post("/api/generate", json={"model": "think", "prompt": "x", "think": "low"})
    events = lines(generated.text)
    assert events[0]["thinking"]
    assert events[0]["response"] == ""


async def test_tool_calls_are_whole_with_an_object_and_the_reason_stays_stop(client):
    response = await client.post("/api/chat", json=ask("tools", tools=[WEATHER], stream=True))
    (call_event, last) = lines(response.text)
    (call,) = call_event["message"]["tool_calls"]
    assert re.fullmatch(r"call_[a-z0-9]{8}", call["id"])
    assert call["function"]["name"] == "get_weather"
    assert call["function"]["arguments"] == {"city": "simulated", "days": 42}
    assert call_event["done"] is False
    assert (last["done"], last["done_reason"]) == (True, "stop")


async def test_a_model_may_put_all_tool_calls_into_the_last_event(start):
    _, client = await start(plain("m", 1, capabilities=("completion", "tools"), tool_calls_in="final"))
    other = {"type": "function", "function": {"name": "get_time"}}
    text = "call get_weather and get_time"
    response = await client.post("/api/chat", json=ask("m", text, tools=[WEATHER, other], stream=True))
    (last,) = lines(response.text)
    assert [call["function"]["name"] for call in last["message"]["tool_calls"]] == ["get_weather", "get_time"]
    assert [call["function"]["index"] for call in last["message"]["tool_calls"]] == [0, 1]
    assert (last["done"], last["done_reason"]) == (True, "stop")


@pytest.mark.parametrize(
    ("form", "check"),
    [
        ("json", lambda value: value["simulated"] is True),
        (
            {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 5},
                    "age": {"type": "integer", "minimum": 90},
                    "mood": {"enum": ["calm", "wild"]},
                    "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "minItems": 2},
                    "extra": {"anyOf": [{"type": "null"}, {"type": "string"}]},
                },
                "$defs": {"tag": {"type": "boolean"}},
            },
            lambda value: (
                len(value["name"]) == 5
                and value["age"] >= 90
                and value["mood"] == "calm"
                and value["tags"] == [True, True]
                and value["extra"] is None
            ),
        ),
    ],
)
async def test_a_format_is_honoured(client, form, check):
    body = (await client.post("/api/chat", json=ask("think", format=form))).json()
    assert check(json.loads(body["message"]["content"]))


async def test_num_predict_and_stop_end_an_answer(client):
    limited = (await client.post("/api/chat", json=ask("chat", options={"num_predict": 3}))).json()
    assert (limited["eval_count"], limited["done_reason"]) == (3, "length")
    stopped = (await client.post("/api/chat", json=ask("chat", options={"stop": ["zzz", " answer"]}))).json()
    assert (stopped["message"]["content"], stopped["done_reason"]) == ("This is a simulated", "stop")


@pytest.mark.parametrize("options", [{"seed": 7}, {"temperature": 0}])
async def test_a_seed_or_no_temperature_makes_answers_repeatable(client, options):
    texts = {
        (await client.post("/api/chat", json=ask("chat", options=options))).json()["message"]["content"]
        for _ in range(4)
    }
    assert len(texts) == 1


async def test_answers_differ_without_a_seed(client):
    texts = {(await client.post("/api/chat", json=ask("chat"))).json()["message"]["content"] for _ in range(8)}
    assert len(texts) > 1


async def test_logprobs_come_with_each_token(client):
    response = await client.post("/api/chat", json=ask("chat", stream=True, logprobs=True, top_logprobs=2))
    first, *_, last = lines(response.text)
    (entry,) = first["logprobs"]
    assert entry["token"] == first["message"]["content"]
    assert len(entry["top_logprobs"]) == 2
    assert "logprobs" not in last


async def test_a_prompt_counts_at_least_its_words_and_at_most_the_context(client):
    words = (await client.post("/api/chat", json=ask("chat", "one two three four five"))).json()
    assert words["prompt_eval_count"] >= 5
    long = (await client.post("/api/chat", json=ask("chat", "w " * 5000, options={"num_ctx": 1024}))).json()
    assert long["prompt_eval_count"] == 1024


async def test_vectors_have_length_one_and_are_the_same_for_the_same_text(client):
    texts = ["the cat sat", "the cat sat", "the cat slept", "quite another matter"]
    body = (await client.post("/api/embed", json={"model": "embed", "input": texts})).json()
    first, same, near, far = body["embeddings"]
    assert first == same
    assert len(first) == 64
    assert all(math.isclose(sum(x * x for x in vector), 1.0, rel_tol=1e-9) for vector in body["embeddings"])

    def cosine(other: list[float]) -> float:
        return sum(a * b for a, b in zip(first, other, strict=True))

    assert cosine(near) > cosine(far)
    assert body["prompt_eval_count"] == 3 + 3 + 4 + 5
    assert body["load_duration"] > 0
    short = (await client.post("/api/embed", json={"model": "embed", "input": texts[0], "dimensions": 8})).json()
    assert math.isclose(sum(x * x for x in short["embeddings"][0]), 1.0)
    assert len(short["embeddings"][0]) == 8


@pytest.mark.parametrize("given", [{}, {"input": ""}, {"input": []}, {"input": None}])
async def test_an_empty_embedding_input_loads_and_answers_no_vectors(start, given):
    engine, client = await start(EMBED)
    body = (await client.post("/api/embed", json={"model": "embed", **given})).json()
    assert body == {"model": "embed", "embeddings": []}
    assert engine.loaded == ("embed:latest",)


async def test_an_input_beyond_the_context_is_cut_or_refused(client):
    text = "word " * 40
    cut = await client.post("/api/embed", json={"model": "embed", "input": text})
    assert cut.json()["prompt_eval_count"] == 32
    refused = await client.post("/api/embed", json={"model": "embed", "input": text, "truncate": False})
    assert (refused.status_code, refused.json()["error"]) == (400, "the input length exceeds the context length")


async def test_the_legacy_embedding_is_one_vector_of_any_length(client):
    body = (await client.post("/api/embeddings", json={"model": "embed", "prompt": "some words"})).json()
    assert set(body) == {"embedding"}
    assert not math.isclose(sum(x * x for x in body["embedding"]), 1.0)
    assert (await client.post("/api/embeddings", json={"model": "embed"})).json() == {"embedding": []}


@pytest.mark.parametrize(
    "name", ["chat", "chat:latest", "CHAT", "library/chat", "registry.ollama.ai/library/chat:latest"]
)
async def test_a_model_has_more_than_one_spelling_and_the_answer_repeats_the_one_used(client, name):
    assert (await client.post("/api/chat", json=ask(name))).json()["model"] == name


async def test_calls_that_would_change_the_library_are_counted(start):
    engine, client = await start(CHAT)
    pulled = await client.post("/api/pull", json={"model": "x"})
    assert lines(pulled.text)[-1] == {"status": "success"}
    assert (await client.request("DELETE", "/api/delete", json={"model": "chat"})).status_code == 200
    assert (await client.post("/api/copy", json={})).status_code == 200
    assert (await client.head("/api/blobs/sha256:00")).status_code == 200
    assert engine.stats.mutating_calls == 4
    assert len((await client.get("/api/tags")).json()["models"]) == 1


async def test_the_log_has_method_path_headers_body_and_outcome(start):
    engine, client = await start(CHAT)
    await client.post("/api/chat", json=ask("chat"), headers={"X-Trace": "7"})
    await client.post("/api/chat", content=b"\xff")
    good, bad = engine.log
    assert (good.method, good.path, good.status, good.outcome) == ("POST", "/api/chat", 200, "done")
    assert good.headers["x-trace"] == "7"
    assert good.body == ask("chat")
    assert good.tokens > 0
    assert (bad.body, bad.status) == (b"\xff", 400)


async def test_the_demonstration_models_do_not_fit_together(start):
    models = demo_models()
    assert sum(model.size_bytes for model in models) > 24 * GIB
    engine, client = await start(*models)
    for model in models:
        if model.can("completion"):
            answer = (await client.post("/api/chat", json=ask(model.name))).json()
            assert "simulated" in answer["message"]["content"]
    assert engine.stats.loads == 4
    assert engine.stats.unloads > 0
    assert engine.stats.peak_vram_bytes <= 24 * GIB


def test_a_library_refuses_a_name_that_is_none_and_a_name_twice():
    from smartrouter_asgi.testing.ollama import SimulatedOllama

    with pytest.raises(ValueError, match="not a model name"):
        SimulatedModel("two words", 1)
    with pytest.raises(ValueError, match="two simulated models"):
        SimulatedOllama([plain("a", 1), plain("A:latest", 1)])
    with pytest.raises(ValueError, match="time_scale"):
        SimulatedOllama([], time_scale=0)


def test_the_default_cache_and_size_of_a_model_are_llama_like():
    model: Any = SimulatedModel("m", 4 * GIB)
    assert (model.kv_bytes_per_token, model.overhead_bytes) == (128 * 1024, 256 * MIB)
