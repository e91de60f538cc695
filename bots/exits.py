"""When to sell, and how much: `decide(position, terms, ...)` -> Exit or None.

A gain is judged by what selling all that is held would return now, fees taken off, against what it cost, fees
included; in integers, by cross-multiplication. In this order:

    stop loss              all, once the value has fallen `stop_loss_bps` below its cost (10,000: never)
    max_hold, TimeExit     all, by time alone
    Fixed                  all, at the gain
    Ladder                 at each gain as much as brings what was sold to the sum of the shares up to that level; gains
                           skipped in one jump make one sale, and a level reached again sells nothing
    TrailingStop           all, once the value was `arm_bps` above cost and then falls `trail_bps` from its highest
    Progressive            after migration: `initial_bps` of the original at once, then `step_bps` of the original an
                           interval after the last such sale, until nothing is left. With `initial_bps` 0 the first
                           step comes an interval after the migration. Steps missed while no price was known are not
                           made up for: the pace stays. What rounding leaves over (under 1 bps of the original) goes
                           with the last

Every decision is a function of the ledger and of the market, so a restart changes none; only the trailing stop's
highest value must be observed again (`positions.mark`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from bots.positions import Position
from schemas.config import Fixed, Ladder, Progressive, Terms, TimeExit, TrailingStop
from schemas.events import Reason
from schemas.money import BPS, share_floor

# A deadline that brought no exit (no price was known) should not be tried again sooner, unless a price arrives.
RETRY_NS: Final = 1_000_000_000


class Exit(msgspec.Struct, frozen=True):
    """Sell `tokens` (1 to all that is held) for `reason`; `remaining` are kept."""

    tokens: int
    reason: Reason
    remaining: int


def decide(
    position: Position, terms: Terms, value_lamports: int | None, migrated_at_ns: int | None, now_ns: int
) -> Exit | None:
    """What to sell now, if anything.

    value_lamports: what selling all that is held would return, fees taken off; None where no price is known, and then
        nothing can be sold.
    migrated_at_ns: when the coin left its curve; None while it has not.
    """
    if value_lamports is None:
        return None
    if terms.stop_loss_bps < BPS and value_lamports * BPS <= position.open_cost_lamports * (BPS - terms.stop_loss_bps):
        return _all(position, Reason.STOP_LOSS)
    if now_ns >= position.opened_at_ns + terms.max_hold_ns:
        return _all(position, Reason.MAX_HOLD)
    rule = terms.take_profit
    if isinstance(rule, TimeExit):
        return _all(position, Reason.TIME_EXIT) if now_ns >= position.opened_at_ns + rule.after_ns else None
    if isinstance(rule, Fixed):
        return _all(position, Reason.TAKE_PROFIT) if _reaches(position, value_lamports, rule.gain_bps) else None
    if isinstance(rule, Ladder):
        return _ladder(position, rule, value_lamports)
    if isinstance(rule, TrailingStop):
        return _trailing(position, rule, value_lamports)
    return _progressive(position, rule, migrated_at_ns, now_ns)


def next_deadline_ns(position: Position, terms: Terms, migrated_at_ns: int | None) -> int:
    """When time alone next makes `decide` sell. It may lie in the past: due now, or as soon as a price is known (no
    sooner than RETRY_NS after a fruitless try). Every position has one, since each has a longest time to be held.
    """
    deadline = position.opened_at_ns + terms.max_hold_ns
    rule = terms.take_profit
    if isinstance(rule, TimeExit):
        return min(deadline, position.opened_at_ns + rule.after_ns)
    if isinstance(rule, Progressive):
        due = _progressive_due_ns(position, rule, migrated_at_ns)
        return deadline if due is None else min(deadline, due)
    return deadline


def _all(position: Position, reason: Reason) -> Exit:
    return Exit(position.tokens, reason, 0)


def _reaches(position: Position, value_lamports: int, gain_bps: int) -> bool:
    """Whether value >= cost * (1 + gain)."""
    return value_lamports * BPS >= position.open_cost_lamports * (BPS + gain_bps)


def _ladder(position: Position, rule: Ladder, value_lamports: int) -> Exit | None:
    share_bps = sum(level.sell_bps for level in rule.levels if _reaches(position, value_lamports, level.gain_bps))
    sold = position.original_tokens - position.tokens
    tokens = share_floor(position.original_tokens, share_bps) - sold
    return Exit(tokens, Reason.TAKE_PROFIT, position.tokens - tokens) if tokens > 0 else None


def _trailing(position: Position, rule: TrailingStop, value_lamports: int) -> Exit | None:
    peak = position.peak_lamports  # a value above it is neither fallen nor, before it is marked, an arming one
    if not _reaches(position, peak, rule.arm_bps):
        return None
    fallen = value_lamports * BPS <= peak * (BPS - rule.trail_bps)
    return _all(position, Reason.TAKE_PROFIT) if fallen else None


def _progressive(position: Position, rule: Progressive, migrated_at_ns: int | None, now_ns: int) -> Exit | None:
    due_ns = _progressive_due_ns(position, rule, migrated_at_ns)
    if due_ns is None or now_ns < due_ns:
        return None
    first = position.migration_exit_at_ns is None and rule.initial_bps > 0
    wanted = share_floor(position.original_tokens, rule.initial_bps if first else rule.step_bps)
    tokens = max(1, min(wanted, position.tokens))
    remaining = position.tokens - tokens
    if remaining < share_floor(position.original_tokens, 1):
        return _all(position, Reason.MIGRATED)
    return Exit(tokens, Reason.MIGRATED, remaining)


def _progressive_due_ns(position: Position, rule: Progressive, migrated_at_ns: int | None) -> int | None:
    if position.migration_exit_at_ns is not None:
        return position.migration_exit_at_ns + rule.interval_ns
    if migrated_at_ns is None:
        return None
    since = max(migrated_at_ns, position.opened_at_ns)
    return since if rule.initial_bps else since + rule.interval_ns
