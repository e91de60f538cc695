"""What goes into one round of decisions, and what comes out of it."""

from __future__ import annotations

from typing import NamedTuple

from bots.positions import Account
from schemas.events import Append, Entry, Signal


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
