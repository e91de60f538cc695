"""All users of one process: their accounts, what they hold, what is due; and one group of decisions at a time.

    group = book.decide(events, signals, now_ns)    tentative: accounts already contain what was decided
    book.settle(group, first, count, sequence)      the broker has stored appends first … first + count - 1
    book.undo(group)                                it refused or did not answer: as if nothing had been decided

A user without a ledger and without a signal has no account here, a mint is followed once however many hold it, and
time is one heap, not a timer a user.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from bots import bot, exits, positions
from bots.positions import Account, LedgerError
from bots.prices import Price, Prices
from schemas.config import BotConfig, BotWanted, ConfigError, Terms, Wanted, terms
from schemas.events import Append, Entry, FeedGap, Intent, Reason, Side, Signal, Strategy, TokenEvent

_NEVER_NS = 2**63 - 1
_VOID_MIN = 1_000  # void deadlines are left in the heap until they are as many as the others, and this many

# Exits of a position whose user has no configuration any more follow the defaults.
_DEFAULT_TERMS = terms(BotConfig(strategy=Strategy.SNIPER))


class Arrived(NamedTuple):
    """A signal with its sequence in the SIGNALS stream."""

    signal: Signal
    sequence: int


class Draft(NamedTuple):
    """An append to be stored, and the user's last sequence that it was decided on."""

    append: Append
    expected: int


class Group:
    """What one round decided. drafts: at most one a user, in the order of first mention."""

    def __init__(self, now_ns: int) -> None:
        self.now_ns = now_ns
        self.before: dict[str, Account] = {}
        self.entries: dict[str, list[Entry]] = {}
        self.signal_sequences: dict[str, int] = {}
        self.drafts: list[Draft] = []
        self.decided = 0  # signals taken for the first time
        self.repeated = 0


