"""What we want to hear and what we have asked for -> the frames that may be sent now.

Creations and migrations are free and always wanted. Trades are metered, and need an API key: only the mints that
somebody watches are subscribed, each until its time is over. A new connection knows nothing: everything is sent again.
Limits: pumpportal.fun documentation (200 subscription messages a second, 5,000 addresses a message).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

import msgspec

KEYS_PER_MESSAGE_MAX = 5_000
MESSAGES_PER_SECOND_MAX = 200
# Four full messages. One coin costs about 0.00008 SOL in its life: this many at once is a mistake of ours.
MINTS_MAX = 20_000
# After a refusal of trades (no funds, a bad key) they are asked for again after this long: a wallet gets funded.
TRADES_RETRY_NS = 300 * 1_000_000_000
_SECOND_NS = 1_000_000_000
# Mints whose time is over are let go together, at most so often.
_COMPARE_INTERVAL_NS = _SECOND_NS
_NEVER_NS = 2**63 - 1

FREE_FRAMES = ('{"method":"subscribeNewToken"}', '{"method":"subscribeMigration"}')

_encode = msgspec.json.Encoder().encode


class Subscriptions:
    """Wanted against subscribed mints, and the pace of asking.

    has_key: whether the connection carries an API key; without one no trades are ever asked for.
    """

    def __init__(self, *, has_key: bool) -> None:
        self._has_key = has_key
        self._wanted: dict[str, int] = {}
        self._subscribed: set[str] = set()
        self._pending: deque[str] = deque()
        self._sent_at_ns: deque[int] = deque(maxlen=MESSAGES_PER_SECOND_MAX)
        self._compare_at_ns = 0
        self._trades_from_ns = 0
        self.skipped = 0
        """Mints wanted beyond MINTS_MAX, which stay unheard."""

    @property
    def count(self) -> int:
        """Mints whose trades we have asked for."""
        return len(self._subscribed)

    def want(self, mints: Mapping[str, int]) -> None:
        """Replace the wanted set: mint -> the time until which its trades are needed (`until_at_ns`).

        Of more than MINTS_MAX those needed longest are kept.
        """
        self.skipped = max(0, len(mints) - MINTS_MAX)
        longest = sorted(mints.items(), key=lambda item: (-item[1], item[0]))[:MINTS_MAX] if self.skipped else mints
        self._wanted = dict(longest)
        self._compare_at_ns = 0

    def reconnected(self) -> None:
        """A new connection: nothing is subscribed, everything is to be asked for again."""
        self._subscribed.clear()
        self._pending.clear()
        self._pending.extend(FREE_FRAMES)
        self._compare_at_ns = 0

    def trades_refused(self, now_ns: int) -> None:
        """The venue refused our trade subscriptions: leave it at that for a while."""
        self._subscribed.clear()
        self._pending = deque(frame for frame in self._pending if frame in FREE_FRAMES)
        self._trades_from_ns = now_ns + TRADES_RETRY_NS
        self._compare_at_ns = 0

    def take(self, now_ns: int) -> tuple[str, ...]:
        """The frames to send now, within the venue's pace; they count as sent. Cheap when nothing changed."""
        if now_ns >= self._compare_at_ns:
            self._compare(now_ns)
        frames = []
        while self._pending and self._may_send(now_ns):
            frames.append(self._pending.popleft())
            self._sent_at_ns.append(now_ns)
        return tuple(frames)

    def _compare(self, now_ns: int) -> None:
        """Queue what leads from the subscribed set to the wanted one; what costs nothing any more goes first."""
        wanted: set[str] = set()
        self._compare_at_ns = _NEVER_NS
        if self._has_key and now_ns < self._trades_from_ns:
            self._compare_at_ns = self._trades_from_ns
        elif self._has_key:
            wanted = {mint for mint, until_at_ns in self._wanted.items() if until_at_ns > now_ns}
            ends_at_ns = min((self._wanted[mint] for mint in wanted), default=_NEVER_NS)
            self._compare_at_ns = max(ends_at_ns, now_ns + _COMPARE_INTERVAL_NS)
        self._pending.extend(_frames("unsubscribeTokenTrade", self._subscribed - wanted))
        self._pending.extend(_frames("subscribeTokenTrade", wanted - self._subscribed))
        self._subscribed = wanted

    def _may_send(self, now_ns: int) -> bool:
        sent = self._sent_at_ns
        return len(sent) < MESSAGES_PER_SECOND_MAX or now_ns - sent[0] >= _SECOND_NS


def _frames(method: str, mints: Iterable[str]) -> list[str]:
    keys = sorted(mints)
    batches = [keys[start : start + KEYS_PER_MESSAGE_MAX] for start in range(0, len(keys), KEYS_PER_MESSAGE_MAX)]
    return [_encode({"method": method, "keys": batch}).decode() for batch in batches]
