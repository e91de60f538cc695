"""analyze/score.py: a score is a sum of table rows, and says which."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyze.score import ALL, Card, risk_of
from analyze.strategies import graduation, momentum, sniper
from schemas.events import RiskLevel

CARD = Card(10, {"a": ((0, "a_low", 5), (100, "a_high", -20)), "b": ((ALL, "b_any", 0), (7, "b_seven", 90))})


@pytest.mark.parametrize(
    ("a", "b", "score", "reasons"),
    [
        (-1, 0, 10, ("base:+10",)),  # below a's first row, and b contributes nothing
        (0, 6, 15, ("base:+10", "a_low:+5")),
        (99, 6, 15, ("base:+10", "a_low:+5")),  # a row holds until the next begins
        (100, 6, 0, ("a_high:-20", "base:+10")),  # -10 is cut to 0
        (0, 7, 100, ("b_seven:+90", "base:+10", "a_low:+5")),  # 105 is cut to 100
        (100, 10**20, 80, ("b_seven:+90", "a_high:-20", "base:+10")),
    ],
)
def test_the_last_row_at_or_below_the_value_contributes(a: int, b: int, score: int, reasons: tuple[str, ...]) -> None:
    scored = CARD.score({"a": a, "b": b})
    assert (scored.score, scored.reasons) == (score, reasons)


def test_a_missing_feature_is_an_error_not_a_zero() -> None:
    with pytest.raises(KeyError):
        CARD.score({"a": 1})


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ({"a": ((5, "x", 1), (5, "y", 2))}, "do not ascend"),
        ({"a": ((0, "x", 1),), "b": ((0, "x", 2),)}, "share a label"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(
    rows: dict[str, tuple[tuple[int, str, int], ...]], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        Card(0, rows)


@given(st.data(), st.sampled_from([sniper.CARD, momentum.CARD, graduation.CARD]))
def test_the_reasons_add_up_to_the_score_and_come_by_size(data: st.DataObject, card: Card) -> None:
    features = {name: data.draw(st.integers(-(10**12), 10**12), name) for name in card.rows}
    scored = card.score(features)
    points = [int(reason.rpartition(":")[2]) for reason in scored.reasons]
    assert scored.score == max(0, min(100, sum(points)))
    assert [abs(p) for p in points] == sorted((abs(p) for p in points), reverse=True)
    assert 0 not in points
    assert scored.features is features


def test_a_score_shows_the_features_that_count_and_no_others() -> None:
    scored = CARD.score({"age_ms": 1, "a": 2, "b": 3, "c": 4, "market_cap_lamports": 5})
    assert scored.used == {"age_ms": 1, "market_cap_lamports": 5, "a": 2, "b": 3}


@pytest.mark.parametrize(
    ("score", "risk"),
    [(0, None), (49, None), (50, RiskLevel.HIGH), (64, RiskLevel.HIGH), (65, RiskLevel.MEDIUM), (79, RiskLevel.MEDIUM),
     (80, RiskLevel.LOW), (100, RiskLevel.LOW)],
)  # fmt: skip
def test_the_risk_is_the_most_cautious_level_that_takes_the_score(score: int, risk: RiskLevel | None) -> None:
    assert risk_of(score) is risk
