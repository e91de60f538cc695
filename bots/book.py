"""All users of one process: their accounts, what they hold, what is due; and one group of decisions at a time.

    group = book.act(signals, until_ns, now_ns)     tentative: accounts already contain what was decided
    book.settle(group, drafts, first_sequence)      the broker has stored these appends, contiguous from there
    book.undo(group)                                it refused or did not answer: as if nothing had been decided

**Time is the events' own.** Events are heard as they come and acted on in the order of their `seen_at_ns`, together
with what falls due (an order lands, a deadline comes) and with signals and alarms at the time they were decided. At the
same instant an event comes first, then signals, then alarms, then what is due: an order meets the market as all events
up to its landing left it. So a recording gives the same entries as the live line did, whatever time the line took, as
long as it took less than PROMPT_NS.

**A signal need not wait for that** where waiting cannot change its outcome: everything up to its time has been heard,
and nothing of its user's is left to be done before it. Then it is acted on as it comes, ahead of the others' time.

What comes later than that (after an outage) cannot have been acted on in time: an old event only informs, an old signal
or deadline is acted on now.

A user without a ledger and without a signal has no account here, and a mint is followed once however many hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bots import bot, mandate, positions
from bots.agenda import NEVER_NS, Agenda, Kind
from bots.group import Arrived, Draft, Group
from bots.holders import Holders
from bots.mandate import Mandate
from bots.paper import LANDING_NS_DEFAULT
from bots.positions import Account
from bots.prices import Price, Prices
from schemas.config import BotWanted, ConfigError
from schemas.events import Append, Decision, Entry, FeedGap, Intent, Reason, Side, Signal, TokenEvent

# How far behind an event the line may be and still act as if it were not.
PROMPT_NS = 5_000_000_000


class Book:
    """See the module.

    landing_ns: from an order's decision to its effect. signals_began_at_ns: when the life of SIGNALS began
    (positions.settle).
    """

    def __init__(self, landing_ns: int = LANDING_NS_DEFAULT, signals_began_at_ns: int = 0) -> None:
        self.signals_began_at_ns = signals_began_at_ns
        self.prices = Prices()
        self.halted = ""  # why nobody may enter; "" while everybody may
        self.revision = 0  # of the `bots` bucket
        self._landing_ns = landing_ns
        self._accounts: dict[str, Account] = {}
        self._mandates: dict[str, Mandate] = {}
        self.running = 0  # users whose bot is wanted running
        self.agenda = Agenda()
        self.holders = Holders(self.prices)
        self._undone: list[tuple[int, str, str]] = []  # exits to be decided once more: (when, user, mint)

    # What is known

    @property
    def users(self) -> int:
        return len(self._accounts)

    def acted(self, user: str, sequence: int) -> bool:
        """Whether the ledger settles a signal."""
        account = self._accounts.get(user)
        return account is not None and sequence <= account.signal_sequence

    def carried(self, of: Callable[[str], bool]) -> tuple[set[str], int]:
        """The mints that some users hold or have ordered, and when the oldest of it was decided (NEVER_NS: nothing)."""
        accounts = [self._accounts[user] for user in filter(of, self._accounts)]
        held = [(p.mint, p.ordered_at_ns) for account in accounts for p in account.positions.values()]
        held += [(intent.mint, intent.at_ns) for account in accounts for intent in account.pending.values()]
        return {mint for mint, _ in held}, min((at_ns for _, at_ns in held), default=NEVER_NS)

    def look_at(self, of: Callable[[str], bool], at_ns: int) -> None:
        """Have the positions of some users decided on by time, at the last known price."""
        for user in filter(of, self._accounts):
            for mint in self._accounts[user].positions:
                self.agenda.due_by(user, mint, at_ns)

    def account(self, user: str) -> Account | None:
        return self._accounts.get(user)

    def mandate(self, user: str) -> Mandate:
        return self._mandates.get(user, mandate.UNKNOWN)

    def next_at_ns(self) -> int | None:
        """The time of what waits or falls due first."""
        first = min(self.agenda.next_ns(), self._undone[0][0] if self._undone else NEVER_NS)
        return None if first == NEVER_NS else first

    # Folding

    def configure(self, user: str, wanted: BotWanted | None, revision: int, now_ns: int) -> str | None:
        """Take a bot's wanted state; the text of what is wrong with it, or None. A wrong one stops the bot."""
        self.revision = max(self.revision, revision)
        problem, was_running = None, self.mandate(user).running
        try:
            if wanted is not None:
                self._mandates[user] = mandate.mandate_of(wanted)
        except ConfigError as error:
            problem = str(error)
        if wanted is None or problem is not None:
            self._mandates[user] = mandate.stopped(self.mandate(user))
        self.running += self.mandate(user).running - was_running
        account = self._accounts.get(user)
        for mint in account.positions if account is not None else ():
            self.agenda.due_by(user, mint, now_ns)
        return problem

    def halt(self, reason: str, revision: int) -> None:
        """Refuse everybody's entries from now on, or with "" no longer."""
        self.halted = reason
        self.revision = max(self.revision, revision)

    def fold(self, append: Append, user_sequence: int) -> None:
        """Take one stored line in. Raises LedgerError for one that makes no sense; its place is noted all the same,
        and its entries count as far as they go."""
        account = self._accounts.setdefault(append.user, Account())
        if user_sequence <= account.last_sequence:
            return
        try:
            for entry in append.entries:
                if self._apply(append.user, account, entry):
                    self._schedule(append.user, entry.mint, append.at_ns)
        finally:
            positions.settle(account, append, user_sequence, self.signals_began_at_ns)

    def pass_over(self, user: str, user_sequence: int) -> None:
        """Note a stored line that cannot be read: the user's next one is decided on its sequence."""
        account = self._accounts.setdefault(user, Account())
        account.last_sequence = max(account.last_sequence, user_sequence)

    def adopt(self, user: str, account: Account) -> None:
        """Take over an account that was folded before. Its highest values are to be read from the trades."""
        self._accounts[user] = account
        for position in account.positions.values():
            position.peak_lamports = 0
        self._reindex(user, Account(), 0)

    def keep(self, owns: Callable[[str], bool]) -> None:
        """Forget the accounts of users that are somebody else's now."""
        for user in [user for user in self._accounts if not owns(user)]:
            account, self._accounts[user] = self._accounts[user], Account()
            self._reindex(user, account, 0)
            del self._accounts[user]
        self._undone = [undone for undone in self._undone if owns(undone[1])]

    def remember(self, event: TokenEvent) -> None:
        """Take an event of the past in: prices and peaks, no decisions. What it would have decided since the position
        was opened is decided by the next group, at the newest price."""
        price = self.prices.apply(event)
        if price is None or isinstance(event, FeedGap):
            return
        for user in self.holders.of(event.mint):
            account = self._accounts[user]
            bot.observe(account, event.mint, price)
            if event.seen_at_ns >= account.positions[event.mint].opened_at_ns:
                self.agenda.due_by(user, event.mint, event.seen_at_ns)

    # Deciding

    def hear(self, event: TokenEvent) -> None:
        """An event, to be acted on when its time has come; events come in their stream's order."""
        self.agenda.hear(event)

    def hear_alarm(self, alarm: Decision) -> None:
        """A SELL for every holder, to be acted on when its time has come: it travels a shorter way than signals."""
        self.agenda.hear_alarm(alarm)

    def drop_signals(self) -> None:
        """Forget the signals that wait: they are about to come again."""
        for signal in self.agenda.drop_signals():
            self._learn(signal)

    def act(self, signals: Sequence[Arrived], until_ns: int, now_ns: int) -> Group:
        """Whatever happened up to `until_ns`, and signals as soon as nothing can come before them, as one group.

        signals: each user's in the order of their sequences. now_ns: the time of day; in a replay the time of the
        recording.
        """
        group = Group(now_ns)
        again, self._undone = self._undone, []
        for at_ns, user, mint in again:
            self._look(group, user, mint, self._time(at_ns, now_ns))
        for arrived in signals:
            if self.acted(arrived.signal.user, arrived.sequence):
                group.repeated += 1
                self._learn(arrived.signal)
            else:
                self._accounts.setdefault(arrived.signal.user, Account())
                group.repeated += not self.agenda.arrive(arrived, until_ns)
        self._advance(group, until_ns)
        for arrived in self.agenda.heard_of(until_ns):
            if self.agenda.foremost(arrived.signal, self._accounts[arrived.signal.user]):
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
            positions.settle(self._accounts[append.user], append, sequence, self.signals_began_at_ns)
            group.before.pop(append.user, None)

    def undo(self, group: Group) -> None:
        """Forget what was decided and not settled. Signals come again; what prices and deadlines asked for is looked
        at once more, at once."""
        for user, account in group.before.items():
            undone, self._accounts[user] = self._accounts[user], account
            self._reindex(user, undone, group.now_ns)
            for entry in group.entries[user]:
                if isinstance(entry, Intent) and entry.side is Side.SELL and entry.reason is not Reason.SELL_SIGNAL:
                    self._undone.append((entry.at_ns, user, entry.mint))

    # In the order of time

    def _advance(self, group: Group, to_ns: int) -> None:
        """Act on events, signals, alarms and what is due, up to a time."""
        agenda = self.agenda
        while True:
            first_ns, kind = agenda.next_up()
            if first_ns > to_ns or first_ns == NEVER_NS:
                agenda.done(to_ns)
                return
            if kind is Kind.EVENT:
                self._on_event(group, agenda.pop_event())
            elif kind is Kind.SIGNAL:
                arrived = agenda.pop_signal()
                self._learn(arrived.signal)
                self._on_signal(group, arrived)
            elif kind is Kind.ALARM:
                self._on_alarm(group, agenda.pop_alarm())
            else:
                self._on_due(group)

    def _time(self, at_ns: int, now_ns: int) -> int:
        """The time at which something of `at_ns` is acted on."""
        return at_ns if now_ns - at_ns <= PROMPT_NS else now_ns

    def _on_event(self, group: Group, event: TokenEvent) -> None:
        if group.now_ns - event.seen_at_ns > PROMPT_NS:
            self.remember(event)
            return
        if isinstance(event, FeedGap):
            self.prices.apply(event)
            return
        before = self.prices.get(event.mint)
        price = self.prices.apply(event)
        if price is not None:
            moved = before is None or before.migrated_at_ns != price.migrated_at_ns
            self._on_price(group, price, event.seen_at_ns, moved)

    def _on_price(self, group: Group, price: Price, at_ns: int, moved: bool) -> None:
        """moved: whether the coin has just left its curve. Any other price brings no deadline nearer."""
        mint, feed = price.mint, self.prices.feed
        for user in self.holders.of(mint):
            if user in group.before:  # a highest value was seen, whatever becomes of the group
                bot.observe(group.before[user], mint, price)
            entries = bot.on_price(self._accounts[user], mint, self.mandate(user), price, at_ns, feed)
            if entries:
                self._take(group, user, entries, at_ns)
            if entries or moved:
                self._schedule(user, mint, at_ns)

    def _on_alarm(self, group: Group, alarm: Decision) -> None:
        at_ns = self._time(alarm.decided_at_ns, group.now_ns)
        price = self.prices.alarm(alarm.mint, alarm.decided_at_ns)
        if price is None:
            return
        for user in self.holders.of(alarm.mint):
            entries = bot.on_alarm(self._accounts[user], alarm.mint, self.mandate(user), price, at_ns, self.prices.feed)
            if entries:
                self._take(group, user, entries, at_ns)
            self._schedule(user, alarm.mint, at_ns)

    def _on_due(self, group: Group) -> None:
        due = self.agenda.pop_due()
        if due is None:
            return
        due_ns, user, key = due
        at_ns = self._time(due_ns, group.now_ns)
        account = self._accounts[user]
        intent = account.pending.get(key)
        if intent is not None:
            price = self.prices.get(intent.mint)
            self._take(group, user, [bot.land(account, self.mandate(user), intent, price, at_ns)], at_ns)
            key = intent.mint  # how it landed may be reason enough for the next order
        self._look(group, user, key, at_ns)

    def _look(self, group: Group, user: str, mint: str, at_ns: int) -> None:
        """Decide on a position by time, at the last known price."""
        account = self._accounts[user]
        if mint not in account.positions:
            return
        entries = bot.on_time(account, mint, self.mandate(user), self.prices.get(mint), at_ns, self.prices.feed)
        if entries:
            self._take(group, user, entries, at_ns)
        self._schedule(user, mint, at_ns)

    def _learn(self, signal: Signal) -> None:
        if signal.market is not None:
            self.prices.learn(signal.mint, signal.market, ordinary=signal.arithmetic_known)

    def _on_signal(self, group: Group, arrived: Arrived) -> None:
        signal, sequence = arrived
        user = signal.user
        account = self._accounts[user]
        if sequence <= max(account.signal_sequence, group.signal_sequences.get(user, 0)):
            return  # acted on ahead of its time
        late = group.now_ns > signal.expires_at_ns
        at_ns = group.now_ns if late else self._time(signal.decided_at_ns, group.now_ns)
        price = self.prices.get(signal.mint)
        entries = bot.on_signal(account, self.mandate(user), signal, price, at_ns, self.halted)
        self._take(group, user, entries, at_ns)
        group.signal_sequences[user] = sequence
        group.decided += 1
        self.agenda.acted(user)

    def _take(self, group: Group, user: str, entries: list[Entry], at_ns: int) -> None:
        account = self._accounts[user]
        if user not in group.before:
            group.before[user] = positions.copy_of(account)
            group.entries[user] = []
        group.entries[user] += entries
        for entry in entries:
            self._apply(user, account, entry)

    # Indexes

    def _apply(self, user: str, account: Account, entry: Entry) -> bool:
        """Take one entry in, and bring the indexes along; True where it opens a position. Raises LedgerError."""
        mint = entry.mint
        landed = not isinstance(entry, Intent) and entry.order_id in account.pending
        positions.take(account, (entry,))
        opened = mint in account.positions
        holds = self.holders.holds(user, mint)
        if opened and not holds:
            self.holders.hold(user, mint)
        elif holds and not opened:
            self._let_go(user, mint)
        if isinstance(entry, Intent):
            self._order(user, entry)
        elif landed and entry.order_id is not None:
            self._landed(user, entry.order_id, mint)
        return opened and not holds

    def _reindex(self, user: str, before: Account, at_ns: int) -> None:
        """Bring the indexes from an account that was to the one that is now."""
        now = self._accounts[user]
        for mint in now.positions.keys() - before.positions.keys():
            self.holders.hold(user, mint)
            self._schedule(user, mint, at_ns)
        for mint in before.positions.keys() - now.positions.keys():
            self._let_go(user, mint)
        for order_id in now.pending.keys() - before.pending.keys():
            self._order(user, now.pending[order_id])
        for order_id in before.pending.keys() - now.pending.keys():
            self._landed(user, order_id, before.pending[order_id].mint)

    def _let_go(self, user: str, mint: str) -> None:
        self.agenda.cancel(user, mint)
        self.holders.let_go(user, mint)

    def _order(self, user: str, intent: Intent) -> None:
        self.holders.order(intent.mint)
        self.agenda.due_by(user, intent.id, intent.at_ns + self._landing_ns)

    def _landed(self, user: str, order_id: str, mint: str) -> None:
        self.agenda.cancel(user, order_id)
        self.holders.landed(mint)

    def _schedule(self, user: str, mint: str, after_ns: int) -> None:
        price, feed = self.prices.get(mint), self.prices.feed
        due_ns = bot.next_deadline_ns(self._accounts[user], mint, self.mandate(user), price, after_ns, feed)
        if due_ns is not None:
            self.agenda.due_by(user, mint, due_ns)
