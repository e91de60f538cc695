"""How fast a channel may be used: so many messages in a window of time, for several windows at once; pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from observer.times import SECOND_NS


class Rate(NamedTuple):
    messages: int
    window_ns: int


# Telegram publishes no limits; these are what it advises, and its 429 rules.
CHAT = (Rate(1, SECOND_NS),)
GROUP = (Rate(1, SECOND_NS), Rate(20, 60 * SECOND_NS))
BOT = (Rate(30, SECOND_NS),)


class Pace:
    """The newest times of sending, as many as the largest rate counts."""

    def __init__(self, rates: Sequence[Rate]) -> None:
        self._rates = rates
        self._sent: deque[int] = deque(maxlen=max((rate.messages for rate in rates), default=0))

    def sent(self, at_ns: int) -> None:
        """Times may come in any order when they are read back."""
        if self._sent and at_ns < self._sent[-1]:
            self._sent = deque(sorted((*self._sent, at_ns))[-(self._sent.maxlen or 0) :], self._sent.maxlen)
        else:
            self._sent.append(at_ns)

    def free_at_ns(self) -> int:
        """From when on one more may be sent; 0 from the beginning of time."""
        full = (rate for rate in self._rates if len(self._sent) >= rate.messages)
        return max((self._sent[-rate.messages] + rate.window_ns for rate in full), default=0)
