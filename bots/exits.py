"""When to sell, and how much: `decide(position, mandate, ...)` -> Exit or None.

A gain is judged by what selling all that is held would return now, all fees taken off, against what it cost, fees
included; in integers, by cross-multiplication. In this order:

    closing                all, when the user stopped the bot and wants nothing kept
    rug alarm              all, once one was raised after the purchase was decided (`exit_on_rug`)
    stop loss              all, once the value has fallen `stop_loss_bps` below its cost (10,000: never)
    max_hold               all, by time alone
    silence                all, when the feed was heard for `silent_exit_ns` and no price of this coin was (0: never)
    TimeExit               all, by time alone
    Fixed                  all, at the gain
    Ladder                 at each gain as much as brings what was sold to the sum of the shares up to that level; gains
                           skipped in one jump make one sale, and a level reached again sells nothing
    TrailingStop           all, once the value was `arm_bps` above cost and then falls `trail_bps` from its highest
    Progressive            after migration: `initial_bps` of the original at once, then `step_bps` of the original an
                           interval after the last such sale was decided, until nothing is left. With `initial_bps` 0
                           the first step comes an interval after the migration. Steps missed while no price was known
                           are not made up for: the pace stays. What rounding leaves over (under 1 bps of the original)
                           goes with the last

While an order to sell is under way, nothing else of the position is sold. One that the market refused is decided anew:
at once with a newer price, at most RETRIES_AT_ONCE_MAX times in a row, else after a wait that doubles from RETRY_NS to
RETRY_NS_MAX. So one position writes at most 8 refused orders within the first two minutes, and one a minute from then
on, until a sale is filled.

Every decision is a function of the ledger and of the market, so a restart changes none; only the trailing stop's
highest value must be observed again (`positions.mark`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from bots.mandate import Mandate
from bots.paper import network_fee_lamports
from bots.positions import Position
from bots.prices import Feed, Price
from schemas.config import Fixed, Ladder, Progressive, Terms, TimeExit, TrailingStop
from schemas.events import Reason
from schemas.money import BPS, share_floor

# A deadline that brought no exit (no price was known) is not tried again sooner, unless a price arrives.
RETRY_NS: Final = 1_000_000_000
RETRY_NS_MAX: Final = 60_000_000_000
RETRIES_AT_ONCE_MAX: Final = 5


class Exit(msgspec.Struct, frozen=True):
    """Sell `tokens` (1 to all that is held) for `reason`; `remaining` are kept.

    patient: a gain taken at leisure, which the user's slippage limit may refuse; everything else must happen.
    """

    tokens: int
    reason: Reason
    remaining: int
    patient: bool = False


def decide(
    position: Position, mandate: Mandate, price: Price, proceeds_lamports: int | None, feed: Feed, now_ns: int
) -> Exit | None:
    """What to sell now, if anything.

    proceeds_lamports: what selling all that is held would return, the venue's fees taken off, the network's not; None
        where it cannot be sold now.
    """
    if proceeds_lamports is None or position.selling is not None or not _may_try(position, price, now_ns):
        return None
    terms = mandate.terms
    value = proceeds_lamports - network_fee_lamports(terms)
    reason = _whatever_the_rule(position, mandate, price, value, feed, now_ns)
    if reason is not None:
        return _all(position, reason)
    rule = terms.take_profit
    if isinstance(rule, TimeExit):
        return _all(position, Reason.TIME_EXIT) if now_ns >= position.opened_at_ns + rule.after_ns else None
    if isinstance(rule, Fixed):
        reached = _reaches(position, value, rule.gain_bps)
        return _all(position, Reason.TAKE_PROFIT, patient=True) if reached else None
    if isinstance(rule, Ladder):
        return _ladder(position, rule, value)
    if isinstance(rule, TrailingStop):
        return _trailing(position, rule, proceeds_lamports, network_fee_lamports(terms))
    return _progressive(position, rule, price.migrated_at_ns, now_ns)


def next_deadline_ns(
    position: Position, mandate: Mandate, price: Price | None, feed: Feed, after_ns: int
) -> int | None:
    """The first time after `after_ns`, when the position was last looked at, at which time alone may make `decide`
    sell; None while an order is under way, whose landing is the next look.

    Every position has one, since each has a longest time to be held. What was due and could not be sold is due again
    every RETRY_NS, counted from when it first was, so the times do not hang on when somebody looked.
    """
    if position.selling is not None:
        return None
    return min([_after(due_ns, after_ns) for due_ns in _deadlines_ns(position, mandate, price, feed, after_ns)])


def _deadlines_ns(position: Position, mandate: Mandate, price: Price | None, feed: Feed, after_ns: int) -> list[int]:
    terms, rule = mandate.terms, mandate.terms.take_profit
    found = [position.opened_at_ns + terms.max_hold_ns]
    if mandate.closing_at_ns is not None:
        found.append(mandate.closing_at_ns)
    if price is not None and price.alarmed_at_ns is not None and _alarmed(position, terms, price):
        found.append(price.alarmed_at_ns)
    if terms.silent_exit_ns:
        found.append(_silent_since_ns(position, price, feed) + terms.silent_exit_ns)
    if isinstance(rule, TimeExit):
        found.append(position.opened_at_ns + rule.after_ns)
    elif isinstance(rule, Progressive):
        due_ns = _progressive_due_ns(position, rule, None if price is None else price.migrated_at_ns)
        if due_ns is not None:
            found.append(due_ns)
    if position.refused and position.refused_at_ns + _wait_ns(position) > after_ns:
        # What was refused for its price may still be wanted when the wait is over, though no price came.
        found.append(position.refused_at_ns + _wait_ns(position))
    return found


def _after(due_ns: int, after_ns: int) -> int:
    return due_ns if due_ns > after_ns else due_ns + ((after_ns - due_ns) // RETRY_NS + 1) * RETRY_NS


def _may_try(position: Position, price: Price, now_ns: int) -> bool:
    if not position.refused or now_ns >= position.refused_at_ns + _wait_ns(position):
        return True
    return position.refused <= RETRIES_AT_ONCE_MAX and price.seen_at_ns > position.refused_at_ns


def _wait_ns(position: Position) -> int:
    """How long a refused order keeps the next one waiting: 1, 2, 4, 8, 16, 32, then 60 s."""
    return min(RETRY_NS << min(position.refused - 1, 16), RETRY_NS_MAX)


def _whatever_the_rule(
    position: Position, mandate: Mandate, price: Price, value_lamports: int, feed: Feed, now_ns: int
) -> Reason | None:
    """Why all must go, however gains are taken."""
    terms = mandate.terms
    if mandate.closing_at_ns is not None:
        return Reason.BOT_STOPPED
    if _alarmed(position, terms, price):
        return Reason.RUG_ALARM
    if terms.stop_loss_bps < BPS and value_lamports * BPS <= position.open_cost_lamports * (BPS - terms.stop_loss_bps):
        return Reason.STOP_LOSS
    if now_ns >= position.opened_at_ns + terms.max_hold_ns:
        return Reason.MAX_HOLD
    if terms.silent_exit_ns and feed.heard_at_ns >= _silent_since_ns(position, price, feed) + terms.silent_exit_ns:
        return Reason.SILENT_PRICE
    return None


def _alarmed(position: Position, terms: Terms, price: Price | None) -> bool:
    """Whether an alarm came that the purchase did not know of, its landing included."""
    if not terms.exit_on_rug or price is None or price.alarmed_at_ns is None:
        return False
    return price.alarmed_at_ns >= position.ordered_at_ns


def _silent_since_ns(position: Position, price: Price | None, feed: Feed) -> int:
    """Since when the feed was heard without a price of this coin; a gap in the feed is no silence of the coin."""
    return max(position.opened_at_ns, feed.since_at_ns, 0 if price is None else price.seen_at_ns)


def _all(position: Position, reason: Reason, *, patient: bool = False) -> Exit:
    return Exit(position.tokens, reason, 0, patient)


def _reaches(position: Position, value_lamports: int, gain_bps: int) -> bool:
    """Whether value >= cost * (1 + gain)."""
    return value_lamports * BPS >= position.open_cost_lamports * (BPS + gain_bps)


def _ladder(position: Position, rule: Ladder, value_lamports: int) -> Exit | None:
    share_bps = sum(level.sell_bps for level in rule.levels if _reaches(position, value_lamports, level.gain_bps))
    sold = position.original_tokens - position.tokens
    tokens = share_floor(position.original_tokens, share_bps) - sold
    return Exit(tokens, Reason.TAKE_PROFIT, position.tokens - tokens, patient=True) if tokens > 0 else None


def _trailing(position: Position, rule: TrailingStop, proceeds_lamports: int, fee_lamports: int) -> Exit | None:
    peak = position.peak_lamports  # a value above it is neither fallen nor, before it is marked, an arming one
    if not _reaches(position, peak - fee_lamports, rule.arm_bps):
        return None
    fallen = proceeds_lamports * BPS <= peak * (BPS - rule.trail_bps)
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
