"""The `models` and `discovery` sections: which names exist and where each is served."""

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from .fields import Count, Name, Positive, PositiveBytes, Problem, Seconds, Section, lowered, refuse


class CapabilitySettings(Section):
    """What a model can do at a deployment; what is not said is as the engine tells, else as the backend's are."""

    chat: bool | None = None
    completions: bool | None = None
    embeddings: bool | None = None
    tools: bool | None = None
    vision: bool | None = None
    json_schema: bool | None = None
    insert: bool | None = None
    """Completions with a `suffix`."""
    thinking: bool | None = None
    context_length: Count | None = None
    """Tokens a prompt and its answer may have together."""


class DeploymentSettings(Section):
    """One place that can serve a model."""

    backend: Name
    model: Name
    """The upstream id, without the backend's prefix."""
    vram_bytes: PositiveBytes | None = Field(default=None, alias="vram")
    """What it needs of GPU memory; estimated when not given."""
    order: Count = 1
    """Lower orders are tried first."""
    weight: Positive = 1.0
    """Share among deployments of the same order."""
    max_parallel: Count | None = None
    num_ctx: Count | None = None
    """Context length with which the engine loads this model; the backend's when not given."""
    capabilities: CapabilitySettings = Field(default_factory=CapabilitySettings)


class ModelSettings(Section):
    """One configured model name."""

    name: Name
    balance: Annotated[Literal["weighted", "least_busy", "latency"], BeforeValidator(lowered)] = "weighted"
    affinity: Annotated[Literal["none", "session", "prefix"], BeforeValidator(lowered)] = "none"
    """What keeps requests at one deployment of a tier, for the sake of its prompt cache."""
    deployments: tuple[DeploymentSettings, ...]
    """At least one."""
    fallbacks: tuple[Name, ...] = ()
    context_window_fallbacks: tuple[Name, ...] = ()
    content_policy_fallbacks: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        seen: Counter[tuple[str, str]] = Counter()
        problems = [] if self.deployments else [Problem(path=("deployments",), message="expected at least one")]
        for index, deployment in enumerate(self.deployments):
            place = (deployment.backend, deployment.model)
            if seen[place]:
                message = "listed twice: to give it a larger share, raise its weight"
                problems.append(Problem(path=("deployments", index), message=message))
            seen[place] += 1
        refuse(problems)
        return self


class DiscoverySettings(Section):
    """Which of the models the backends list are offered under their own ids."""

    enabled: bool = True
    ttl_s: Seconds = Field(default=30.0, alias="ttl")
    include: tuple[str, ...] = ("*",)
    """Shell patterns over upstream ids."""
    exclude: tuple[str, ...] = ()
