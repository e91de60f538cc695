"""Accounts as they were at some line of the ledger, in the bucket `folds`: who takes a partition over folds only what
came later.

    <partition>.<user>    the user's account as of its own last line
    <partition>.~to       the mark: everything up to a line of FILLS is in the accounts, which it names, each with the
                          last line that it must have; stored after them

**Nothing depends on it.** The ledger is the truth; the bucket may be emptied at any time. Only settled lines are in an
account that is written, so each is a true fold up to its last line, whoever wrote it and however late: `Book.fold`
passes over the lines that it has. What is missing, unreadable or of other streams only means that more is folded.

A former owner that wakes up may put older accounts beside a newer mark, or an older mark beside newer accounts. The
first is why the mark names each account's line: from the oldest one that lags, everything is folded again. The second
folds more than it had to.

Highest values (`peak_lamports`) are no fact of the ledger and are left out: they are read from the trades.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from bots import positions
from bots.group import Draft
from bots.positions import Account
from runtime import buckets
from runtime.bus import BusError, Unavailable, WrongSequence
from runtime.process import Process
from runtime.readers import Follower
from runtime.wire import BATCH_MESSAGES_MAX, In
from schemas import subjects
from schemas.codec import MESSAGE_BYTES_MAX, Decoder, MalformedEvent, encode

# To be raised whenever an account's fields change, or what the fold makes of a line.
VERSION: Final = 1

BUCKET: Final = "folds"
MARK: Final = "~to"

SNAPSHOT_LINES: Final = 2_000  # of a partition since its mark: about 0.06 s of folding
STOP_LINES_MIN: Final = 100  # fewer are folded faster than written
ACCOUNTS_MAX: Final = 1_000  # copied in one round; a partition that has more is copied whole
PORTION_BYTES_MAX: Final = 256 * 1024  # encoded at a time
DATA_BYTES_MAX: Final = MESSAGE_BYTES_MAX - 1024  # of a message; what is left is for its headers
PAUSE_S: Final = 0.5
PAUSE_FAILED_S: Final = 10.0
STOP_S_MAX: Final = 2.0
LOAD_S_MAX: Final = 15.0  # then everything is folded


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """life: of the streams (`Snapshots.of_other_streams`). users: every user with a line up to `sequence`, and the last
    such line or a later one."""

    version: int
    life: str
    sequence: int
    users: dict[str, int]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    life: str
    account: Account


class Restored(NamedTuple):
    """A partition as the bucket has it. to: all lines up to it are in the accounts; 0 where nothing is believed."""

    to: int
    accounts: dict[str, Account]


class _Part:
    """What is known of one partition. lasts: each user's newest line. mark: everything up to it is in the bucket.
    lines: since a snapshot was begun."""

    def __init__(self, to: int, lasts: dict[str, int]) -> None:
        self.mark = to
        self.lasts = lasts
        self.lines = 0


class _Copy(NamedTuple):
    """What one snapshot of a partition writes. users: as in Mark."""

    partition: int
    part: _Part
    sequence: int
    accounts: dict[str, Account]
    users: dict[str, int]


class _Value(NamedTuple):
    """stored: the snapshot that is complete with it."""

    key: str
    data: bytes
    stored: _Copy | None


_mark: Decoder[Mark] = Decoder(Mark)
_snapshot: Decoder[Snapshot] = Decoder(Snapshot)

AccountOf = Callable[[str], Account | None]


class Snapshots:
    """Writes them beside the hot path, and reads them back.

    What it copies, it copies between two rounds, when every account is settled.
    """

    def __init__(self, process: Process, ready: asyncio.Event) -> None:
        """ready: is set when something may be written that had to wait."""
        self._process = process
        self._ready = ready
        self._count = process.common.partitions
        self._life = ""
        self._parts: dict[int, _Part] = {}
        self._due: set[int] = set()
        self._writing: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is being written or due."""
        return not self._due and self._writing is None

    def of_other_streams(self, life: str) -> bool:
        """Note which streams the ledger and its signals' sequences are of; whether all that was folded is of others."""
        life = f"{life} {self._count}"
        other = self._life not in ("", life)
        self._life = life
        if other:
            self._parts.clear()
        return other

    # Reading

    async def load(self, partitions: Iterable[int], last_sequence: int) -> dict[int, Restored]:
        """Those of the partitions that were not ours before. last_sequence: of FILLS now."""
        wanted = set(partitions)
        for lost in self._parts.keys() - wanted:
            del self._parts[lost]
        self._due &= self._parts.keys()
        gained = sorted(wanted - self._parts.keys())
        marks: dict[int, Mark] = {}
        accounts: dict[int, dict[str, Account]] = {partition: {} for partition in gained}
        ignored: list[str] = []
        try:
            async with asyncio.timeout(LOAD_S_MAX):
                async for message in self._stored(gained):
                    try:
                        self._read(message, last_sequence, marks, accounts)
                    except MalformedEvent as error:
                        ignored.append(f"{message.subject}: {error}")
        except (TimeoutError, BusError) as error:
            self._process.log.warning("snapshots_unread", reason=f"{type(error).__name__}: {error}")
            marks.clear()
        if ignored:
            self._process.log.warning("snapshots_ignored", count=len(ignored), reason=ignored[0])
        found = {}
        for partition in gained:
            to = believed(marks.get(partition), accounts[partition])
            found[partition] = Restored(to, accounts[partition] if to else {})
            lasts = {user: account.last_sequence for user, account in found[partition].accounts.items()}
            self._parts[partition] = _Part(to, lasts)
        whole = sum(not restored.to for restored in found.values())
        if whole:
            self._process.log.info("ledger_folded_whole", partitions=whole)
        return found

    async def _stored(self, partitions: Sequence[int]) -> AsyncIterator[In]:
        if not partitions:
            return
        every = len(partitions) == self._count
        wanted = ["*"] if every else [str(partition) for partition in partitions]
        subject = [buckets.subject(BUCKET, f"{partition}.*") for partition in wanted]
        follower = Follower(self._process.bus, f"KV_{BUCKET}", subject, last_per_subject=True)
        try:
            while not follower.caught_up:
                for message in await follower.wait():
                    yield message
        finally:
            await follower.close()

    def _read(
        self, message: In, last_sequence: int, marks: dict[int, Mark], accounts: dict[int, dict[str, Account]]
    ) -> None:
        """Raises MalformedEvent for what is not to be believed."""
        change = buckets.change(message)
        number, _, user = change.key.partition(".")
        partition = int(number) if number.isdecimal() else -1
        if change.data is None or partition not in accounts:
            return
        if user == MARK:
            mark = _mark(change.data)
            self._check(mark, mark.sequence, last_sequence)
            marks[partition] = mark
            return
        snapshot = _snapshot(change.data)
        self._check(snapshot, snapshot.account.last_sequence, last_sequence)
        if subjects.partition(user, self._count) != partition:
            raise MalformedEvent("the user is of another partition")
        accounts[partition][user] = snapshot.account

    def _check(self, found: Mark | Snapshot, sequence: int, last_sequence: int) -> None:
        if (found.version, found.life) != (VERSION, self._life):
            raise MalformedEvent(f"of version {found.version} and streams {found.life!r}")
        if not 0 < sequence <= last_sequence:
            raise MalformedEvent(f"line {sequence} of a ledger of {last_sequence}")

    # Writing

    def note(self, user: str, sequence: int) -> None:
        """A line of the user's was folded, or is durable and settled."""
        partition = subjects.partition(user, self._count)
        part = self._parts.get(partition)
        if part is None or sequence <= part.lasts.get(user, 0):
            return
        part.lasts[user] = sequence
        part.lines += 1
        if part.lines >= SNAPSHOT_LINES:
            self._due.add(partition)

    def stored(self, drafts: Sequence[Draft], first_sequence: int) -> None:
        for sequence, draft in enumerate(drafts, first_sequence):
            self.note(draft.append.user, sequence)

    def write_due(self, account: AccountOf, folded: Mapping[int, int]) -> None:
        """Begin to write what is due, unless something is being written. To be called when all accounts are settled.

        folded: up to which line of FILLS each partition is.
        """
        if not self._due or self._writing is not None:
            return
        copies: list[_Copy] = []
        while self._due and sum(len(copy.accounts) for copy in copies) < ACCOUNTS_MAX:
            copies.append(self._copy(self._due.pop(), account, folded))
        self._writing = self._process.spawn(self._write_and_rest(copies), "write-snapshots")

    async def close(self, account: AccountOf, folded: Mapping[int, int]) -> None:
        """Write what a successor would else fold."""
        if self._writing is not None:
            self._writing.cancel()  # what it has not marked is written here
            await asyncio.wait([self._writing])
        left = [p for p, part in self._parts.items() if p in folded and part.lines >= STOP_LINES_MIN]
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await self._write([self._copy(partition, account, folded) for partition in left])
        except TimeoutError:
            self._process.log.warning("snapshots_unwritten", reason="no time left")

    def _copy(self, partition: int, account: AccountOf, folded: Mapping[int, int]) -> _Copy:
        part = self._parts[partition]
        part.lines = 0
        changed = {user: account(user) for user, last in part.lasts.items() if last > part.mark}
        copies = {user: positions.copy_of(found) for user, found in changed.items() if found is not None}
        return _Copy(partition, part, folded[partition], copies, part.lasts.copy())

    async def _write_and_rest(self, copies: list[_Copy]) -> None:
        """It keeps the broker and us from being busy with snapshots alone."""
        try:
            await asyncio.sleep(PAUSE_S if await self._write(copies) else PAUSE_FAILED_S)
        finally:
            self._writing = None
            self._ready.set()

    async def _write(self, copies: list[_Copy]) -> bool:
        """Whether the broker took them. A snapshot that it did not take makes the next one larger."""
        unmarked = {copy.partition: copy for copy in copies}
        try:
            for portion in _portions(self._values(copies)):
                await buckets.put_many(self._process.bus, BUCKET, [(value.key, value.data) for value in portion])
                self._process.figures.add("snapshots_total", len(portion))
                for copy in [value.stored for value in portion if value.stored is not None]:
                    copy.part.mark = copy.sequence
                    del unmarked[copy.partition]
        except (Unavailable, WrongSequence, BusError) as error:
            self._process.log.warning("snapshots_unwritten", reason=f"{type(error).__name__}: {error}")
            return False
        finally:
            for copy in unmarked.values():
                copy.part.lines += SNAPSHOT_LINES  # due again with the next line
        return True

    def _values(self, copies: Iterable[_Copy]) -> Iterator[_Value]:
        """Each partition's accounts and then its mark; no mark where something does not fit into a message."""
        for copy in copies:
            fits = True
            for user, account in copy.accounts.items():
                data = encode(Snapshot(version=VERSION, life=self._life, account=account))
                fits = fits and len(data) <= DATA_BYTES_MAX
                if fits:
                    yield _Value(f"{copy.partition}.{user}", data, None)
            data = encode(Mark(version=VERSION, life=self._life, sequence=copy.sequence, users=copy.users))
            if fits and len(data) <= DATA_BYTES_MAX:
                yield _Value(f"{copy.partition}.{MARK}", data, copy)
            else:
                self._process.log.warning("snapshot_too_large", partition=copy.partition)


def believed(mark: Mark | None, accounts: Mapping[str, Account]) -> int:
    """The line up to which these accounts together hold all lines; 0 where there is none."""
    if mark is None:
        return 0
    lasts = {user: accounts[user].last_sequence if user in accounts else 0 for user in mark.users}
    lagging = [lasts[user] for user, least in mark.users.items() if lasts[user] < least]
    return min([mark.sequence, *lagging])


def _portions(values: Iterable[_Value]) -> Iterator[list[_Value]]:
    portion: list[_Value] = []
    size = 0
    for value in values:
        portion.append(value)
        size += len(value.data)
        if size >= PORTION_BYTES_MAX or len(portion) == BATCH_MESSAGES_MAX:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion
