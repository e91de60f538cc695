"""Rug alarms: what makes a holder's next minutes look worse than any profit still to be made.

Each kind measures one thing and has two levels. A token raises a level once, and a higher level of the same kind once
more; a lower level is never raised after a higher one. So a token has at most eight alarms in its life, however long it
lies there. Whoever enters after an alarm is nobody's fault but the analysis': once an alarm was raised no strategy
announces the token any more (analysis.py).

    kind            measured                                                   speaks only where
    DEV_SOLD        share of what the creator is known to have bought that     its purchases are at least
                    it sold                                                    DEV_BOUGHT_BPS_MIN of the supply
    SELL_PRESSURE   what left the curve within 30 s, of what was in it         SELLS_MIN sales or more in those 30 s,
                    before                                                     and twice as many as purchases
    CONCENTRATION   the largest known balance but the creator's (which was     PROGRESS_BPS_MIN of the curve is sold,
                    known from the start), of what the curve has sold          and to BUYERS_MIN buyers or more
    CRASH           market cap below its highest                               the highest is at most CRASH_NS ago; the
                                                                               second level speaks whenever it was

The thresholds are hypotheses: published lists of entry checks ask for a creator's share of at most 10 % and a largest
ten of at most 30 % of the supply, and no public recording holds rugs with all their trades. What fires how often on the
simulated market is in docs/strategies.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from analyze.features import holder_of_sold_bps, outflow_bps
from analyze.score import Row
from analyze.tokens import Token
from analyze.windows import SECOND_NS
from schemas import curve
from schemas.money import BPS

# Half a percent of the supply costs 0.14 SOL at the start: who leaves with less takes nothing along.
DEV_BOUGHT_BPS_MIN: Final = 50
SELLS_MIN: Final = 5
PROGRESS_BPS_MIN: Final = 2_000
BUYERS_MIN: Final = 10
CRASH_NS: Final = 60 * SECOND_NS


class Kind(StrEnum):
    DEV_SOLD = "DEV_SOLD"
    SELL_PRESSURE = "SELL_PRESSURE"
    CONCENTRATION = "CONCENTRATION"
    CRASH = "CRASH"


# From this value of the measure on, in bps: the reason's name, and how severe it is, 0 to 100.
LEVELS: Final[Mapping[Kind, tuple[Row, Row]]] = {
    Kind.DEV_SOLD: (Row(5_000, "dev_sold_half", 70), Row(9_000, "dev_sold_out", 90)),
    Kind.SELL_PRESSURE: (Row(3_000, "sell_pressure", 60), Row(6_000, "sell_flood", 85)),
    Kind.CONCENTRATION: (Row(5_000, "one_holder_half", 50), Row(7_000, "one_holder_most", 75)),
    Kind.CRASH: (Row(5_000, "crash", 75), Row(8_000, "collapse", 95)),
}

# What a decision that an alarm makes shows of the token.
FEATURES: Final = (
    "age_ms", "progress_bps", "market_cap_lamports", "drawdown_bps", "peak_age_ms", "dev_buy_bps", "dev_sold_bps",
    "dev_holds_bps", "buys_30s", "sells_30s", "net_30s_lamports", "outflow_30s_bps", "unique_buyers", "holder_bps",
    "holder_of_sold_bps", "top_10_bps", "gap_seen",
)  # fmt: skip


class Alarm(NamedTuple):
    """A level that was just reached. severity: 0 to 100."""

    kind: Kind
    label: str
    severity: int


class Raised:
    """The levels that one token has raised. severity: of the worst of them, -1 before the first."""

    __slots__ = ("_levels", "severity")

    def __init__(self) -> None:
        self._levels: dict[Kind, int] | None = None  # most tokens never have one
        self.severity = -1

    def __bool__(self) -> bool:
        return self.severity >= 0

    def raise_new(self, measured: Mapping[Kind, int]) -> list[Alarm]:
        """The levels that these measures reach for the first time, the most severe first; they count as raised."""
        alarms = []
        for kind, value in measured.items():
            reached = 0
            for row in LEVELS[kind]:
                reached += value >= row.from_value
            before = self._levels.get(kind, 0) if self._levels else 0
            if reached > before:
                self._levels = {**(self._levels or {}), kind: reached}
                row = LEVELS[kind][reached - 1]
                alarms.append(Alarm(kind, row.label, row.points))
        if alarms:
            alarms.sort(key=lambda alarm: -alarm.severity)
            self.severity = max(self.severity, alarms[0].severity)
        return alarms


def measure(token: Token, now_ns: int, on_curve: bool) -> dict[Kind, int]:
    """What the kinds measure right after a trade, in bps; those that have nothing to say are left out.

    on_curve: whether the trade stated the curve's reserves. In a pool only the creator's sales are known.
    """
    measured = {}
    if token.dev_bought_tokens * BPS >= DEV_BOUGHT_BPS_MIN * curve.SUPPLY_TOKENS and (sold := token.dev_sold_bps):
        measured[Kind.DEV_SOLD] = sold
    if not on_curve:
        return measured
    newest = token.windows(now_ns).w30
    if newest.sells >= SELLS_MIN and newest.sells >= 2 * newest.buys:
        measured[Kind.SELL_PRESSURE] = outflow_bps(token, newest)
    if token.progress_bps >= PROGRESS_BPS_MIN and token.unique_buyers >= BUYERS_MIN:
        measured[Kind.CONCENTRATION] = holder_of_sold_bps(token)
    drawdown_bps = token.drawdown_bps
    if now_ns - token.peak_at_ns <= CRASH_NS or drawdown_bps >= LEVELS[Kind.CRASH][1].from_value:
        measured[Kind.CRASH] = drawdown_bps
    return measured
