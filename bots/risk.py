"""What must hold before an entry; the first limit that does not hold is the reason.

    cash = budget + received - paid

which is the budget, plus what sales gained or lost, less the cost of what is open. Gains may be spent again.
The daily limit compares the net result of the sales of the UTC day (gains offset losses; open positions do not count).
"""

from __future__ import annotations

import msgspec

from bots.positions import DAY_NS, HOUR_NS, Account
from schemas.config import Terms
from schemas.events import Reason, Signal
from schemas.money import format_sol


class Denial(msgspec.Struct, frozen=True):
    """Why not. detail: one plain sentence with the figures."""

    reason: Reason
    detail: str


def late(signal: Signal, now_ns: int) -> Denial | None:
    """A signal may still be acted on at its very expiry, and no later."""
    if now_ns <= signal.expires_at_ns:
        return None
    return Denial(Reason.EXPIRED, f"{(now_ns - signal.expires_at_ns) // 1_000_000} ms past its expiry")


def check_entry(account: Account, terms: Terms, mint: str, now_ns: int) -> Denial | None:
    """None where the user's limits allow one more purchase of `buy_lamports`."""
    if mint in account.positions:
        return Denial(Reason.ALREADY_HELD, "this coin is already held")
    if len(account.positions) >= terms.max_open_positions:
        return Denial(Reason.MAX_OPEN_POSITIONS, f"{len(account.positions)} of {terms.max_open_positions} open")
    if _entries_full(account, terms, now_ns):
        return Denial(Reason.MAX_ENTRIES_PER_HOUR, f"{terms.max_entries_per_hour} entries within an hour")
    lost = -day_result_lamports(account, now_ns)
    if lost >= terms.daily_loss_limit_lamports:
        limit = format_sol(terms.daily_loss_limit_lamports)
        return Denial(Reason.DAILY_LOSS_LIMIT, f"lost {format_sol(lost)} SOL today, limit {limit}")
    cash = cash_lamports(account, terms)
    if cash < terms.buy_lamports:
        return Denial(Reason.BUDGET, f"{format_sol(cash)} SOL left, {format_sol(terms.buy_lamports)} needed")
    return None


def cash_lamports(account: Account, terms: Terms) -> int:
    """What may still be spent; below zero where the budget was lowered under open positions."""
    return terms.budget_lamports + account.received_lamports - account.paid_lamports


def day_result_lamports(account: Account, now_ns: int) -> int:
    """What the sales of now's UTC day gained or, below zero, lost."""
    return account.day_realised_lamports if account.day == now_ns // DAY_NS else 0


def _entries_full(account: Account, terms: Terms, now_ns: int) -> bool:
    # The times ascend: if the n-th from the end lies within the hour, n entries do.
    times, most = account.entry_times_ns, terms.max_entries_per_hour
    return len(times) >= most and times[-most] > now_ns - HOUR_NS
