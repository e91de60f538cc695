"""What the venue charges for trades, counted on to a whole day; pure."""

from __future__ import annotations

from collections import deque
from typing import Final

# "Every 10000 trades streamed will incur a 0.01 SOL charge"; creations and migrations are free.
TRADE_LAMPORTS: Final = 10_000_000 // 10_000

SECOND_NS: Final = 1_000_000_000
WINDOW_NS: Final = 60 * SECOND_NS
DAY_NS: Final = 86_400 * SECOND_NS
LOOKS_MAX: Final = 1_000


class DailyCost:
    """The rate of the last minute, or of the time since the start while that is less."""

    def __init__(self) -> None:
        self._looks: deque[tuple[int, int]] = deque(maxlen=LOOKS_MAX)  # when, and how many trades there were by then

    def lamports(self, now_ns: int, trades: int) -> int:
        """trades: heard since the start."""
        looks = self._looks
        looks.append((now_ns, trades))
        while len(looks) > 2 and looks[1][0] <= now_ns - WINDOW_NS:
            looks.popleft()
        first_ns, before = looks[0]
        elapsed_ns = now_ns - first_ns
        return (trades - before) * TRADE_LAMPORTS * DAY_NS // elapsed_ns if elapsed_ns > 0 else 0
