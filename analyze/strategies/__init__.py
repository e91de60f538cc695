"""One module a strategy: features -> a score with its reasons, or silence with its reason.

GRADUATION and AI_PREDICTIONS have no module yet, so they are not in the table. A configuration may name them: such a
bot runs, and gets no decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Union

from analyze.features import Token
from analyze.score import Scored, Silence
from analyze.strategies import momentum, sniper
from schemas.events import Strategy

# (token, now_ns, gap_seen) -> what the strategy thinks of it.
Judge = Callable[[Token, int, bool], Union[Scored, Silence]]  # noqa: UP007

ON_CREATION: Final[Mapping[Strategy, Judge]] = {Strategy.SNIPER: sniper.judge}
ON_TRADE: Final[Mapping[Strategy, Judge]] = {Strategy.MOMENTUM: momentum.judge}
