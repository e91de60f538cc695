"""analyze/strategies: what each strategy likes, when it is silent, and how many tokens reach each risk level."""

from pathlib import Path
from typing import Any

import pytest

from analyze.alarms import LEVELS
from analyze.features import Look
from analyze.memory import LaunchCounts
from analyze.score import ALL, Card, Scored, Silence
from analyze.strategies import ON_CREATION, ON_TRADE, Judge, graduation, momentum, predictions, sniper
from analyze.tokens import Launches, Token, has_curve
from analyze.windows import SECOND_NS
from ingest.recording import parse_line
from ingest.venues.pumpportal import parse
from schemas import curve
from schemas.config import RISK_THRESHOLDS
from schemas.events import Market, Quote, RiskLevel, Side, Strategy, TokenCreated, TokenTraded

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
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
        trade(made, Side.BUY, f"t{n}", each + n * each // 50, START + (n + 1) * 10 * SECOND_NS // buyers)
    return made


def uniform() -> Token:
    """As many buyers, all with the same order."""
    made = token()
    for n in range(15):
        trade(made, Side.BUY, f"t{n}", SOL // 2, START + (n + 1) * SECOND_NS // 2)
    return made


def bundled() -> Token:
    """As many buyers, the first six of them in the instant of the launch."""
    made = token()
    for n in range(15):
        trade(made, Side.BUY, f"t{n}", SOL // 2 + n * SOL // 100, START + (0 if n < 6 else n * SECOND_NS // 2))
    return made


def filling(buyers: int = 60, whale: int = 0, paid: int = SOL, seconds: int = 60) -> Token:
    """A coin at about three quarters of its curve, bought by as many within the seconds; whale: what one of them pays
    on top."""
    made = token(paid)
    each = (40 * SOL - whale) // buyers
    for n in range(buyers):
        amount = each + n * SOL // 100 + (whale if n == 0 else 0)
        trade(made, Side.BUY, f"t{n}", amount, START + (n + 1) * seconds * SECOND_NS // buyers)
    return made


AT_10_S = START + 10 * SECOND_NS


JUDGES: dict[int, Judge] = {
    id(sniper.CARD): sniper.judge,
    id(momentum.CARD): momentum.judge,
    id(graduation.CARD): graduation.judge,
}


def score(of: Token, card: Card, gap_seen: bool = False, at_ns: int = AT_10_S) -> int:
    scored = JUDGES[id(card)](Look(of, at_ns, gap_seen))
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
        (crowd(), uniform()),  # one hand, many wallets
        (crowd(), bundled()),  # bought up in the instant of its launch
    ],
)
def test_momentum_prefers(better: Token, worse: Token) -> None:
    assert score(better, momentum.CARD) > score(worse, momentum.CARD)


def test_momentum_is_silent_until_enough_buyers_were_heard() -> None:
    made = token()
    for n in range(momentum.BUYERS_MIN):
        assert momentum.judge(Look(made, AT_10_S, False)) is Silence.TOO_FEW_BUYERS
        for trader in (f"t{n}", f"t{n}", "dev"):  # the same one again, or the creator, is no further buyer
            trade(made, Side.BUY, trader, SOL, AT_10_S)
    assert isinstance(momentum.judge(Look(made, AT_10_S, False)), Scored)


def test_after_a_gap_momentum_is_lower_and_never_reaches_low_risk() -> None:
    assert score(crowd(), momentum.CARD, gap_seen=True) == score(crowd(), momentum.CARD) - 20
    others = [rows for feature, rows in momentum.CARD.rows.items() if feature != "gap_seen"]
    best = momentum.CARD.base.points + sum(max(0, *(row.points for row in rows)) for rows in others)
    assert best >= RISK_THRESHOLDS[RiskLevel.LOW] > best - 20


def after_pause(of: Token) -> Token:
    """Somebody buys a little, minutes later."""
    trade(of, Side.BUY, "late", SOL // 100, START + 400 * SECOND_NS)
    return of


@pytest.mark.parametrize(
    ("better", "worse", "worse_at_s"),
    [
        (filling(), filling(buyers=10), 60),  # the same SOL from fewer buyers
        (filling(), filling(whale=15 * SOL), 60),  # one of them holds a lot
        (filling(), filling(paid=6 * SOL), 60),  # the creator does
        (filling(), filling(seconds=280), 280),  # it fills more slowly
        (filling(), after_pause(filling()), 400),  # or hardly any more
    ],
)
def test_graduation_prefers(better: Token, worse: Token, worse_at_s: int) -> None:
    best = score(better, graduation.CARD, at_ns=START + 60 * SECOND_NS)
    assert best > score(worse, graduation.CARD, at_ns=START + worse_at_s * SECOND_NS)
    assert best >= RISK_THRESHOLDS[RiskLevel.MEDIUM]


def test_graduation_is_silent_until_most_of_the_curve_is_sold() -> None:
    made, at_ns = token(paid=0), START
    for n in range(40):
        far = made.progress_bps >= graduation.PROGRESS_BPS_MIN
        assert isinstance(graduation.judge(Look(made, at_ns, False)), Scored) is far
        at_ns += SECOND_NS
        trade(made, Side.BUY, f"t{n}", SOL, at_ns)
    assert made.progress_bps > graduation.PROGRESS_BPS_MIN
    assert graduation.judge(Look(crowd(4), AT_10_S, False)) is Silence.NOT_CLOSE


class Certain:
    """A model that is sure of everything."""

    def predict(self, look: Look) -> Scored:
        return Scored(99, (), look.features, ())


@pytest.mark.parametrize(
    ("predictor", "at_point", "at_s", "said"),
    [
        (None, True, 30, Silence.NO_MODEL),
        (None, False, 10, Silence.NO_MODEL),
        (Certain(), False, 10, Silence.TOO_EARLY),
        (Certain(), True, 30, 99),
        (Certain(), False, 31, Silence.POINT_OVER),
    ],
)
def test_a_model_is_asked_once_at_the_decision_point(
    predictor: Certain | None, at_point: bool, at_s: int, said: Silence | int
) -> None:
    look = Look(crowd(), START + at_s * SECOND_NS, False, predictor=predictor, at_decision_point=at_point)
    opinion = predictions.judge(look)
    assert (opinion.score if isinstance(opinion, Scored) else opinion) == said


@pytest.mark.parametrize("judge", [*ON_CREATION.values(), *ON_TRADE.values()])
def test_coins_that_left_their_curve_or_are_about_to_are_not_scored(judge: Judge) -> None:
    def look(of: Token) -> Look:
        return Look(of, AT_10_S, False, predictor=Certain(), at_decision_point=True)

    migrated = crowd()
    migrated.migrated = True
    assert judge(look(migrated)) is Silence.MIGRATED
    assert judge(look(token(87 * SOL))) is Silence.COMPLETE  # bought up in its first transaction


def test_a_mayhem_coin_is_scored_like_any_other() -> None:
    assert score(token(mayhem=True), sniper.CARD) == score(token(), sniper.CARD)


def test_every_strategy_is_in_one_table() -> None:
    assert {*ON_CREATION, *ON_TRADE} == set(Strategy)
    assert not {*ON_CREATION} & {*ON_TRADE}


def _from(value: int) -> str:
    return "any" if value == ALL else f"{value:,}"


def test_the_documented_weights_are_those_of_the_cards() -> None:
    """docs/strategies.md states each row as `| feature | from | name | points |`."""
    text = (ROOT / "docs" / "strategies.md").read_text()
    for name, card in (("SNIPER", sniper.CARD), ("MOMENTUM", momentum.CARD), ("GRADUATION", graduation.CARD)):
        section = text.split(f"## {name}")[1].split("\n## ")[0]
        expected = {
            f"| `{feature}` | {_from(row.from_value)} | {row.label} | {row.points:+d} |"
            for feature, rows in card.rows.items()
            for row in rows
        }
        assert {line for line in section.splitlines() if line.startswith("| `")} == expected, name
        assert f"Every coin begins with {card.base.points}." in section
    alarms = text.split("## Rug alarms")[1].split("\n## ")[0]
    for kind, rows in LEVELS.items():
        for row in rows:
            assert f"| {kind} | {row.from_value:,} | {row.label} | {row.points} |" in alarms


@pytest.mark.skipif(not RECORDING.exists(), reason="the recording is not beside this checkout")
def test_on_the_recording_a_sensible_share_reaches_each_risk_level_of_sniper() -> None:
    """Shares of the ordinary coins: a change of the card that empties or floods a level shows here."""
    counts, scores = LaunchCounts(3600 * SECOND_NS), []
    for line in RECORDING.read_bytes().splitlines():
        recorded = parse_line(line)
        event = parse(recorded.raw, recorded.seen_at_ns)
        if isinstance(event, TokenCreated):
            launches = counts.note(event, event.seen_at_ns)
            if has_curve(event) and not event.mayhem:
                opinion = sniper.judge(Look(Token(event, launches), event.seen_at_ns, False))
                scores.append(opinion.score if isinstance(opinion, Scored) else -1)
    reached = {level: sum(s >= least for s in scores) for level, least in RISK_THRESHOLDS.items()}
    assert len(scores) == 151
    assert 0.15 <= reached[RiskLevel.HIGH] / len(scores) <= 0.30
    assert 0.08 <= reached[RiskLevel.MEDIUM] / len(scores) <= 0.18
    assert 0.01 <= reached[RiskLevel.LOW] / len(scores) <= 0.06
