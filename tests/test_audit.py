"""observer/audit.py must be able to fail: each kind of loss and of doubling is found, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bots.positions import settles_signal
from observer.audit import CHANGE_NS, Audit, Wishes, judge
from schemas.config import BotConfig, BotWanted, Wanted
from schemas.events import (
    Append,
    Decision,
    Entry,
    Fill,
    Intent,
    Market,
    Origin,
    Reason,
    Refusal,
    RiskLevel,
    Side,
    Signal,
    Strategy,
    signal_id,
)  # fmt: skip

SECOND = 1_000_000_000
T = 1_750_000_000 * SECOND  # when the decision was stored
LONG_AGO = T - 600 * SECOND
MARKET = Market(virtual_lamports=30 * SECOND, virtual_tokens=10**15, seen_at_ns=T)


def wanted(user: str, *, running: bool = True, min_score: int = 50) -> BotWanted:
    return BotWanted(
        user=user, wanted=Wanted.RUNNING if running else Wanted.STOPPED, changed_at_ns=LONG_AGO,
        config=BotConfig(strategy=Strategy.SNIPER, min_score=min_score),
    )  # fmt: skip


def decision(name: str = "d", side: Side = Side.BUY, at_ns: int = T, score: int = 60) -> Decision:
    return Decision(
        id=name, strategy=Origin.SNIPER, side=side, mint="M", creator="c", score=score, previous_score=-1,
        risk=RiskLevel.HIGH, reasons=(), features={}, arithmetic_known=True, market=MARKET, decided_at_ns=at_ns,
    )  # fmt: skip


def signal(user: str, of: Decision, id_: str | None = None) -> Signal:
    return Signal(
        id=id_ or signal_id(of.id, user), user=user, decision_id=of.id, strategy=of.strategy, side=of.side, mint="M",
        creator="c", score=of.score, risk=of.risk, reasons=(), arithmetic_known=True, market=MARKET, config_revision=1,
        decided_at_ns=of.decided_at_ns,
        expires_at_ns=of.decided_at_ns + 30 * SECOND,
    )  # fmt: skip


def fill(signal_id_: str, side: Side = Side.BUY, reason: Reason = Reason.SIGNAL) -> list[Entry]:
    order = f"{signal_id_}:{side}:{reason}"
    common: dict[str, Any] = {"signal_id": signal_id_, "mint": "M", "side": side, "reason": reason, "at_ns": T}
    return [
        Intent(id=order, lamports=5, tokens=9, venue="paper", **common),
        Fill(
            id=f"{order}:fill", order_id=order, tokens=9, lamports=5, curve_lamports=5, protocol_fee_lamports=0,
            creator_fee_lamports=0, network_fee_lamports=0, price_at_ns=T, **common,
        ),
    ]  # fmt: skip


def refusal(signal_id_: str, reason: Reason = Reason.BUDGET, side: Side = Side.BUY) -> list[Entry]:
    return [
        Refusal(id=f"{signal_id_}:refused", signal_id=signal_id_, order_id=None, mint="M", side=side, reason=reason,
                detail="", at_ns=T)
    ]  # fmt: skip


class Line:
    """A line's streams in which all is well: one decision, users a and b, a's fill and b's refusal."""

    def __init__(self) -> None:
        self.wishes: list[tuple[int, str, BotWanted | None]] = [
            (LONG_AGO, "a", wanted("a")), (LONG_AGO, "b", wanted("b")), (LONG_AGO, "c", wanted("c", min_score=61)),
            (LONG_AGO, "d", wanted("d", running=False)),
        ]  # fmt: skip
        d = decision()
        self.decisions = [(T, d)]
        self.signals = [(T + SECOND, signal("a", d)), (T + SECOND, signal("b", d))]
        self.entries = [fill("d:a"), refusal("d:b")]
        self.since_ns = 0

    def judge(self) -> Audit:
        wishes = Wishes()
        for change in self.wishes:
            wishes.add(*change)
        appends = [
            Append(id=str(i), user="x", signal_sequence=0, entries=tuple(entries), at_ns=T)
            for i, entries in enumerate(self.entries)
        ]
        return judge(
            tokens=1, trades=0, dead=0, decisions=self.decisions, wishes=wishes, signals=self.signals,
            appends=appends, since_ns=self.since_ns,
        )  # fmt: skip


