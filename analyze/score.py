"""Features -> a score of 0 to 100, with what each feature contributed.

A card is data: a base, and for each feature rows that begin at a value. A feature contributes the points of the last
row at or below its value, and nothing below the first row; the score is the sum, cut to 0..100. Points are integers,
and so are the features: nothing here is ever a float.

The cards state hypotheses, not findings: no public data set tells which of these tokens were worth buying. What is
known is the order of their scores, and how many reach each risk level (see the strategies).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Final, NamedTuple

from schemas.config import RISK_THRESHOLDS
from schemas.events import RiskLevel

SCORE_MAX: Final = 100

# What every decision shows, whether the strategy counts it or not.
ALWAYS_SHOWN: Final = ("age_ms", "market_cap_lamports")

# Below every value that a feature can have: a row that begins here holds for all that later rows do not take.
ALL: Final = -(10**30)


class Silence(StrEnum):
    """Why a strategy says nothing of a token."""

    NO_CURVE = "NO_CURVE"  # bonk, USDC: its frames show no curve, so nothing tells its price
    NOT_OPEN = "NOT_OPEN"  # its creation was not seen, or it is not open any more
    COMPLETE = "COMPLETE"  # the curve is sold out
    MIGRATED = "MIGRATED"  # it has left the curve
    NO_MARKET = "NO_MARKET"  # a trade that did not state the reserves
    WINDOW_OVER = "WINDOW_OVER"  # later than the strategy looks
    TOO_FEW_BUYERS = "TOO_FEW_BUYERS"  # less evidence than the strategy asks for
    NOT_CLOSE = "NOT_CLOSE"  # too little of the curve is sold
    NO_MODEL = "NO_MODEL"  # no trained model is loaded
    TOO_EARLY = "TOO_EARLY"  # before the model's decision point
    POINT_OVER = "POINT_OVER"  # after it: a model looks once


class Row(NamedTuple):
    """From this value of the feature on: so many points, under this name."""

    from_value: int
    label: str
    points: int


class Scored(NamedTuple):
    """score: 0 to 100. rows: what made it, the base first. features: all of the token. names: those that count here."""

    score: int
    rows: tuple[Row, ...]
    features: dict[str, int]
    names: tuple[str, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """`label:points`, the largest contribution first; those of equal size in the card's order."""
        moved = sorted((row for row in self.rows if row.points), key=lambda row: -abs(row.points))
        return tuple(f"{row.label}:{row.points:+d}" for row in moved)

    @property
    def used(self) -> dict[str, int]:
        """The features that count here, and when."""
        return {name: self.features[name] for name in (*ALWAYS_SHOWN, *self.names)}


class Card:
    """A base and the rows of each feature. Raises ValueError where rows do not ascend or share a label."""

    def __init__(self, base: int, rows: Mapping[str, Sequence[tuple[int, str, int]]]) -> None:
        self.base = Row(ALL, "base", base)
        self.rows = {feature: tuple(Row(*row) for row in of_feature) for feature, of_feature in rows.items()}
        for feature, of_feature in self.rows.items():
            if any(a.from_value >= b.from_value for a, b in pairwise(of_feature)):
                raise ValueError(f"rows of {feature} do not ascend")
        labels = [row.label for of_feature in self.rows.values() for row in of_feature]
        if len(set(labels)) != len(labels):
            raise ValueError("two rows share a label")
        self._names = tuple(self.rows)
        self._lookup = [(feature, [row.from_value for row in of], of) for feature, of in self.rows.items()]

    def score(self, features: dict[str, int]) -> Scored:
        """Raises KeyError for a feature that the card asks for and is not there."""
        rows, points = [self.base], self.base.points
        for feature, from_values, of_feature in self._lookup:
            index = bisect_right(from_values, features[feature])
            if index:
                row = of_feature[index - 1]
                rows.append(row)
                points += row.points
        return Scored(max(0, min(SCORE_MAX, points)), tuple(rows), features, self._names)


_BY_CAUTION: Final = sorted(RISK_THRESHOLDS.items(), key=lambda item: -item[1])


def risk_of(score: int) -> RiskLevel | None:
    """The most cautious risk level that takes this score; None if none does."""
    return next((level for level, threshold in _BY_CAUTION if score >= threshold), None)
