"""runtime/fences.py: ownership records of several parts, claimed at once. Real broker."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from runtime import fences, testing
from runtime.bus import Bus, WrongSequence
from runtime.fences import Part, claim_parts
from runtime.readers import last_message
from runtime.testing import Broker
from runtime.wire import In
from schemas.codec import Decoder
from schemas.ownership import Member, Owner, owner_user
from schemas.subjects import fills_subject, stored_fills_subject

PARTITIONS = 2

_owner: Decoder[Owner] = Decoder(Owner)


def part(number: int) -> Part:
    user = owner_user(number, PARTITIONS)
    return Part(number, fills_subject(user), stored_fills_subject(user, PARTITIONS))


def member(instance: str) -> Member:
    return Member(role="bots", instance=instance, life="1", started_at_ns=1)


PARTS = [part(number) for number in range(PARTITIONS)]


@pytest.fixture
async def bus(broker: Broker) -> AsyncIterator[Bus]:
    async with testing.bus(broker, partitions=PARTITIONS) as opened:
        yield opened


async def newest(bus: Bus, of: Part) -> In | None:
    return await last_message(bus, "FILLS", of.stored_subject)


async def test_who_claims_last_owns_each_part_by_its_newest_record(bus: Bus) -> None:
    for instance in ("a", "b"):
        records = await claim_parts(bus, "FILLS", PARTS, member(instance))
        assert list(records) == [0, 1]
        for each in PARTS:
            found = await newest(bus, each)
            assert found is not None
            owner = _owner(found.data)
            assert (owner.partition, owner.instance, found.sequence) == (each.number, instance, records[each.number])


async def test_who_claims_nothing_appends_nothing(bus: Bus) -> None:
    assert await claim_parts(bus, "FILLS", [], member("a")) == {}


async def test_of_a_claim_that_is_overtaken_in_one_part_nothing_stands(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def overtaken(*where: str) -> In | None:
        found = await last_message(bus, "FILLS", where[-1])
        if where[-1] == PARTS[1].stored_subject:
            monkeypatch.undo()
            await claim_parts(bus, "FILLS", PARTS[1:], member("b"))
        return found

    monkeypatch.setattr(fences, "last_message", overtaken)
    with pytest.raises(WrongSequence):
        await claim_parts(bus, "FILLS", PARTS, member("a"))
    assert await newest(bus, PARTS[0]) is None
    found = await newest(bus, PARTS[1])
    assert found is not None
    assert _owner(found.data).instance == "b"
