"""A user's account as the fold of the user's ledger: the only place where a position changes.

    account = Account()
    for sequence, append in ledger: apply(account, append, sequence)

While deciding, a bot takes its own entries in at once (`take`), so that the next signal of the same batch meets them;
`settle` notes the line's sequence when the broker has it. If the broker refuses the line, the account is thrown away
and folded anew. `take` then `settle` is exactly `apply`.

An order is decided at one time and lands at a later one. Between the two it is *pending*: an Intent whose Fill or
Refusal is not in the ledger yet. So a process that starts again finds in its fold what was under way.

Lamports add up without a remainder: every sale takes its share of the position's cost along, rounded down, and the
last sale takes what is left, so at any time

    realised = received - paid + sum of the open costs

All fees, the network's included, are in `paid` and `received`. A sale that returns less than the network's fee is
received below zero.

`mark` keeps the highest value seen of a position. It is no fact of the ledger: after a restart it starts again, or from
the trades read back (`bot.observe`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from msgspec.structs import replace

from schemas.events import Append, Entry, Fill, Intent, Reason, Refusal, Side

HOUR_NS: Final = 3_600_000_000_000
DAY_NS: Final = 24 * HOUR_NS

# As many as a configuration can ask to count (`max_entries_per_hour`).
ENTRY_TIMES_MAX: Final = 3_600

_ACTS_ON_SIGNAL: Final = frozenset({Reason.SIGNAL, Reason.SELL_SIGNAL})


class LedgerError(ValueError):
    """A ledger that sells what it does not hold: no fold can make sense of it."""


class Position(msgspec.Struct, kw_only=True):
    """One held mint.

    order_id, signal_id: of the order that opened it.
    tokens: still held. original_tokens: bought; exits count their shares of it.
    cost_lamports: paid for all of it, fees included. open_cost_lamports: the part that belongs to `tokens`.
    received_lamports: from its sales so far, fees taken off.
    ordered_at_ns: when the purchase was decided; opened_at_ns: when it landed.
    exits: orders to sell so far, refused ones included; the next exit's id is derived from it.
    selling: the order to sell that is under way; None where none is.
    migration_exit_at_ns: when the last sale for MIGRATED was decided, of those that were filled; None if none was.
    refused, refused_at_ns: orders to sell that the market refused since the last sale, and when the last of them was.
    peak_lamports: the highest value of what is still held that was seen, before the network's fee; 0 if none was.
    """

    mint: str
    order_id: str
    signal_id: str
    tokens: int
    original_tokens: int
    cost_lamports: int
    open_cost_lamports: int
    opened_at_ns: int
    ordered_at_ns: int
    received_lamports: int = 0
    exits: int = 0
    selling: str | None = None
    migration_exit_at_ns: int | None = None
    refused: int = 0
    refused_at_ns: int = 0
    peak_lamports: int = 0


class Account(msgspec.Struct, kw_only=True):
    """One user's money and positions.

    pending: orders that have not landed, by their id, in the order in which they were decided.
    *_fees_lamports: charged so far, by whom.
    entry_times_ns: fills that opened a position in the hour up to the newest one, ascending.
    day, day_realised_lamports: the last UTC day (days since the epoch) with a sale, and what its sales gained or lost.
    last_sequence: of the user's newest line in FILLS; 0 for none.
    signal_sequence: the user's signals up to it are settled.
    signals: those with an outcome. refusals: of signals and of orders.
    entries: positions opened. closed, won: positions sold to the end, and those of them that gained.
    held_ns: sum of the times for which the closed ones were held.
    """

    positions: dict[str, Position] = {}
    pending: dict[str, Intent] = {}
    paid_lamports: int = 0
    received_lamports: int = 0
    realised_lamports: int = 0
    protocol_fees_lamports: int = 0
    creator_fees_lamports: int = 0
    network_fees_lamports: int = 0
    entry_times_ns: list[int] = []
    day: int = 0
    day_realised_lamports: int = 0
    last_sequence: int = 0
    signal_sequence: int = 0
    signals: int = 0
    fills: int = 0
    refusals: int = 0
    entries: int = 0
    closed: int = 0
    won: int = 0
    held_ns: int = 0


def copy_of(account: Account) -> Account:
    """One that `take` may change without changing this one: `take` never changes a position, it puts a new one into its
    place, so they may be shared."""
    return replace(
        account,
        positions=account.positions.copy(),
        pending=account.pending.copy(),
        entry_times_ns=account.entry_times_ns.copy(),
    )


def pending_buys(account: Account) -> Iterator[Intent]:
    """Purchases that have not landed."""
    return (intent for intent in account.pending.values() if intent.side is Side.BUY)


def settles_signal(entry: Entry) -> bool:
    """Whether an entry is the one outcome of its signal: of a BUY the purchase, of a SELL the sale that it asked for,
    of either a refusal. The refusal of an exit, whose order id derives from the opening signal's, settles nothing."""
    if isinstance(entry, Fill):
        return entry.reason in _ACTS_ON_SIGNAL
    if isinstance(entry, Refusal):
        return entry.order_id is None or not entry.order_id.startswith(f"{entry.signal_id}:buy:exit")
    return False


def apply(account: Account, append: Append, sequence: int, signals_began_at_ns: int = 0) -> bool:
    """Fold one line of the ledger in; False where it was folded before.

    signals_began_at_ns: when the life of SIGNALS began (runtime/lives.py); an older line says nothing of its sequences.
    Raises LedgerError.
    """
    if sequence <= account.last_sequence:
        return False
    take(account, append.entries)
    settle(account, append, sequence, signals_began_at_ns)
    return True


