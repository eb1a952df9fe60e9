"""What one backend listed last, and when a list takes the place of the one before.

A list is believed as it comes, but for one case: an engine that listed models and now lists none may only have been
started too early (its disk is not there yet), and one such answer must not take all its models from everybody. It is
believed when the engine's next list is empty too, and was asked for `CONFIRM_AFTER_S` later, or by the operator. A
failure in between says nothing of the models, and the doubt begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..deployment import ModelInfo
from ..exceptions import SmartRouterError

CONFIRM_AFTER_S = 5.0


@dataclass(slots=True)
class Listing:
    """The last list that was believed, and what has become of asking since."""

    models: tuple[ModelInfo, ...] = ()
    listed_at: float | None = None
    tried_at: float | None = None
    emptied_at: float | None = None
    """When the first empty list came, as long as none is believed."""
    error: SmartRouterError | None = None

    def is_due(self, *, now: float, max_age_s: float) -> bool:
        """Tell whether to ask again; a doubt is settled as soon as it can be."""
        if self.emptied_at is not None:
            max_age_s = min(max_age_s, CONFIRM_AFTER_S)
        return self.tried_at is None or now - self.tried_at > max_age_s

    def take(self, models: Sequence[ModelInfo], *, asked_at: float, by_operator: bool, now: float) -> bool:
        """Take a list in; tell whether it is believed."""
        self.tried_at = now
        self.error = None
        if self.models and not models:
            if self.emptied_at is None:
                self.emptied_at = now
                return False
            if not by_operator and asked_at - self.emptied_at < CONFIRM_AFTER_S:
                return False
        self.models = tuple(models)
        self.listed_at = now
        self.emptied_at = None
        return True

    def fail(self, error: SmartRouterError, *, now: float) -> None:
        """Take in that there was no list."""
        self.tried_at = now
        self.error = error
        self.emptied_at = None
