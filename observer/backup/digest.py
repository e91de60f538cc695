"""What a stream held, message by message, and whether a restored copy holds the same; pure.

**The reference is taken while the stream lives on.** Its messages are read before the snapshot begins, and those stored
meanwhile behind it; a record is 8 bytes of sequence and 16 of digest. Messages may go in the meantime: by age, or
because a bucket keeps one of each key. So there are three kinds of messages, told apart by their sequence:

    expected    read, not beyond the state that the snapshot begins with, and still there afterwards: must be restored
    fleeting    read and gone afterwards, or stored after that state, or with a time to live of its own: may be
                restored, and then must be equal
    unwitnessed stored while the backup ran and gone before it was read: may be restored, nothing to compare it with
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from runtime.wire import In

DIGEST_BYTES = 16
RECORD = struct.Struct(f"<Q{DIGEST_BYTES}s")
EXAMPLES_MAX = 5
TTL_HEADER = b"Nats-TTL:"

Range = tuple[int, int]  # first and last, both within
Record = tuple[int, bytes]  # sequence, digest


def digest(message: In) -> bytes:
    """Of a stored message: sequence, time, subject, headers and data, none of which can pass for another."""
    subject, headers = message.subject.encode(), message.header_block
    head = b"%d %d %d %d " % (message.sequence, message.at_ns, len(subject), len(headers))
    return blake2b(b"%b%b%b%b" % (head, subject, headers, message.data), digest_size=DIGEST_BYTES).digest()


def records(messages: Iterable[In]) -> bytes:
    return b"".join(RECORD.pack(message.sequence, digest(message)) for message in messages)


def unpack(portions: Iterable[bytes]) -> Iterator[Record]:
    """What `records` packed, in portions that hold whole records each. Raises struct.error."""
    for portion in portions:
        yield from RECORD.iter_unpack(portion)


class Witnessed:
    """The sequences that were read, as runs: few where nothing is deleted in the middle. brief: of messages that have
    a time to live of their own, which no snapshot and no restoration need carry."""

    def __init__(self) -> None:
        self.runs: list[Range] = []
        self.brief: list[Range] = []
        self.count = 0

    def add(self, messages: Iterable[In]) -> None:
        """In the order of their sequences."""
        for message in messages:
            self.count += 1
            _extend(self.runs, message.sequence)
            if TTL_HEADER in message.header_block:
                _extend(self.brief, message.sequence)

    def fleeting(self, after: Mapping[str, Any]) -> list[Range]:
        """after: the state afterwards, with deleted details."""
        return without(self.runs, without(present(after), self.brief))


def _extend(runs: list[Range], sequence: int) -> None:
    if runs and runs[-1][1] + 1 == sequence:
        runs[-1] = (runs[-1][0], sequence)
    else:
        runs.append((sequence, sequence))


def present(state: Mapping[str, Any]) -> list[Range]:
    """The sequences that a stream holds, of its state with deleted details."""
    runs, start, last = [], int(state["first_seq"]), int(state["last_seq"])
    for gone in state.get("deleted") or ():
        if gone > start:
            runs.append((start, gone - 1))
        start = gone + 1
    if start <= last and int(state["messages"]):
        runs.append((start, last))
    return runs


def without(runs: Sequence[Range], taken: Sequence[Range]) -> list[Range]:
    """What of `runs` is not in `taken`; both in order."""
    left: list[Range] = []
    index = 0
    for first, last in runs:
        while index < len(taken) and taken[index][1] < first:
            index += 1
        at = index
        while at < len(taken) and taken[at][0] <= last:
            if taken[at][0] > first:
                left.append((first, taken[at][0] - 1))
            first = max(first, taken[at][1] + 1)
            at += 1
        if first <= last:
            left.append((first, last))
    return left


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Of one stream. equal: messages compared and found the same. The others are those at fault."""

    equal: int
    unwitnessed: int
    missing: int
    changed: int
    unknown: int
    examples: tuple[int, ...]  # sequences at fault, the first few

    @property
    def ok(self) -> bool:
        return not (self.missing or self.changed or self.unknown)

    def sentence(self) -> str:
        at_fault = {"missing": self.missing, "changed": self.changed, "that nobody stored": self.unknown}
        counts = ", ".join(f"{count} {what}" for what, count in at_fault.items() if count)
        return f"{counts} (sequence {', '.join(map(str, self.examples))}{' …' if self._more else ''})"

    @property
    def _more(self) -> bool:
        return self.missing + self.changed + self.unknown > len(self.examples)


class Comparison:
    """The reference's records against a restored stream: `take` each of its messages in order, then `end`.

    settled: the last sequence read before the snapshot began. last: of the state that it began with. read: the last
    one read afterwards. fleeting: runs of sequences that were gone by then.
    """

    def __init__(
        self, reference: Iterable[Record], *, settled: int, last: int, read: int, fleeting: Sequence[Range]
    ) -> None:
        self._records = iter(reference)
        self._settled, self._last, self._read = settled, last, read
        self._fleeting = iter(fleeting)
        self._run: Range | None = next(self._fleeting, None)
        self._next = self._advance()
        self._equal = self._unwitnessed = self._missing = self._changed = self._unknown = 0
        self._examples: list[int] = []

    def take(self, messages: Iterable[In]) -> None:
        for message in messages:
            sequence = message.sequence
            while self._next is not None and self._next[0] < sequence:
                self._absent(self._next[0])
                self._next = self._advance()
            if self._next is None or self._next[0] != sequence:
                self._unexpected(sequence)
                continue
            if self._next[1] == digest(message):
                self._equal += 1
            else:
                self._changed += 1
                self._example(sequence)
            self._next = self._advance()

    def end(self) -> Result:
        while self._next is not None:
            self._absent(self._next[0])
            self._next = self._advance()
        return Result(
            equal=self._equal,
            unwitnessed=self._unwitnessed,
            missing=self._missing,
            changed=self._changed,
            unknown=self._unknown,
            examples=tuple(self._examples),
        )

    def _advance(self) -> Record | None:
        return next(self._records, None)

    def _absent(self, sequence: int) -> None:
        if sequence <= self._last and not self._is_fleeting(sequence):
            self._missing += 1
            self._example(sequence)

    def _unexpected(self, sequence: int) -> None:
        if self._settled < sequence <= self._read:
            self._unwitnessed += 1
        else:
            self._unknown += 1
            self._example(sequence)

    def _is_fleeting(self, sequence: int) -> bool:
        """Asked in the order of sequences."""
        while self._run is not None and self._run[1] < sequence:
            self._run = next(self._fleeting, None)
        return self._run is not None and self._run[0] <= sequence

    def _example(self, sequence: int) -> None:
        if len(self._examples) < EXAMPLES_MAX:
            self._examples.append(sequence)