def settle(account: Account, append: Append, sequence: int, signals_began_at_ns: int = 0) -> None:
    """Note that a line, whose entries were taken, is durable."""
    account.last_sequence = sequence
    if append.at_ns >= signals_began_at_ns:
        account.signal_sequence = max(account.signal_sequence, append.signal_sequence)


def take(account: Account, entries: Iterable[Entry]) -> None:
    """Fold entries in, in their order. Raises LedgerError."""
    for entry in entries:
        if isinstance(entry, Intent):
            _ordered(account, entry)
            continue
        account.signals += settles_signal(entry)
        if isinstance(entry, Fill):
            _filled(account, entry)
        else:
            _refused(account, entry)


def mark(position: Position, value_lamports: int) -> None:
    """Note what selling all that is held would return now. It is seen by all who share the position."""
    if value_lamports > position.peak_lamports:
        position.peak_lamports = value_lamports


def _ordered(account: Account, intent: Intent) -> None:
    account.pending[intent.id] = intent
    position = account.positions.get(intent.mint)
    if intent.side is Side.SELL and position is not None:
        account.positions[intent.mint] = replace(position, exits=position.exits + 1, selling=intent.id)


def _refused(account: Account, refusal: Refusal) -> None:
    account.refusals += 1
    if refusal.order_id is None:
        return
    account.pending.pop(refusal.order_id, None)
    position = account.positions.get(refusal.mint)
    if position is not None and position.selling == refusal.order_id:
        account.positions[refusal.mint] = replace(
            position, selling=None, refused=position.refused + 1, refused_at_ns=refusal.at_ns
        )


def _filled(account: Account, fill: Fill) -> None:
    account.fills += 1
    account.protocol_fees_lamports += fill.protocol_fee_lamports
    account.creator_fees_lamports += fill.creator_fee_lamports
    account.network_fees_lamports += fill.network_fee_lamports
    intent = account.pending.pop(fill.order_id, None)
    ordered_at_ns = fill.at_ns if intent is None else intent.at_ns
    if fill.side is Side.BUY:
        _bought(account, fill, ordered_at_ns)
    else:
        _sold(account, fill, ordered_at_ns)


def _bought(account: Account, fill: Fill, ordered_at_ns: int) -> None:
    account.paid_lamports += fill.lamports
    _note_entry(account.entry_times_ns, fill.at_ns)
    position = account.positions.get(fill.mint)
    if position is None:
        account.entries += 1
        account.positions[fill.mint] = Position(
            mint=fill.mint,
            order_id=fill.order_id,
            signal_id=fill.signal_id,
            tokens=fill.tokens,
            original_tokens=fill.tokens,
            cost_lamports=fill.lamports,
            open_cost_lamports=fill.lamports,
            opened_at_ns=fill.at_ns,
            ordered_at_ns=ordered_at_ns,
        )
        return
    # Bots hold a mint once; a ledger that says otherwise still adds up.
    account.positions[fill.mint] = replace(
        position,
        tokens=position.tokens + fill.tokens,
        original_tokens=position.original_tokens + fill.tokens,
        cost_lamports=position.cost_lamports + fill.lamports,
        open_cost_lamports=position.open_cost_lamports + fill.lamports,
    )


def _sold(account: Account, fill: Fill, ordered_at_ns: int) -> None:
    position = account.positions.get(fill.mint)
    if position is None or not 0 < fill.tokens <= position.tokens:
        held = position.tokens if position is not None else 0
        raise LedgerError(f"{fill.id} sells {fill.tokens} of {held} tokens held of {fill.mint}")
    cost = position.open_cost_lamports * fill.tokens // position.tokens
    left = position.tokens - fill.tokens
    gain = fill.lamports - cost
    account.received_lamports += fill.lamports
    account.realised_lamports += gain
    _note_result(account, fill.at_ns, gain)
    received = position.received_lamports + fill.lamports
    if left == 0:
        account.closed += 1
        account.won += received > position.cost_lamports
        account.held_ns += max(0, fill.at_ns - position.opened_at_ns)
        del account.positions[fill.mint]
        return
    account.positions[fill.mint] = replace(
        position,
        received_lamports=received,
        peak_lamports=position.peak_lamports * left // position.tokens,
        tokens=left,
        open_cost_lamports=position.open_cost_lamports - cost,
        selling=None,
        refused=0,
        migration_exit_at_ns=ordered_at_ns if fill.reason is Reason.MIGRATED else position.migration_exit_at_ns,
    )


def _note_entry(times_ns: list[int], at_ns: int) -> None:
    newest = max(at_ns, times_ns[-1]) if times_ns else at_ns
    times_ns.append(newest)
    if times_ns[0] <= newest - HOUR_NS or len(times_ns) > ENTRY_TIMES_MAX:
        times_ns[:] = [time for time in times_ns if time > newest - HOUR_NS][-ENTRY_TIMES_MAX:]


def _note_result(account: Account, at_ns: int, gain_lamports: int) -> None:
    day = at_ns // DAY_NS
    if day > account.day:
        account.day = day
        account.day_realised_lamports = 0
    # A sale dated before the newest day (a clock set back) still counts, on the day that is being watched.
    account.day_realised_lamports += gain_lamports
