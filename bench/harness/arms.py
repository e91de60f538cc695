"""What a measurement asks of each arm, be it mintline or a peer."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Action(NamedTuple):
    """A user's purchase of a coin. at_ns: when it was durable (mintline), or done (peers, who keep nothing).
    noted_at_ns: the stream's own time of it; the same for peers."""

    mint: str
    user: str
    at_ns: int
    noted_at_ns: int


class Arm(Protocol):
    """clients: connections that the feed has to wait for."""

    clients: int

    async def start(self, feed_url: str) -> None:
        """Ready for the first frame. Raises ChildFailed."""

    @property
    def pids(self) -> dict[str, int]:
        """Its processes, the broker's among them."""

    def check(self) -> None:
        """Raises ChildFailed where a process has ended."""

    async def finished(self, count: int, within_s: float) -> None:
        """Wait until so many purchases are done, or no more come."""

    async def actions(self) -> list[Action]: ...

    async def stop(self) -> None: ...
