"""llama.cpp's own HTTP server in this process, with a model made on the spot: a real engine, on any CPU, in 50 ms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smartrouter_asgi.testing.gguf import write_tiny_gguf

CTX_PER_SLOT = 8192
SLOTS = 2
MODEL = "tiny-llama"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights."""
    pytest.importorskip("gguf", reason="the package gguf writes the model")
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_tiny_gguf(path, ctx=SLOTS * CTX_PER_SLOT)
    return path


def start_llama_server(model: Path, **fields: Any) -> Any:
    """Start llama.cpp's server; it stops when the object is gone."""
    xllamacpp = pytest.importorskip(
        "xllamacpp", reason="xllamacpp, which holds llama.cpp's server, has wheels for x86_64 Linux only"
    )
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {MODEL}
    params.n_ctx = SLOTS * CTX_PER_SLOT
    params.n_parallel = SLOTS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = False
    params.endpoint_metrics = True
    params.verbosity = 0  # nothing but errors on stderr
    for name, value in fields.items():
        setattr(params, name, value)
    return xllamacpp.Server(params)


@pytest.fixture(scope="session")
def llama(tiny_model: Path) -> Iterator[str]:
    """URL of a server as one starts it for chat: two slots, no embeddings."""
    server = start_llama_server(tiny_model)
    yield server.listening_address
    del server


@pytest.fixture(scope="session")
def llama_embeddings(tiny_model: Path) -> Iterator[str]:
    """URL of a server that was started with `--embeddings`."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="see start_llama_server")
    mean = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = start_llama_server(tiny_model, embedding=True, pooling_type=mean)
    yield server.listening_address
    del server
