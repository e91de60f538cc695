"""bots/snapshots.py: a snapshot and the lines behind it are the whole ledger; and whatever is wrong with one only means
that more is folded."""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from typing import Any

import msgspec
import pytest

from bots import snapshots
from bots.positions import Account
from bots.snapshots import MARK, VERSION, Mark, Snapshot, believed
from bots.testing import (
    KEEPING,
    PARTITIONS,
    Running,
    configure,
    expected,
    fleet,
    settled,
    shared,
    tell,
    until_settled,
)
from runtime import buckets
from runtime.bus import Bus, Unavailable
from runtime.readers import read
from runtime.testing import Broker, eventually
from schemas.codec import Decoder, encode

USERS = [f"u{number}" for number in range(30)]

_mark: Decoder[Mark] = Decoder(Mark)


@pytest.mark.parametrize(
    ("users", "lasts", "to"),
    [
        ({"u": 9, "v": 10}, {"u": 9, "v": 10}, 10),
        ({"u": 9, "v": 10}, {"u": 25, "v": 10, "w": 26}, 10),  # newer accounts hold more than they must
        ({"u": 9, "v": 10}, {"u": 4, "v": 10}, 4),  # somebody put an old one back
        ({"u": 9, "v": 10}, {"v": 10}, 0),  # one is missing
        (None, {"u": 9}, 0),
    ],
)
def test_accounts_are_believed_up_to_the_one_that_lags(users: Any, lasts: dict[str, int], to: int) -> None:
    mark = None if users is None else Mark(version=VERSION, life="", sequence=10, users=users)
    assert believed(mark, {user: Account(last_sequence=last) for user, last in lasts.items()}) == to


def test_whoever_changes_what_an_account_is_raises_the_version() -> None:
    form = msgspec.json.encode(msgspec.json.schema(Snapshot), order="deterministic")
    digests = {1: "b3d50fa6fa2ad878"}
    assert blake2b(form, digest_size=8).hexdigest() == digests[VERSION], "raise bots.snapshots.VERSION"


# On a real broker


def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line is due, and written as soon as may be."""
    for name, value in {"SNAPSHOT_LINES": 1, "STOP_LINES_MIN": 1, "PAUSE_S": 0.0, "PAUSE_FAILED_S": 0.0}.items():
        monkeypatch.setattr(snapshots, name, value)


async def in_bucket(bus: Bus) -> dict[str, bytes]:
    found = map(buckets.change, await read(bus, "KV_folds", last_per_subject=True))
    return {change.key: change.data for change in found if change.data is not None}


def states(running: Running) -> Any:
    """Each user's account but for the highest values, which only trades could tell, and there are none."""
    found = {}
    for user, account in running.fleet.book._accounts.items():
        if account != Account():
            found[user] = msgspec.to_builtins(account)
            for position in found[user]["positions"].values():
                position["peak_lamports"] = 0
    return found


async def deciding(bus: Bus, numbers: range) -> None:
    """These decisions follow earlier ones, and all are settled."""
    for number in numbers:
        await tell(bus, number, USERS)
    await until_settled(bus, numbers.stop, USERS)


async def first_life(broker: Broker, bus: Bus, decisions: int = 3) -> Any:
    """All users get their signals and the owner stops in good order; what its accounts were."""
    await configure(bus, *USERS, **KEEPING)
    async with fleet(broker.url, PARTITIONS, "a") as first:
        await shared(PARTITIONS, first)
        await deciding(bus, range(decisions))
        await first.stop()
        return states(first)


async def second_life(broker: Broker, bus: Bus, told: int = 3) -> tuple[Any, int]:
    """The accounts of who takes over, before anything else happens, and how many users' lines it folded. Then it must
    be able to write a line for each user."""
    async with fleet(broker.url, PARTITIONS, "b") as second:
        await shared(PARTITIONS, second)
        found, lines = states(second), second.figure("lines_folded_total")
        await deciding(bus, range(told, told + 1))
        assert await settled(bus) == expected(told + 1, USERS)
        assert second.figure("interruptions_total") == 0
    return found, lines


async def folded_from_the_ledger(broker: Broker, bus: Bus, before: Any) -> None:
    """The next owner has the same accounts, and not from snapshots alone: it folds more than its ownership records."""
    found, lines = await second_life(broker, bus)
    assert found == before
    assert lines > PARTITIONS


