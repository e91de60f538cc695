"""What the analysis remembers beside its open tokens: launches of the last hour, and events that it has met already.

Everything is forgotten by time, so that what is remembered depends on the newest events only, and by number, so that
it is bounded. Times given must not fall; the caller's clock is the newest time seen.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from analyze.tokens import Launches
from schemas.events import TokenCreated

# Forty hours at the mean rate of launches; the busiest hour on record had 3,000.
LAUNCHES_MAX: Final = 50_000

# Ten minutes at 330 events a second, about 40 MB.
EVENT_IDS_MAX: Final = 200_000

EARLY_MIGRATIONS_MAX: Final = 10_000


class LaunchCounts:
    """Launches by name, symbol and creator within a time."""

    def __init__(self, keep_ns: int, launches_max: int = LAUNCHES_MAX) -> None:
        self._keep_ns = keep_ns
        self._launches_max = launches_max
        self._launches: deque[tuple[int, tuple[str, ...]]] = deque()
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._launches)

    def note(self, event: TokenCreated, now_ns: int) -> Launches:
        """Count one launch. Names are compared without case and spaces; a missing one counts 0."""
        name, symbol, creator = _key("n", event.name), _key("s", event.symbol), f"c{event.creator}"
        keys = tuple(key for key in (name, symbol, creator) if key)
        for key in keys:
            self._counts[key] = self._counts.get(key, 0) + 1
        self._launches.append((now_ns, keys))
        self._forget(now_ns)
        counts = self._counts
        return Launches(counts.get(name, 0), counts.get(symbol, 0), counts[creator])

    def _forget(self, now_ns: int) -> None:
        launches, oldest = self._launches, now_ns - self._keep_ns
        while launches[0][0] <= oldest or len(launches) > self._launches_max:
            for key in launches.popleft()[1]:
                left = self._counts[key] - 1
                if left:
                    self._counts[key] = left
                else:
                    del self._counts[key]


class EventIds:
    """Which events were met: an id is known for a time, and what is older than that is a repetition for sure.

    First deliveries come in the order of their times, so an event from before the memory can only be an old one again.
    """

    def __init__(self, keep_ns: int, ids_max: int = EVENT_IDS_MAX) -> None:
        self._keep_ns = keep_ns
        self._ids_max = ids_max
        self._queue: deque[tuple[int, str]] = deque()
        self._ids: set[str] = set()
        self._forgotten_at_ns = -1  # ids up to this time may be forgotten because of their number

    def __len__(self) -> int:
        return len(self._ids)

    def repeated(self, event_id: str, seen_at_ns: int, now_ns: int) -> bool:
        """Whether an event was met before; if not, it is from now on."""
        queue, oldest = self._queue, now_ns - self._keep_ns
        while queue and (queue[0][0] < oldest or len(queue) > self._ids_max):
            at_ns, forgotten = queue.popleft()
            self._ids.remove(forgotten)
            if at_ns >= oldest:
                self._forgotten_at_ns = at_ns
        if event_id in self._ids or seen_at_ns < oldest or seen_at_ns <= self._forgotten_at_ns:
            return True
        self._ids.add(event_id)
        queue.append((now_ns, event_id))
        return False


class EarlyMigrations:
    """Migrations of coins that are not known (yet): a coin bought up in its first transaction migrates at once."""

    def __init__(self, keep_ns: int, migrations_max: int = EARLY_MIGRATIONS_MAX) -> None:
        self._keep_ns = keep_ns
        self._migrations_max = migrations_max
        self._at_ns: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._at_ns)

    def note(self, mint: str, now_ns: int) -> None:
        self._at_ns[mint] = now_ns
        self._at_ns.move_to_end(mint)
        while len(self._at_ns) > self._migrations_max or next(iter(self._at_ns.values())) < now_ns - self._keep_ns:
            self._at_ns.popitem(last=False)

    def take(self, mint: str, now_ns: int) -> bool:
        """Whether a coin that is created now has migrated already."""
        at_ns = self._at_ns.pop(mint, None)
        return at_ns is not None and at_ns >= now_ns - self._keep_ns


def _key(kind: str, text: str | None) -> str:
    """ "" for none. Not read by people: strangers' text is compared, no more."""
    plain = "".join(text.split()).casefold() if text else ""
    return f"{kind}{plain}" if plain else ""