def change(line: Line, user: str, at_ns: int, to: BotWanted | None) -> None:
    line.wishes.append((at_ns, user, to))
    line.wishes.sort(key=lambda each: each[0])


def nothing(line: Line) -> None:
    """All is well."""


def no_signal(line: Line) -> None:
    del line.signals[1], line.entries[1]


def no_signals_at_all(line: Line) -> None:
    line.signals.clear()
    line.entries.clear()


def two_signals(line: Line) -> None:
    line.signals.append(line.signals[0])


def not_addressed(user: str) -> Callable[[Line], None]:
    def fault(line: Line) -> None:
        line.signals.append((T, signal(user, line.decisions[0][1])))
        line.entries.append(refusal(f"d:{user}"))

    return fault


def no_outcome(line: Line) -> None:
    del line.entries[1]


def intent_only(line: Line) -> None:
    line.entries[0] = line.entries[0][:1]


def two_outcomes(line: Line) -> None:
    line.entries.append(refusal("d:a"))


def two_fills(line: Line) -> None:
    line.entries.append(fill("d:a"))


def outcome_of_no_signal(line: Line) -> None:
    line.entries.append(refusal("d:z"))


def exit_alone(line: Line) -> None:
    line.entries[0] = fill("d:a", Side.SELL, Reason.STOP_LOSS)


def exit_as_well(line: Line) -> None:
    line.entries.append(fill("d:a", Side.SELL, Reason.TAKE_PROFIT))
    line.entries.append(fill("d:a", Side.SELL, Reason.MIGRATED))


def two_decisions(line: Line) -> None:
    line.decisions.append(line.decisions[0])


def signal_of_no_decision(line: Line) -> None:
    line.signals.append((T, signal("a", decision("unknown"))))
    line.entries.append(refusal("unknown:a"))


