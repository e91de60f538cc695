"""Follows the `watch` bucket: whose trades does somebody need, and until when?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from runtime import buckets
from runtime.bus import Bus
from schemas.codec import Decoder, MalformedEvent
from schemas.events import Watch

WATCHES_MAX = 200_000

_watch: Decoder[Watch] = Decoder(Watch)


class Watched:
    """Entries `<watcher>.<mint>` -> the latest time that anybody needs each mint."""

    def __init__(self) -> None:
        self._until: dict[str, int] = {}

    def apply(self, key: str, data: bytes | None) -> str | None:
        """Take a change; the text of what is wrong with it, or None."""
        if data is None:
            self._until.pop(key, None)
            return None
        try:
            watch = _watch(data)
        except MalformedEvent as error:
            return f"{key}: {error}"
        if key not in self._until and len(self._until) >= WATCHES_MAX:
            return f"{key}: more than {WATCHES_MAX} watches"
        self._until[key] = watch.until_at_ns
        return None

    def wanted(self) -> dict[str, int]:
        """mint -> until_at_ns."""
        found: dict[str, int] = {}
        for key, until_ns in self._until.items():
            mint = key.partition(".")[2]
            found[mint] = max(until_ns, found.get(mint, 0))
        return found

    def expire(self, now_ns: int) -> None:
        """Forget what nobody needs any more: a watcher that died leaves entries behind."""
        for key in [key for key, until_ns in self._until.items() if until_ns <= now_ns]:
            del self._until[key]


async def follow_watched(
    bus: Bus, want: Callable[[Mapping[str, int]], None], log: Callable[..., None], now_ns: Callable[[], int]
) -> None:
    """Tell the feed what is wanted, whenever it changes."""
    watched = Watched()
    follower = buckets.follow(bus, "watch")
    while True:
        for message in await follower.more():
            change = buckets.change(message)
            problem = watched.apply(change.key, change.data)
            if problem is not None:
                log("watch_refused", reason=problem)
        watched.expire(now_ns())
        want(watched.wanted())
