"""Who is alive: a process of a role announces itself in the bucket `members`, and sees who else does.

An announcement ends by itself after TTL_S, by the broker's clock, so the silent are gone for everybody at the same
time; who leaves in good order deletes it. What a paused process had asked the broker for (`readers.PULL_EXPIRES_S`)
ends earlier than its membership, so a successor gets everything.

Two processes of the same role and instance would be one member. The one that started later stays; the other ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from secrets import token_hex
from typing import Final

import msgspec

from runtime import buckets, readers
from runtime.bus import Unavailable
from runtime.process import Process
from schemas.codec import Decoder, MalformedEvent, encode
from schemas.ownership import Member, free_share, nearest

TTL_S: Final = 3
ANNOUNCE_S: Final = 0.5
SEEN_S_MAX: Final = 5.0
LOOK_S: Final = 0.01

assert readers.PULL_EXPIRES_S < TTL_S

_member: Decoder[Member] = Decoder(Member)


class Replaced(RuntimeError):
    """Another process runs as the same instance of this role, and started later."""


class Members:
    """One process's view of the living of its role, itself among them.

    changed: set when somebody came or went.
    """

    def __init__(self, process: Process, changed: asyncio.Event) -> None:
        self._process = process
        self._changed = changed
        self.me = Member(
            role=process.service,
            instance=process.instance,
            life=token_hex(8),
            started_at_ns=process.started_at_ns,
        )
        self._key = f"{self.me.role}.{self.me.instance}"
        self._view = buckets.follow(process.bus, "members", f"{self.me.role}.*")
        self._living: dict[str, Member] = {}
        self._shares: dict[int, frozenset[int]] = {}  # by number of parts; emptied when `_living` or `me` changes
        self._seen = 0  # revision of the newest change that is in the view
        self._arrived = asyncio.Event()
        self._left = False

    def share(self, parts: int) -> frozenset[int]:
        """The parts that this process may work on now; none while the others take it for dead. Cheap to ask at every
        step: it is computed once after each change."""
        if parts not in self._shares:
            self._shares[parts] = free_share(self.me, self._living.values(), parts)
        return self._shares[parts]

    def nearest(self, parts: int, places: int) -> frozenset[int]:
        """The parts for which this process is among the first `places` when it is a member."""
        return nearest(self.me.instance, (member.instance for member in self._living.values()), parts, places)

    @property
    def others(self) -> int:
        return sum(member.instance != self.me.instance for member in self._living.values())

    async def follow(self) -> None:
        """Keep the view. Raises Replaced."""
        while True:
            for message in await self._view.more():
                self._note(buckets.change(message))
            self._arrived.set()

    async def announce(self) -> None:
        """Keep the own membership alive until `leave`."""
        while not self._left:
            with contextlib.suppress(Unavailable):  # the broker is away; `join` says it before anything is done
                await self._put()
            await asyncio.sleep(ANNOUNCE_S)

    async def look(self) -> None:
        """Know who lives, without being a member. Raises Unavailable."""
        try:
            async with asyncio.timeout(SEEN_S_MAX):
                while not self._view.caught_up and not self._process.stop.is_set():
                    await self._process.pause(LOOK_S)
        except TimeoutError:
            raise Unavailable("the members are not told") from None

    async def join(self) -> None:
        """Be a member, and know everybody who was one before. Raises Unavailable."""
        others = self.others
        revision = await self._put()
        await self._see(revision)
        if self.others < others:  # after a failure of the broker those who live have yet to say so
            await self._process.pause(2 * ANNOUNCE_S)

    async def works_on(self, parts: Iterable[int]) -> None:
        """Tell the others. What is new is told before it is begun, what is given up after it has ended."""
        wanted = tuple(sorted(parts))
        if wanted != self.me.parts:
            self.me = msgspec.structs.replace(self.me, parts=wanted)
            self._shares.clear()
            await self._put()

    async def leave(self) -> None:
        """Hand everything over now instead of after TTL_S. For good: nothing is announced behind it."""
        self._left = True
        try:
            await buckets.delete(self._process.bus, "members", self._key)
        except Unavailable:
            return  # it ends by itself

    async def _put(self) -> int:
        return await buckets.put(self._process.bus, "members", self._key, encode(self.me), ttl_s=TTL_S)

    async def _see(self, revision: int) -> None:
        try:
            async with asyncio.timeout(SEEN_S_MAX):
                while self._seen < revision:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            raise Unavailable("the members are not told") from None

    def _note(self, change: buckets.Change) -> None:
        self._seen = max(self._seen, change.revision)
        before = self._living.get(change.key)
        try:
            member = None if change.data is None else _member(change.data)
        except MalformedEvent as error:
            self._process.log.error("member_unreadable", key=change.key, reason=str(error))
            member = None
        if member is None:
            self._living.pop(change.key, None)
        else:
            self._living[change.key] = member
        if before != member:
            self._shares.clear()
            self._changed.set()
        me = self.me
        later = member is not None and (member.started_at_ns, member.life) > (me.started_at_ns, me.life)
        if change.key == self._key and later:
            who = f"another {me.role} runs as instance {me.instance!r}"
            raise Replaced(f"{who}: each of them needs a MINTLINE_INSTANCE of its own")