def just_started(line: Line) -> None:
    """c lowered its threshold while the decision was under way: a signal is allowed."""
    change(line, "c", T - CHANGE_NS // 2, wanted("c", min_score=50))
    not_addressed("c")(line)


def just_started_and_left_out(line: Line) -> None:
    change(line, "c", T - CHANGE_NS // 2, wanted("c", min_score=50))


def just_stopped(line: Line) -> None:
    """Neither is required: here b has none."""
    change(line, "b", T + CHANGE_NS // 2, wanted("b", running=False))
    no_signal(line)


def just_deleted(line: Line) -> None:
    change(line, "b", T + CHANGE_NS // 2, None)


def changed_but_without_outcome(line: Line) -> None:
    """Allowed or not, a signal that was sent has one outcome."""
    just_stopped(line)
    line.signals.append((T, signal("b", line.decisions[0][1])))


def changed_and_doubled(line: Line) -> None:
    change(line, "b", T, wanted("b"))
    line.signals.append(line.signals[1])


def stopped_long_before(line: Line) -> None:
    change(line, "b", T - CHANGE_NS - SECOND, wanted("b", running=False))


def started_long_before(line: Line) -> None:
    change(line, "c", T - CHANGE_NS - SECOND, wanted("c", min_score=60))


def stopped_long_after(line: Line) -> None:
    change(line, "b", T + CHANGE_NS + 2 * SECOND, wanted("b", running=False))
    no_signal(line)


def changed_before_its_late_signals(line: Line) -> None:
    """The signals took a minute (dispatch was down), and b stopped meanwhile."""
    line.signals = [(T + 60 * SECOND, each) for _, each in line.signals]
    change(line, "b", T + 30 * SECOND, wanted("b", running=False))
    no_signal(line)


def other_strategy(line: Line) -> None:
    line.decisions.append((T, msgspec.structs.replace(decision("e"), strategy=Strategy.MOMENTUM)))


@pytest.mark.parametrize(
    ("fault", "lost", "doubled"),
    [
        (nothing, 0, 0),
        (no_signal, 1, 0),
        (no_signals_at_all, 2, 0),
        (two_signals, 0, 1),
        (not_addressed("c"), 0, 1),  # its threshold is higher
        (not_addressed("d"), 0, 1),  # its bot is stopped
        (not_addressed("nobody"), 0, 1),
        (no_outcome, 1, 0),
        (intent_only, 1, 0),  # an order without an answer is no outcome
        (two_outcomes, 0, 1),
        (two_fills, 0, 1),
        (outcome_of_no_signal, 0, 1),
        (exit_alone, 1, 0),  # an exit bears the signal's id and settles nothing
        (exit_as_well, 0, 0),
        (two_decisions, 0, 1),
        (signal_of_no_decision, 0, 1),
        (just_started, 0, 0),
        (just_started_and_left_out, 0, 0),
        (just_stopped, 0, 0),
        (just_deleted, 0, 0),
        (changed_but_without_outcome, 1, 0),
        (changed_and_doubled, 0, 1),
        (stopped_long_before, 0, 1),
        (started_long_before, 1, 0),
        (stopped_long_after, 1, 0),
        (changed_before_its_late_signals, 0, 0),
        (other_strategy, 0, 0),
    ],
)
def test_each_fault_is_counted_and_nothing_else(fault: Callable[[Line], None], lost: int, doubled: int) -> None:
    line = Line()
    fault(line)
    found = line.judge()
    assert (found.lost, found.doubled) == (lost, doubled), found
    assert len(found.examples) == lost + doubled


def test_the_examples_name_what_is_lost() -> None:
    line = Line()
    no_signal(line)
    assert line.judge().examples == ("d:b",)


@pytest.mark.parametrize(
    ("entries", "lost", "doubled"),
    [
        (fill("s:a", Side.SELL, Reason.SELL_SIGNAL), 0, 0),
        (refusal("s:a", Reason.NOT_HELD, Side.SELL), 0, 0),
        (fill("s:a", Side.SELL, Reason.STOP_LOSS), 1, 0),  # sold, but not because of the signal
        (fill("s:a", Side.SELL, Reason.SELL_SIGNAL) + refusal("s:a", Reason.NOT_HELD, Side.SELL), 0, 1),
        ([], 1, 0),
    ],
)
def test_a_sell_signal_has_one_outcome(entries: list[Entry], lost: int, doubled: int) -> None:
    line, sell = Line(), decision("s", Side.SELL)
    line.decisions.append((T, sell))
    line.signals.append((T, signal("a", sell)))
    line.entries.append(entries)
    change(line, "a", T, wanted("a"))  # dispatch addresses no SELL yet: allowed, as for a user whose wish changed
    found = line.judge()
    assert (found.lost, found.doubled) == (lost, doubled), found


def test_what_was_decided_before_the_reading_began_is_not_judged() -> None:
    """Its decision lies before the window, its signal and its outcome within."""
    line = Line()
    line.since_ns = T - SECOND
    line.signals.append((T, signal("a", decision("before", at_ns=T - 2 * SECOND))))
    line.entries.append(fill("before:a"))
    found = line.judge()
    assert (found.lost, found.doubled, found.signals) == (0, 0, 2)
    line.signals.append((T, signal("a", decision("bogus"))))
    assert line.judge().doubled == 1


def test_the_totals_are_those_of_the_ledger() -> None:
    line = Line()
    exit_as_well(line)
    line.entries.append(refusal("old:q", Reason.EXPIRED))  # of a decision before the window: counted, not judged
    found = line.judge()
    assert (found.decisions, found.signals, found.fills, found.exits, found.refused) == (1, 2, 3, 2, 2)
    assert found.refused_by_reason == {"BUDGET": 1, "EXPIRED": 1}
    assert (found.lost, found.doubled) == (0, 0)


def test_an_outcome_is_a_buy_a_sale_for_the_signal_or_a_refusal() -> None:
    assert [settles_signal(entry) for entry in fill("s")] == [False, True]
    assert [settles_signal(entry) for entry in fill("s", Side.SELL, Reason.SELL_SIGNAL)] == [False, True]
    assert [settles_signal(entry) for entry in fill("s", Side.SELL, Reason.TIME_EXIT)] == [False, False]
    assert [settles_signal(entry) for entry in refusal("s")] == [True]
