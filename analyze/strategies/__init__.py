"""One module a strategy: a look at a token -> a score with its reasons, or silence with its reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Union

from analyze.features import Look
from analyze.score import Scored, Silence
from analyze.strategies import graduation, momentum, predictions, sniper
from schemas.events import Strategy

Judge = Callable[[Look], Union[Scored, Silence]]  # noqa: UP007

ON_CREATION: Final[Mapping[Strategy, Judge]] = {Strategy.SNIPER: sniper.judge}
ON_TRADE: Final[Mapping[Strategy, Judge]] = {
    Strategy.MOMENTUM: momentum.judge,
    Strategy.GRADUATION: graduation.judge,
    Strategy.AI_PREDICTIONS: predictions.judge,
}