class Book:
    """See the module. signals_created_at_ns: when the SIGNALS stream was created (positions.settle)."""

    def __init__(self, signals_created_at_ns: int = 0) -> None:
        self.signals_created_at_ns = signals_created_at_ns
        self.prices = Prices()
        self.revision = 0  # of the `bots` bucket
        self.folded = 0  # sequence of the FILLS stream up to which lines are folded
        self._accounts: dict[str, Account] = {}
        self._terms: dict[str, tuple[Terms, bool]] = {}  # and whether the bot is wanted running
        self._holders: dict[str, set[str]] = {}
        self._due: list[tuple[int, str, str]] = []  # (when, user, mint), a heap; entries not in _due_at are void
        self._due_at: dict[tuple[str, str], int] = {}  # the one entry of each position that counts

    # What is known

    @property
    def held(self) -> Iterable[str]:
        """Mints that some user holds."""
        return self._holders.keys()

    @property
    def users(self) -> int:
        return len(self._accounts)

    @property
    def open_positions(self) -> int:
        return sum(len(holders) for holders in self._holders.values())

    def oldest_position_ns(self) -> int | None:
        """When the oldest open position was opened."""
        return min((p.opened_at_ns for a in self._accounts.values() for p in a.positions.values()), default=None)

    def account(self, user: str) -> Account | None:
        return self._accounts.get(user)

    def next_due_ns(self) -> int | None:
        return self._due[0][0] if self._due else None

    # Folding

    def configure(self, user: str, wanted: BotWanted | None, revision: int) -> str | None:
        """Take a bot's wanted state; the text of what is wrong with it, or None. A wrong one stops the bot."""
        self.revision = max(self.revision, revision)
        problem = None
        if wanted is None:
            self._stop(user)
            return None
        try:
            self._terms[user] = (terms(wanted.config), wanted.wanted is Wanted.RUNNING)
        except ConfigError as error:
            problem = str(error)
            self._stop(user)
        for mint in self._held_by(user):
            self._schedule(user, mint)
        return problem

    def _stop(self, user: str) -> None:
        if user in self._terms:
            self._terms[user] = (self._terms[user][0], False)

    def _held_by(self, user: str) -> list[str]:
        account = self._accounts.get(user)
        return list(account.positions) if account is not None else []

    def fold(self, append: Append, user_sequence: int) -> None:
        """Take one stored line in. Raises LedgerError for one that makes no sense; its place is noted all the same,
        and its entries count as far as they go."""
        account = self._accounts.setdefault(append.user, Account())
        held = set(account.positions)
        try:
            positions.apply(account, append, user_sequence, self.signals_created_at_ns)
        except LedgerError:
            positions.settle(account, append, user_sequence, self.signals_created_at_ns)
            raise
        finally:
            self._reindex(append.user, held)
            self.folded = max(self.folded, user_sequence)

    def pass_over(self, user: str, user_sequence: int) -> None:
        """Note a stored line that cannot be read: the user's next one is decided on its sequence."""
        account = self._accounts.setdefault(user, Account())
        account.last_sequence = max(account.last_sequence, user_sequence)
        self.folded = max(self.folded, user_sequence)

    def remember(self, event: TokenEvent) -> None:
        """Take an event of the past in: prices and peaks, no decisions. What it would have decided since the position
        was opened is decided by the next group, at the newest price."""
        price = self.prices.apply(event)
        if price is None or isinstance(event, FeedGap):
            return
        for user in self._holders.get(event.mint, ()):
            account = self._accounts[user]
            if event.seen_at_ns >= account.positions[event.mint].opened_at_ns:  # a peak before the entry is none
                bot.observe(account, event.mint, price)
                self._due_by(user, event.mint, event.seen_at_ns)
            self._schedule(user, event.mint)

    # Deciding

    def decide(self, events: Iterable[TokenEvent], signals: Sequence[Arrived], now_ns: int) -> Group:
        """Exits that events and time cause, then the signals' outcomes, as one group."""
        group = Group(now_ns)
        for event in events:
            price = self.prices.apply(event)
            if price is not None and not isinstance(event, FeedGap):
                self._on_price(group, event.mint, price)
        self._on_time(group)
        for arrived in signals:
            self._on_signal(group, arrived)
        for user, entries in group.entries.items():
            expected = self._accounts[user].last_sequence
            append = Append(
                id=f"{user}:{expected}",
                user=user,
                signal_sequence=group.signal_sequences.get(user, 0),
                entries=tuple(entries),
                at_ns=now_ns,
            )
            group.drafts.append(Draft(append, expected))
        return group

    def settle(self, group: Group, drafts: Sequence[Draft], first_sequence: int) -> None:
        """Drafts of the group are stored, contiguous from first_sequence."""
        for sequence, draft in enumerate(drafts, first_sequence):
            append = draft.append
            positions.settle(self._accounts[append.user], append, sequence, self.signals_created_at_ns)
            group.before.pop(append.user, None)
            if sequence == self.folded + 1:  # behind a gap lie lines of somebody else, which are still to be folded
                self.folded = sequence

    def undo(self, group: Group) -> None:
        """Forget what was decided and not settled."""
        for user, account in group.before.items():
            held = set(self._accounts[user].positions)
            self._accounts[user] = account
            self._reindex(user, held)
            for entry in group.entries[user]:
                # A price that asked for an exit does not come again, unlike a signal: look at the position at once.
                if isinstance(entry, Intent) and entry.side is Side.SELL and entry.reason is not Reason.SELL_SIGNAL:
                    self._due_by(user, entry.mint, group.now_ns)
        group.before.clear()

    def _on_price(self, group: Group, mint: str, price: Price) -> None:
        for user in tuple(self._holders.get(mint, ())):
            if user in group.before:  # a highest value was seen, whatever becomes of the group
                bot.observe(group.before[user], mint, price)
            entries = bot.on_price(self._accounts[user], mint, self._rules(user), price, group.now_ns)
            if entries:
                self._take(group, user, entries)
            self._schedule(user, mint)

    def _on_time(self, group: Group) -> None:
        while self._due and self._due[0][0] <= group.now_ns:
            due_ns, user, mint = heapq.heappop(self._due)
            if self._due_at.get((user, mint)) != due_ns:
                continue
            del self._due_at[user, mint]
            entries = bot.on_time(self._accounts[user], mint, self._rules(user), self.prices.get(mint), group.now_ns)
            if entries:
                self._take(group, user, entries)
            self._schedule(user, mint, not_before_ns=group.now_ns + exits.RETRY_NS)

    def _rules(self, user: str) -> Terms:
        return self._terms.get(user, (_DEFAULT_TERMS, False))[0]

    def _on_signal(self, group: Group, arrived: Arrived) -> None:
        signal, sequence = arrived
        user = signal.user
        account = self._accounts.setdefault(user, Account())
        if sequence <= max(account.signal_sequence, group.signal_sequences.get(user, 0)):
            group.repeated += 1
            return
        rules, running = self._terms.get(user, (None, False))
        price = self.prices.get(signal.mint)
        entries = bot.on_signal(account, rules if running else None, signal, price, group.now_ns)
        self._take(group, user, entries)
        group.signal_sequences[user] = sequence
        group.decided += 1

    def _take(self, group: Group, user: str, entries: list[Entry]) -> None:
        account = self._accounts[user]
        if user not in group.before:
            group.before[user] = _copy(account)
        held = set(account.positions)
        positions.take(account, entries)
        group.entries.setdefault(user, []).extend(entries)
        self._reindex(user, held)

    # Indexes

    def _reindex(self, user: str, before: set[str]) -> None:
        now = self._accounts[user].positions.keys()
        for mint in before - now:
            holders = self._holders[mint]
            holders.discard(user)
            if not holders:
                del self._holders[mint]
                self.prices.release(mint)
            self._due_at.pop((user, mint), None)
        for mint in now - before:
            self._holders.setdefault(mint, set()).add(user)
            self.prices.hold(mint)
            self._schedule(user, mint)

    def _schedule(self, user: str, mint: str, not_before_ns: int = 0) -> None:
        account = self._accounts[user]
        due_ns = bot.next_deadline_ns(account, mint, self._rules(user), self.prices.get(mint))
        if due_ns is not None:
            self._due_by(user, mint, max(due_ns, not_before_ns))

    def _due_by(self, user: str, mint: str, due_ns: int) -> None:
        """Look at the position at this time or earlier. A later deadline finds its place when the earlier comes."""
        if due_ns < self._due_at.get((user, mint), _NEVER_NS):
            self._due_at[user, mint] = due_ns
            heapq.heappush(self._due, (due_ns, user, mint))
            if len(self._due) > 2 * len(self._due_at) + _VOID_MIN:
                self._due = [(at_ns, *key) for key, at_ns in self._due_at.items()]
                heapq.heapify(self._due)


def _copy(account: Account) -> Account:
    """Deep enough to undo: positions and entry times are the parts that change in place."""
    return msgspec.structs.replace(
        account,
        positions={mint: msgspec.structs.replace(position) for mint, position in account.positions.items()},
        entry_times_ns=list(account.entry_times_ns),
    )
