"""analyze/rows.py: what is learnt from is what was known at the time, and what came of it."""

import random

import pytest

from analyze.features import FEATURE_NAMES
from analyze.rows import (
    GAIN_TIMES,
    LABELS,
    OUTCOME_NS,
    Collecting,
    Row,
    TooManyRows,
    outcome,
    split,
)
from analyze.strategies.predictions import DECISION_AGE_NS
from analyze.testing_train import SOL, START, Frame, Generator, events, rows_of
from analyze.windows import SECOND_NS
from ingest import market_frames as frames
from ingest.venues.pumpportal import parse
from schemas import amm, curve
from schemas.events import TokenCreated, TokenTraded


def test_a_row_is_what_was_known_at_the_first_trade_after_half_a_minute() -> None:
    made = Generator(3, edge=True, coins=4).frames()
    rows = _rows(made)
    assert len(rows) == 4
    for row in rows:
        features = dict(zip(FEATURE_NAMES, row.values, strict=True))
        assert features["age_ms"] == 31_000
        assert features["age_ms"] * 1_000_000 >= DECISION_AGE_NS
        assert features["unique_buyers"] == features["buys"] >= 3


def test_nothing_that_comes_later_changes_a_row() -> None:
    """No look-ahead: the stream cut right after the decision point gives the same features."""
    made = Generator(3, edge=True, coins=1).frames()
    [row] = _rows(made)
    end = Frame(made[-1].at_ns, made[-1].text)
    [cut] = _rows([frame for frame in made if frame.at_ns <= row.at_ns] + [end])
    assert cut.values == row.values
    assert cut.at_ns == row.at_ns


def test_a_coin_counts_only_when_its_outcome_had_time_to_happen() -> None:
    made = Generator(3, edge=True, coins=1).frames()
    [row] = _rows(made)
    early = [frame for frame in made if frame.at_ns <= row.at_ns]
    for after_ns, complete in ((OUTCOME_NS, False), (OUTCOME_NS + 1, True)):
        end = Frame(row.at_ns + after_ns, made[-1].text)
        assert len(_rows([*early, end])) == complete


@pytest.mark.parametrize(
    ("times", "after_s", "doubled"),
    [
        (2.01, 1, True),
        (2.01, 1_799, True),
        (2.01, 1_801, False),  # later than the half hour
        (1.99, 60, False),
    ],
)
def test_doubled_is_twice_the_price_of_the_decision_point_within_half_an_hour(
    times: float, after_s: int, doubled: bool
) -> None:
    [row] = _rows(_one_coin(times, after_s))
    assert GAIN_TIMES == 2
    assert row.doubled is doubled
    assert not row.migrated


def test_a_migration_is_one_and_its_price_counts() -> None:
    [row] = _rows(_one_coin(1.0, 60, migrate=True))
    assert (row.doubled, row.migrated) == (True, True)  # a complete curve is worth fourteen times a fresh one
    assert {label: outcome(row, label) for label in LABELS} == {"doubled": True, "migrated": True}


def test_rows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analyze.rows.ROWS_MAX", 5)
    with pytest.raises(TooManyRows, match="more than 5 rows"):
        _rows(Generator(3, edge=True, coins=6).frames())


def test_the_split_is_by_time_and_by_creator() -> None:
    training, held_out = split(rows_of(True))
    assert len(training) > 600
    assert len(held_out) > 200
    assert not {row.creator for row in training} & {row.creator for row in held_out}
    # No outcome of a training row lies behind the first held-out row.
    assert max(row.at_ns for row in training) + OUTCOME_NS <= min(row.at_ns for row in held_out)


def _rows(made: list[Frame]) -> list[Row]:
    collecting = Collecting()
    for event in events(made):
        collecting.feed(event)
    return collecting.rows


def _one_coin(times: float, after_s: int, migrate: bool = False) -> list[Frame]:
    """A coin whose market cap is so many times that of its decision point, so many seconds after it."""
    made = Generator(3, edge=True, coins=1).frames()
    *early, point = [frame for frame in made[:-1] if frame.at_ns <= START + 31 * SECOND_NS]
    traded = parse(point.text, point.at_ns)
    assert isinstance(traded, TokenTraded)
    assert traded.market is not None
    created = parse(made[0].text, made[0].at_ns)
    assert isinstance(created, TokenCreated)
    state, rng = curve.from_market(traded.market), random.Random(1)
    target = int(curve.market_cap_lamports(state) * times)
    while curve.market_cap_lamports(state) < target:
        state = curve.quote_buy_sol(state, SOL // 100).after
    at_ns = point.at_ns + after_s * SECOND_NS
    key = frames.pubkey(rng)
    later = frames.trade(rng, traded.mint, key, True, 1, 1, 1, key, state, frames.signature(rng))
    frames_later = [Frame(at_ns, later)]
    if migrate:
        frames_later = [Frame(at_ns, frames.migrate(rng, traded.mint))]
    end = frames.create(
        rng, frames.pubkey(rng), key, key, 0, 0, curve.FRESH, frames.text(rng), False, frames.signature(rng)
    )
    return [*early, point, *frames_later, Frame(START + 4 * OUTCOME_NS, end)]


def test_a_pools_trade_tells_a_price_too() -> None:
    made = _one_coin(1.0, 60)
    traded = parse(made[-2].text, made[-2].at_ns)
    assert isinstance(traded, TokenTraded)
    rng = random.Random(2)
    swap = amm.quote_buy_sol(amm.AT_MIGRATION, SOL)
    text = frames.trade_migrated(
        traded.mint, frames.pubkey(rng), True, swap.tokens, swap.curve_lamports, 1, None, frames.signature(rng)
    )
    [row] = _rows([*made[:-2], Frame(made[-2].at_ns, text), made[-1]])
    assert row.doubled
