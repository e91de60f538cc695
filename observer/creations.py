"""How many tokens were heard of, how fast they come, and how many of them analyze has behind it.

The count covers what TOKENS held when observer started and everything since: a restart of ingest or analyze loses
nothing, a restart of observer only what the stream no longer holds.
"""

from __future__ import annotations

from collections import deque

from observer.times import SECOND_NS

WINDOW_S = 60
# More creations than the stream's 24 h hold in practice (about 35 a minute); those beyond have expired there, too.
WAITING_MAX = 1_000_000


class Creations:
    """Folds the sequence and time of each `tokens.created` message, in order."""

    def __init__(self) -> None:
        self.total = 0
        self.analyzed = 0
        self._seen_to = 0
        self._waiting: deque[int] = deque(maxlen=WAITING_MAX)
        self._seconds: deque[list[int]] = deque(maxlen=WINDOW_S + 1)  # [second, creations in it]

    def add(self, sequence: int, at_ns: int) -> None:
        """at_ns: when the stream stored it. A message met twice counts once."""
        if sequence <= self._seen_to:
            return
        self._seen_to = sequence
        self.total += 1
        self._waiting.append(sequence)
        second = at_ns // SECOND_NS
        if self._seconds and self._seconds[-1][0] >= second:
            self._seconds[-1][1] += 1
        else:
            self._seconds.append([second, 1])

    def acknowledge(self, floor: int) -> None:
        """analyze has acknowledged everything up to this sequence of TOKENS."""
        while self._waiting and self._waiting[0] <= floor:
            self._waiting.popleft()
            self.analyzed += 1

    def per_minute(self, now_ns: int) -> int:
        """Creations stored in the last 60 seconds."""
        oldest = now_ns // SECOND_NS - WINDOW_S
        return sum(number for second, number in self._seconds if second > oldest)