async def test_a_takeover_reads_only_the_lines_behind_the_mark(
    broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager(monkeypatch)
    before = await first_life(broker, bus)
    found, lines = await second_life(broker, bus)
    assert found == before
    assert len(found) == len(USERS)
    assert lines == PARTITIONS  # its own ownership records
    assert len(await in_bucket(bus)) >= len(USERS)


async def test_after_a_kill_only_what_came_behind_the_last_snapshot_is_folded(
    broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager(monkeypatch)
    await configure(bus, *USERS, **KEEPING)
    async with fleet(broker.url, PARTITIONS, "a") as first:
        await shared(PARTITIONS, first)
        await deciding(bus, range(1))
        await eventually(lambda: first.fleet._snapshots.idle, "the snapshots to be written")
        monkeypatch.setattr(snapshots, "SNAPSHOT_LINES", 1_000_000)
        await deciding(bus, range(1, 2))
        before = len(await read(bus, "FILLS", after_sequence=0))
        await first.kill()
        await buckets.delete(bus, "members", "bots.a")  # as when its time is over
    found, lines = await second_life(broker, bus, 2)
    assert len(found) == len(USERS)
    assert len(USERS) <= lines < before


async def spoil(bus: Bus, how: str) -> None:
    stored = await in_bucket(bus)
    for key, data in stored.items():
        mark = key.endswith(MARK)
        if how == "garbage" or (how == "garbage in one account" and key.endswith(f".{USERS[3]}")):
            await buckets.put(bus, "folds", key, b"{")
        elif how == "another version":
            changed = msgspec.json.decode(data) | {"version": VERSION + 1}
            await buckets.put(bus, "folds", key, msgspec.json.encode(changed))
        elif how == "other streams":
            changed = msgspec.json.decode(data) | {"life": "another"}
            await buckets.put(bus, "folds", key, msgspec.json.encode(changed))
        elif how == "a line that is not there" and mark:
            await buckets.put(bus, "folds", key, encode(msgspec.structs.replace(_mark(data), sequence=10**9)))
        elif (how == "no marks" and mark) or (how == "one account missing" and key.endswith(f".{USERS[3]}")):
            await buckets.delete(bus, "folds", key)


@pytest.mark.parametrize(
    "how",
    ["garbage", "another version", "other streams", "no marks", "a line that is not there",
     "one account missing", "garbage in one account"],
)  # fmt: skip
async def test_what_cannot_be_believed_is_ignored_and_the_ledger_folded(
    broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    eager(monkeypatch)
    before = await first_life(broker, bus)
    await spoil(bus, how)
    await folded_from_the_ledger(broker, bus, before)


@pytest.mark.parametrize("what", ["accounts", "marks", "accounts and marks"])
async def test_a_snapshot_that_a_former_owner_writes_late_does_no_harm(
    broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """What it wrote early comes again over what its successor wrote."""
    eager(monkeypatch)
    await first_life(broker, bus, 1)
    early = await in_bucket(bus)
    async with fleet(broker.url, PARTITIONS, "b") as second:
        await shared(PARTITIONS, second)
        await deciding(bus, range(1, 3))
        await second.stop()
        before = states(second)
    late = {key: data for key, data in early.items() if ("marks" if key.endswith(MARK) else "accounts") in what}
    assert late
    await buckets.put_many(bus, "folds", late.items())
    await folded_from_the_ledger(broker, bus, before)


async def test_killed_between_the_accounts_and_the_mark_it_leaves_accounts_that_are_only_newer(
    broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager(monkeypatch)
    await first_life(broker, bus, 1)
    async with fleet(broker.url, PARTITIONS, "b") as second:
        await shared(PARTITIONS, second)
        put_many = buckets.put_many
        stored = asyncio.Event()

        async def only_accounts(bus: Bus, bucket: str, values: Any) -> None:
            accounts = [(key, data) for key, data in values if not key.endswith(MARK)]
            if accounts:
                await put_many(bus, bucket, accounts)
            stored.set()
            await asyncio.Event().wait()  # until it is killed

        monkeypatch.setattr(buckets, "put_many", only_accounts)
        await deciding(bus, range(1, 3))
        await stored.wait()
        before = states(second)
        await second.kill()
        monkeypatch.setattr(buckets, "put_many", put_many)
        await buckets.delete(bus, "members", "bots.b")
    await folded_from_the_ledger(broker, bus, before)


async def test_a_bucket_that_takes_nothing_disturbs_nobody(
    broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager(monkeypatch)
    put_many = buckets.put_many
    tried = 0

    async def refused(bus: Bus, bucket: str, values: Any) -> None:
        nonlocal tried
        if bucket == "folds":
            tried += 1
            raise Unavailable("full")
        await put_many(bus, bucket, values)

    monkeypatch.setattr(buckets, "put_many", refused)
    before = await first_life(broker, bus)
    assert tried > 1
    assert await in_bucket(bus) == {}
    monkeypatch.setattr(buckets, "put_many", put_many)
    await folded_from_the_ledger(broker, bus, before)


async def test_an_account_too_large_for_a_message_keeps_its_partition_from_being_marked(
    broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager(monkeypatch)
    monkeypatch.setattr(snapshots, "DATA_BYTES_MAX", 10)
    before = await first_life(broker, bus)
    assert await in_bucket(bus) == {}
    await folded_from_the_ledger(broker, bus, before)
