"""runtime/members.py: one process's view of who is alive. Real broker."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator

import pytest

from runtime import buckets, members
from runtime.bus import Bus
from runtime.members import Members
from runtime.process import Process
from runtime.settings import Common
from runtime.telemetry import Logger
from runtime.testing import Broker, eventually
from schemas.codec import encode
from schemas.ownership import Member, share

PARTS = 32


@contextlib.asynccontextmanager
async def member(broker: Broker, instance: str) -> AsyncIterator[Members]:
    """One that has joined, and does not announce itself again."""
    common = Common(nats_url=broker.url, instance=instance)
    process = Process("bots", common, Logger("bots", "json", "error", io.StringIO()), {})
    await process.bus.open(common, "test-members")
    made = Members(process, asyncio.Event())
    following = asyncio.create_task(made.follow())
    try:
        await made.join()
        yield made
    finally:
        following.cancel()
        await process.bus.close()


async def announce(bus: Bus, instance: str, *parts: int) -> int:
    """Revision of the announcement."""
    other = Member(role="bots", instance=instance, life="1", started_at_ns=1, parts=parts)
    return await buckets.put(bus, "members", f"bots.{instance}", encode(other))


async def test_every_change_of_who_lives_and_of_what_they_work_on_changes_the_share(broker: Broker, bus: Bus) -> None:
    every = frozenset(range(PARTS))
    async with member(broker, "a") as one:

        async def becomes(expected: frozenset[int], when: str) -> None:
            await eventually(lambda: one.share(PARTS) == expected, when)

        await becomes(every, "it to be alone")
        mine, theirs = share("a", "ab", PARTS), share("b", "ab", PARTS)
        await announce(bus, "b")
        await becomes(mine, "another one to be known")
        held = min(mine)
        await announce(bus, "b", held)
        await becomes(mine - {held}, "what the other one has not let go of to be left to it")
        await one.works_on(mine)
        assert one.share(PARTS) == mine  # we have it as well: no reason to let go
        await one.works_on(())
        assert one.share(PARTS) == mine - {held}
        await announce(bus, "b", *theirs)
        await becomes(mine, "what the other one let go of")
        await buckets.delete(bus, "members", "bots.b")
        await becomes(every, "the other one to be gone")


async def test_a_share_is_computed_once_as_long_as_nothing_changes(
    broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    compute = members.free_share

    def counted(*arguments: object) -> frozenset[int]:
        computed.append(arguments[-1])  # type: ignore[arg-type]
        return compute(*arguments)  # type: ignore[arg-type]

    async with member(broker, "a") as one:
        revision = await announce(bus, "b")
        await eventually(lambda: one._seen >= revision, "the other one to be known")
        monkeypatch.setattr(members, "free_share", counted)
        for parts in (PARTS, 4, PARTS, 4):
            assert one.share(parts) == share("a", "ab", parts)
        revision = await announce(bus, "b")  # alive, as before
        await eventually(lambda: one._seen >= revision, "it to be said again")
        assert one.share(PARTS) == share("a", "ab", PARTS)
        assert computed == [PARTS, 4]


async def test_who_has_left_is_announced_no_more(broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the others would give it a share once more, for as long as an announcement lasts."""
    monkeypatch.setattr(members, "ANNOUNCE_S", 0.01)
    async with member(broker, "a") as one:
        announcing = asyncio.create_task(one.announce())
        await eventually(lambda: one._seen > 1, "it to be announced again")
        await one.leave()
        await eventually(announcing.done, "the announcements to end")
        assert await buckets.get(bus, "members", "bots.a") is None
