"""analyze/strategies: what each strategy likes, when it is silent, and how many tokens reach each risk level."""

from pathlib import Path
from typing import Any

import pytest

from analyze.features import SECOND_NS, Launches, Token, known_arithmetic
from analyze.memory import LaunchCounts
from analyze.score import Card, Scored, Silence
from analyze.strategies import ON_CREATION, ON_TRADE, momentum, sniper
from ingest.recording import parse_line
from ingest.venues.pumpportal import parse
from schemas import curve
from schemas.config import RISK_THRESHOLDS
from schemas.events import Market, Quote, RiskLevel, Side, Strategy, TokenCreated, TokenTraded

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
RECORDING = SHARED / "data" / "pumpportal_session_jouleka_2026-07-03.jsonl"
START = 1_790_000_000 * SECOND_NS
SOL = 1_000_000_000
FIRST = Launches(1, 1, 1)


def market(state: curve.Curve, at_ns: int) -> Market:
    return Market(virtual_lamports=state.virtual_lamports, virtual_tokens=state.virtual_tokens, seen_at_ns=at_ns)


def token(paid: int = SOL, launches: Launches = FIRST, **changes: Any) -> Token:
    first = curve.quote_buy_sol(curve.FRESH, paid)
    fields: dict[str, Any] = {
        "id": "c", "mint": "M", "signature": "s", "creator": "dev", "pool": "pump", "name": "Coin", "symbol": "COIN",
        "uri": "ipfs://x", "dev_buy_tokens": first.tokens, "dev_buy_lamports": first.curve_lamports,
        "market": market(first.after, START), "quote": Quote.SOL, "mayhem": False, "seen_at_ns": START,
    }  # fmt: skip
    return Token(TokenCreated(**{**fields, **changes}), launches)


def trade(of: Token, side: Side, trader: str, amount: int, at_ns: int) -> None:
    """amount: lamports to spend, or tokens to sell."""
    state = curve.from_market(of.market)
    swap = curve.quote_buy_sol(state, amount) if side is Side.BUY else curve.quote_sell(state, amount)
    of.trade(
        TokenTraded(
            id="t", mint="M", signature="s", side=side, trader=trader, pool="pump", lamports=swap.curve_lamports,
            tokens=swap.tokens, trader_tokens_after=None, market=market(swap.after, at_ns), pool_lamports=None,
            pool_tokens=None, seen_at_ns=at_ns,
        )
    )  # fmt: skip


def crowd(buyers: int = 15, each: int = SOL // 2, paid: int = SOL, launches: Launches = FIRST) -> Token:
    """A coin that as many buyers bought within 10 s."""
    made = token(paid, launches)
    for n in range(buyers):
        trade(made, Side.BUY, f"t{n}", each, START + (n + 1) * 10 * SECOND_NS // buyers)
    return made


AT_10_S = START + 10 * SECOND_NS


def score(of: Token, card: Card, gap_seen: bool = False) -> int:
    judge = {id(sniper.CARD): sniper.judge, id(momentum.CARD): momentum.judge}[id(card)]
    scored = judge(of, AT_10_S, gap_seen)
    assert isinstance(scored, Scored)
    return scored.score


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (token(SOL), token(0)),  # a creator who puts nothing in
        (token(SOL), token(12 * SOL)),  # or owns a quarter of the supply
        (token(), token(launches=Launches(1, 1, 4))),  # the creator's fourth launch
        (token(), token(launches=Launches(5, 1, 1))),  # a copied name
        (token(), token(launches=Launches(1, 20, 1))),  # a copied symbol
        (token(), token(uri=None)),  # nothing to read about it
        (token(), token(name=None, symbol=None, uri=None, launches=Launches(0, 0, 1))),
        (token(), token(name="A coin whose name is a whole sentence")),
    ],
)
def test_sniper_prefers(better: Token, worse: Token) -> None:
    assert score(better, sniper.CARD) > score(worse, sniper.CARD) + 10


def _after_sale(seller: str, tokens: int) -> Token:
    made = crowd()
    trade(made, Side.SELL, seller, tokens, AT_10_S)
    return made


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (crowd(15), crowd(15, each=SOL // 50)),  # more SOL in the same time
        (crowd(15), crowd(4, each=15 * SOL // 8)),  # the same SOL from more buyers
        (crowd(), crowd(launches=Launches(1, 1, 5))),
        (crowd(), _after_sale("dev", 34_000_000_000_000)),  # the creator has left
        (_after_sale("t1", 10_000_000_000_000), _after_sale("dev", 10_000_000_000_000)),  # the same sale by another
        (crowd(), _after_sale("t1", 100_000_000_000_000)),  # far below its peak
    ],
)
def test_momentum_prefers(better: Token, worse: Token) -> None:
    assert score(better, momentum.CARD) > score(worse, momentum.CARD)


def test_momentum_is_silent_until_enough_buyers_were_heard() -> None:
    made = token()
    for n in range(momentum.BUYERS_MIN):
        assert momentum.judge(made, AT_10_S, False) is Silence.TOO_FEW_BUYERS
        for trader in (f"t{n}", f"t{n}", "dev"):  # the same one again, or the creator, is no further buyer
            trade(made, Side.BUY, trader, SOL, AT_10_S)
    assert isinstance(momentum.judge(made, AT_10_S, False), Scored)


def test_after_a_gap_momentum_is_lower_and_never_reaches_low_risk() -> None:
    assert score(crowd(), momentum.CARD, gap_seen=True) == score(crowd(), momentum.CARD) - 20
    others = [rows for feature, rows in momentum.CARD.rows.items() if feature != "gap_seen"]
    best = momentum.CARD.base.points + sum(max(row.points for row in rows) for rows in others)
    assert best >= RISK_THRESHOLDS[RiskLevel.LOW] > best - 20


@pytest.mark.parametrize("judge", [*ON_CREATION.values(), *ON_TRADE.values()])
def test_coins_that_left_their_curve_or_are_about_to_are_not_scored(judge: Any) -> None:
    migrated = crowd()
    migrated.migrated = True
    assert judge(migrated, AT_10_S, False) is Silence.MIGRATED
    assert judge(token(87 * SOL), AT_10_S, False) is Silence.COMPLETE  # bought up in its first transaction


def test_only_strategies_that_are_built_are_in_the_tables() -> None:
    assert set(ON_CREATION) == {Strategy.SNIPER}
    assert set(ON_TRADE) == {Strategy.MOMENTUM}


@pytest.mark.skipif(not RECORDING.exists(), reason="the recording is not beside this checkout")
def test_on_the_recording_a_sensible_share_reaches_each_risk_level_of_sniper() -> None:
    """Shares of the coins with known arithmetic: a change of the card that empties or floods a level shows here."""
    counts, scores = LaunchCounts(3600 * SECOND_NS), []
    for line in RECORDING.read_bytes().splitlines():
        recorded = parse_line(line)
        event = parse(recorded.raw, recorded.seen_at_ns)
        if isinstance(event, TokenCreated):
            launches = counts.note(event, event.seen_at_ns)
            if known_arithmetic(event):
                opinion = sniper.judge(Token(event, launches), event.seen_at_ns, False)
                scores.append(opinion.score if isinstance(opinion, Scored) else -1)
    reached = {level: sum(s >= least for s in scores) for level, least in RISK_THRESHOLDS.items()}
    assert len(scores) == 151
    assert 0.15 <= reached[RiskLevel.HIGH] / len(scores) <= 0.30
    assert 0.08 <= reached[RiskLevel.MEDIUM] / len(scores) <= 0.18
    assert 0.01 <= reached[RiskLevel.LOW] / len(scores) <= 0.06
