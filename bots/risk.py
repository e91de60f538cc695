"""What must hold before an entry; the first limit that does not hold is the reason.

    cash = budget + received - paid        free = cash - what pending purchases may still spend

Cash is the budget, plus what sales gained or lost, less the cost of what is open. Gains may be spent again. A purchase
that has been decided and has not landed counts everywhere: as an open position, as an entry, as money spent.
The daily limit compares the net result of the sales of the UTC day (gains offset losses; open positions do not count);
once it is reached there are no entries until the next UTC day begins.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from bots.mandate import Mandate
from bots.positions import DAY_NS, HOUR_NS, Account, pending_buys
from schemas.config import Terms
from schemas.events import Intent, Reason, Signal
from schemas.money import format_sol

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Denial(msgspec.Struct, frozen=True):
    """Why not. detail: one plain sentence with the figures."""

    reason: Reason
    detail: str


def late(signal: Signal, at_ns: int) -> Denial | None:
    """A signal may still be acted on at its very expiry, and no later."""
    if at_ns <= signal.expires_at_ns:
        return None
    return Denial(Reason.EXPIRED, f"{(at_ns - signal.expires_at_ns) // 1_000_000} ms past its expiry")


def check_entry(account: Account, mandate: Mandate, signal: Signal, at_ns: int, halted: str = "") -> Denial | None:
    """None where an entry is wanted and the user's limits allow one more purchase of `buy_lamports`.

    halted: why nobody may enter; "" while everybody may.
    """
    return (
        _stopped(mandate, halted)
        or _unwanted(mandate.terms, signal)
        or _full(account, mandate.terms, signal.mint, at_ns)
        or _too_costly(account, mandate.terms, at_ns)
    )


def cash_lamports(account: Account, terms: Terms) -> int:
    """What the ledger leaves of the budget; below zero where the budget was lowered under open positions, or sales
    returned less than the network's fee."""
    return terms.budget_lamports + account.received_lamports - account.paid_lamports


def reserved_lamports(account: Account) -> int:
    """What purchases that have not landed may still spend."""
    return sum(intent.lamports for intent in pending_buys(account)) if account.pending else 0


def day_result_lamports(account: Account, at_ns: int) -> int:
    """What the sales of the UTC day gained or, below zero, lost."""
    return account.day_realised_lamports if account.day == at_ns // DAY_NS else 0


def _stopped(mandate: Mandate, halted: str) -> Denial | None:
    if halted:
        return Denial(Reason.KILL_SWITCH, f"entries are stopped for everybody: {halted}")
    if mandate.killed:
        return Denial(Reason.KILL_SWITCH, f"entries are stopped for this user: {mandate.killed}")
    if not mandate.running:
        return Denial(Reason.NOT_RUNNING, "the bot is stopped")
    return None


def _unwanted(terms: Terms, signal: Signal) -> Denial | None:
    if signal.creator in terms.blocked_creators:
        return Denial(Reason.BLOCKED_CREATOR, f"the user takes no coin of {signal.creator}")
    if not signal.arithmetic_known and not terms.trade_unknown_arithmetic:
        return Denial(Reason.UNKNOWN_ARITHMETIC, "this coin's prices follow no formula that is known")
    return None


def _full(account: Account, terms: Terms, mint: str, at_ns: int) -> Denial | None:
    if mint in account.positions:
        return Denial(Reason.ALREADY_HELD, "this coin is already held")
    buys: list[Intent] = list(pending_buys(account)) if account.pending else []
    if any(intent.mint == mint for intent in buys):
        return Denial(Reason.ALREADY_HELD, "a purchase of this coin is under way")
    count = len(account.positions) + len(buys)
    if count >= terms.max_open_positions:
        return Denial(Reason.MAX_OPEN_POSITIONS, f"{count} of {terms.max_open_positions} open or under way")
    if _entries_full(account, terms.max_entries_per_hour - len(buys), at_ns):
        return Denial(Reason.MAX_ENTRIES_PER_HOUR, f"{terms.max_entries_per_hour} entries within an hour")
    return None


def _entries_full(account: Account, left: int, at_ns: int) -> bool:
    # The times ascend: if the n-th from the end lies within the hour, n entries do.
    times = account.entry_times_ns
    return left <= 0 or (len(times) >= left and times[-left] > at_ns - HOUR_NS)


def _too_costly(account: Account, terms: Terms, at_ns: int) -> Denial | None:
    lost = -day_result_lamports(account, at_ns)
    if lost >= terms.daily_loss_limit_lamports:
        limit = format_sol(terms.daily_loss_limit_lamports)
        until = _EPOCH + timedelta(days=at_ns // DAY_NS + 1)
        detail = f"lost {format_sol(lost)} SOL today, limit {limit}; no entries until {until:%Y-%m-%dT%H:%M:%SZ}"
        return Denial(Reason.DAILY_LOSS_LIMIT, detail)
    free = cash_lamports(account, terms) - reserved_lamports(account)
    if free < terms.buy_lamports:
        return Denial(Reason.BUDGET, f"{format_sol(free)} SOL left, {format_sol(terms.buy_lamports)} needed")
    return None
