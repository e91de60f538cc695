"""Backups on a real broker: everything is in them, a drill proves it, a flipped byte is found, a restoration is exact
and refuses to overwrite, and whatever kills the process leaves nothing that looks like a backup."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from observer.backup import backups
from observer.backup.backups import backup, kept, restore, verify
from observer.backup.digest import RECORD
from observer.backup.drill import scratch
from observer.backup.manifest import (
    MANIFEST,
    SUMS,
    VERIFICATION,
    File,
    Manifest,
    StreamPart,
    decode_manifest,
    encode_manifest,
    sums_of,
    sums_text,
)  # fmt: skip
from observer.backup.store import BackupError
from observer.backup.testing import PARTITIONS, SETTINGS, another, common
from runtime import buckets, testing
from runtime.bus import Bus
from runtime.readers import DurableReader, read
from runtime.settings import Common
from runtime.testing import Broker, Service, eventually
from runtime.web import fetch
from runtime.wire import In, Out, chunks
from schemas.subjects import (
    ANALYZE,
    BOTS,
    FILLS,
    STREAMS,
    TOKENS,
    Stream,
    consumer_config,
    partition_consumer,
    stream_config,
)

USERS = 50


async def fill(bus: Bus) -> None:
    """Thousands of messages in all our streams and buckets, gaps, headers, and consumers in the middle of their way."""
    kinds = ("created", "traded", "migrated")
    await append(
        bus, [Out(f"tokens.{kinds[i % 3]}.M{i}", b"token %d" % i * 9, b"X-Number: %d\r\n" % i) for i in range(4000)]
    )
    await append(bus, [Out(f"decisions.SNIPER.M{i}", b"decision %d" % i) for i in range(1000)])
    await append(bus, [Out(f"signals.u{i % USERS}", b"signal %d" % i) for i in range(3000)])
    await append(bus, [Out(f"fills.u{i % USERS}", b"fill %d" % i) for i in range(3000)])
    await append(bus, [Out("alerts.info", b"a"), Out("alerts.error", b"")])
    await append(bus, [Out("dead.TOKENS.analyze", bytes(range(256)))])
    for bucket in (stream.name.removeprefix("KV_") for stream in STREAMS if stream.bucket):
        for turn in range(3):
            await buckets.put_many(bus, bucket, [(f"key{i}", b"%d %d" % (turn, i)) for i in range(100)])
        await buckets.put_many(bus, bucket, [(f"key{i}", None) for i in range(10)])
    await buckets.put(bus, "members", "bots.0", b"alive", ttl_s=1)
    for consumer, taken in ((ANALYZE, 1234), (partition_consumer(1), 100)):
        await acknowledge(bus, DurableReader(bus, consumer), taken)
    memory = {"name": "MEMORY", "subjects": ["memory.>"], "storage": "memory", "max_bytes": 1 << 20}
    await bus.api("STREAM.CREATE.MEMORY", memory)


SMALL = (TOKENS, FILLS, BOTS)


@pytest.fixture
async def few(broker: Broker) -> AsyncIterator[Bus]:
    """A broker with three streams, a hundred messages in each, and one consumer in the middle of its way."""
    async with testing.bus(broker, declared=False) as bus:
        for stream in SMALL:
            await bus.api(f"STREAM.CREATE.{stream.name}", stream_config(stream, PARTITIONS))
        request = {"stream_name": "TOKENS", "config": consumer_config(ANALYZE), "action": "create"}
        await bus.api("CONSUMER.CREATE.TOKENS.analyze", request)
        await bus.append([Out(f"tokens.created.M{i}", b"x" * 50) for i in range(100)])
        await bus.append([Out(f"fills.u{i}", b"x" * 50) for i in range(100)])
        await buckets.put_many(bus, "bots", [(f"{i}", b"{}") for i in range(100)])
        await acknowledge(bus, DurableReader(bus, ANALYZE), 40)
        yield bus


async def append(bus: Bus, messages: list[Out]) -> None:
    for chunk in chunks(messages):
        await bus.append(chunk)


async def acknowledge(bus: Bus, reader: DurableReader, number: int) -> None:
    """Take so many messages and acknowledge them all."""
    await reader.start()
    left, last = number, None
    while left:
        for message in reader.take(left):
            last, left = message, left - 1
        await asyncio.sleep(0.001)
    assert last is not None
    reader.acknowledge(last)
    wanted = last.sequence

    async def noted() -> bool:
        info = await bus.consumer_info(reader.consumer.stream, reader.consumer.name)
        return bool(info["ack_floor"]["stream_seq"] == wanted)

    await eventually(noted, "the acknowledgement is noted")
    await reader.close()


async def contents(bus: Bus, streams: Sequence[Stream] = STREAMS) -> dict[str, list[tuple[Any, ...]]]:
    """Every message of every stream but for those that end by themselves."""
    found = {}
    for stream in streams:
        if stream.name != "KV_members":
            messages = await read(bus, stream.name, after_sequence=0)
            found[stream.name] = [(m.sequence, m.at_ns, m.subject, m.header_block, m.data) for m in messages]
    return found


def folder_of(tmp_path: Path, name: str) -> Path:
    return tmp_path / "data" / "backups" / name


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def forge(folder: Path, change: Callable[[Manifest], Manifest]) -> None:
    """Another manifest, with sums that fit it and the files as they are now."""

    def now(file: File) -> File:
        data = (folder / file.name).read_bytes()
        return File(name=file.name, bytes=len(data), sha256=sha256(data).hexdigest())

    def fitting(part: StreamPart) -> StreamPart:
        return msgspec.structs.replace(part, snapshot=now(part.snapshot), digests=now(part.digests))

    manifest = change(decode_manifest((folder / MANIFEST).read_bytes(), folder.name))
    manifest = msgspec.structs.replace(manifest, streams=tuple(fitting(part) for part in manifest.streams))
    data = encode_manifest(manifest)
    (folder / MANIFEST).write_bytes(data)
    (folder / SUMS).write_bytes(sums_text(sums_of(manifest, data)))


def part_of(manifest: Manifest, stream: str) -> StreamPart:
    return next(part for part in manifest.streams if part.name == stream)


# Making one, and proving it


async def test_a_drill_proves_all_streams_buckets_and_consumers(broker: Broker, bus: Bus, tmp_path: Path) -> None:
    await fill(bus)
    manifest = await backup(common(broker, tmp_path), SETTINGS)
    assert {part.name for part in manifest.streams} == {stream.name for stream in STREAMS}
    assert manifest.exempt == ("MEMORY",)
    assert manifest.streams_listed == len(STREAMS) + 1
    assert manifest.server_version.startswith("2.")
    assert manifest.messages > 11_000
    assert {c.name: c.floor for c in part_of(manifest, "TOKENS").consumers} == {"analyze": 1234}
    assert {c.name for c in part_of(manifest, "SIGNALS").consumers} == {f"p{p}" for p in range(PARTITIONS)}
    (found,) = await kept(common(broker, tmp_path), SETTINGS)
    assert found.verified
    assert found.verification is not None
    ended = sum(last - first + 1 for part in manifest.streams for first, last in part.fleeting)
    assert 0 < ended < 20  # of `members`, whose messages end by themselves: the copy need not hold them any more
    assert manifest.messages - ended <= found.verification.messages <= manifest.messages
    assert found.verification.streams == len(STREAMS)
    assert found.verification.server_version == manifest.server_version
    assert left_in(folder_of(tmp_path, "")) == [".lock", manifest.name]


async def test_a_flipped_byte_is_found_in_each_kind_of_file(broker: Broker, few: Bus, tmp_path: Path) -> None:
    here = common(broker, tmp_path)
    manifest = await backup(here, SETTINGS, hold_drill=False)
    for file in ("TOKENS.snapshot", "KV_bots.snapshot", "FILLS.digests", MANIFEST, SUMS):
        path = folder_of(tmp_path, manifest.name) / file
        for at in (0, path.stat().st_size // 2, path.stat().st_size - 1):
            flip(path, at)
            found = await verify(here, SETTINGS)
            assert not found.ok, f"{file} at {at}"
            assert file.split(".")[0] in found.problems[0]
            assert not (await kept(here, SETTINGS))[0].verified
            flip(path, at)
    assert (await verify(here, SETTINGS)).ok


async def test_a_flipped_byte_in_a_verification_is_seen_and_the_next_drill_mends_it(
    broker: Broker, few: Bus, tmp_path: Path
) -> None:
    here = common(broker, tmp_path)
    manifest = await backup(here, SETTINGS)
    path = folder_of(tmp_path, manifest.name) / VERIFICATION
    flip(path, path.stat().st_size // 2)
    (found,) = await kept(here, SETTINGS)
    assert VERIFICATION in found.problem
    assert (await verify(here, SETTINGS)).ok
    (found,) = await kept(here, SETTINGS)
    assert found.verified


def _other_data(folder: Path) -> None:
    path = folder / "FILLS.digests"
    flip(path, RECORD.size * 7 + 10)  # as if the eighth message had been another


def _one_more(folder: Path) -> None:
    path = folder / "FILLS.digests"
    path.write_bytes(path.read_bytes() + RECORD.pack(101, b"d" * 16))


def _one_less(folder: Path) -> None:
    path = folder / "FILLS.digests"
    path.write_bytes(path.read_bytes()[RECORD.size :])


def _another_snapshot(folder: Path) -> None:
    (folder / "FILLS.snapshot").write_bytes((folder / "TOKENS.snapshot").read_bytes())


def _no_snapshot(folder: Path) -> None:
    (folder / "FILLS.snapshot").write_bytes(b"")


def _same(manifest: Manifest) -> Manifest:
    return manifest


def _further(manifest: Manifest) -> Manifest:
    """As if FILLS had held one message more, which was read."""
    return _replaced(manifest, "FILLS", state={**part_of(manifest, "FILLS").state, "last_seq": 101})


def _other_floor(manifest: Manifest) -> Manifest:
    part = part_of(manifest, "TOKENS")
    floors = tuple(msgspec.structs.replace(c, floor=c.floor + 1, floor_after=c.floor + 1) for c in part.consumers)
    return _replaced(manifest, "TOKENS", consumers=floors)


def _other_consumer(manifest: Manifest) -> Manifest:
    part = part_of(manifest, "TOKENS")
    floors = tuple(msgspec.structs.replace(c, name="gone") for c in part.consumers)
    return _replaced(manifest, "TOKENS", consumers=floors)


def _stream_missing(manifest: Manifest) -> Manifest:
    return msgspec.structs.replace(manifest, streams=tuple(p for p in manifest.streams if p.name != "FILLS"))


def _replaced(manifest: Manifest, stream: str, **fields: Any) -> Manifest:
    parts = (msgspec.structs.replace(p, **fields) if p.name == stream else p for p in manifest.streams)
    return msgspec.structs.replace(manifest, streams=tuple(parts))


FORGERIES: tuple[tuple[Callable[[Path], None] | None, Callable[[Manifest], Manifest], str], ...] = (
    (_other_data, _same, "FILLS: 1 changed (sequence 8)"),
    (_one_more, _further, "FILLS: 1 missing (sequence 101)"),
    (_one_less, _same, "FILLS: 1 that nobody stored (sequence 1)"),
    (_another_snapshot, _same, "FILLS"),
    (_no_snapshot, _same, "FILLS cannot be restored"),
    (None, _other_floor, "TOKENS: consumer analyze has the floor 40, not 41 to 41"),
    (None, _other_consumer, "TOKENS: consumer gone was not restored"),
    (None, _stream_missing, "1 of the 3 streams"),
)


async def test_a_drill_finds_what_fitting_sums_would_hide(broker: Broker, few: Bus, tmp_path: Path) -> None:
    here = common(broker, tmp_path)
    manifest = await backup(here, SETTINGS, hold_drill=False)
    folder = folder_of(tmp_path, manifest.name)
    before = {file.name: (folder / file.name).read_bytes() for file in manifest.files}
    before[MANIFEST] = (folder / MANIFEST).read_bytes()
    for tamper, change, problem in FORGERIES:
        if tamper is not None:
            tamper(folder)
        forge(folder, change)
        found = await verify(here, SETTINGS)
        assert not found.ok, problem
        assert any(problem in text for text in found.problems), found.problems
        for name, data in before.items():
            (folder / name).write_bytes(data)
    forge(folder, _same)
    assert (await verify(here, SETTINGS)).ok


async def test_a_missing_file_is_found(broker: Broker, few: Bus, tmp_path: Path) -> None:
    here = common(broker, tmp_path)
    manifest = await backup(here, SETTINGS)
    (folder_of(tmp_path, manifest.name) / "FILLS.snapshot").unlink()
    assert (await verify(here, SETTINGS)).problems == ("FILLS.snapshot is missing",)


async def test_a_stream_whose_messages_end_by_age_can_be_proved_later(broker: Broker, few: Bus, tmp_path: Path) -> None:
    """The drill of the next day must not find an hour's signals empty."""
    await few.api(
        "STREAM.CREATE.SHORT", {"name": "SHORT", "subjects": ["short"], "max_age": 5 * 10**9, "max_bytes": 1 << 20}
    )
    for i in range(100):
        await few.publish("short", b"%d" % i)
    here = common(broker, tmp_path)
    manifest = await backup(here, SETTINGS, hold_drill=False)
    assert part_of(manifest, "SHORT").messages == 100

    async def gone() -> bool:
        return int((await few.stream_info("SHORT"))["state"]["messages"]) == 0

    await eventually(gone, "the messages of the source are gone")
    found = await verify(here, SETTINGS)
    assert found.ok, found.problems
    assert found.messages >= 100


# Under load


class Line:
    """A small line that works while it is backed up: tokens, decisions, signals and fills, each in order, each
    acknowledged after what it caused was stored; and buckets whose entries are overwritten and deleted."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.tokens = 0
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        steps = (
            (ANALYZE, lambda m: [Out(f"decisions.SNIPER.{m.subject.split('.')[2]}", b"%d" % m.sequence)]),
            (partition_consumer(1), lambda m: [Out(f"fills.{m.subject.split('.')[2]}", b"%d" % m.sequence)]),
        )
        for work in (self._write(), self._churn(), *(self._step(consumer, make) for consumer, make in steps)):
            self.tasks.append(asyncio.create_task(work))

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        results = await asyncio.gather(*self.tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results), results

    async def _write(self) -> None:
        for turn in count():
            await self._bus.append([Out(f"tokens.created.M{turn}x{i}", b"t" * 200) for i in range(20)])
            await self._bus.append([Out(f"signals.u{i}", b"s" * 200) for i in range(20)])
            self.tokens += 20

    async def _churn(self) -> None:
        for turn in count():
            await buckets.put_many(self._bus, "scores", [(f"k{turn % 7}-{i}", b"%d" % turn) for i in range(20)])
            await buckets.put_many(self._bus, "watch", [("w", None if turn % 2 else b"1"), (f"w{turn % 50}", b"2")])
            await buckets.put(self._bus, "members", "bots.0", b"%d" % turn, ttl_s=1)

    async def _step(self, consumer: Any, make: Callable[[In], list[Out]]) -> None:
        reader = DurableReader(self._bus, consumer)
        await reader.start()
        while True:
            messages = reader.take(20)
            if messages:
                await self._bus.append([out for message in messages for out in make(message)])
                reader.acknowledge(messages[-1])
            await asyncio.sleep(0.001)


async def test_a_backup_of_a_line_that_works_is_consistent_with_itself(
    broker: Broker, bus: Bus, tmp_path: Path
) -> None:
    await append(bus, [Out(f"tokens.traded.M{i}", b"t" * 500) for i in range(5000)])
    line = Line(bus)
    line.start()
    await eventually(lambda: line.tokens > 200, "the line works")
    before = line.tokens
    here = common(broker, tmp_path)
    manifest = await backup(here, SETTINGS)
    assert line.tokens > before, "the line stood still meanwhile"
    await line.stop()
    async with another(tmp_path) as other, testing.bus(other, declared=False) as there:
        await restore(common(other, tmp_path), SETTINGS, manifest.name)
        for stream, consumer, effects in (("TOKENS", "analyze", "DECISIONS"), ("SIGNALS", "p1", "FILLS")):
            causes = {message.sequence for message in await read(there, stream, after_sequence=0)}
            settled = {int(message.data) for message in await read(there, effects, after_sequence=0)}
            floor = (await there.consumer_info(stream, consumer))["ack_floor"]["stream_seq"]
            assert floor > 0
            assert settled <= causes, f"{effects} has outcomes of what {stream} does not hold"
            served = {
                message.sequence
                for message in await read(there, stream, after_sequence=0)
                if stream == "TOKENS" or message.subject.startswith("signals.1.")
            }
            assert {s for s in served if s <= floor} <= settled, f"{stream}: acknowledged without its outcome"


# Putting one back


async def test_a_restoration_is_exact(broker: Broker, bus: Bus, tmp_path: Path) -> None:
    await fill(bus)
    before = await contents(bus)
    manifest = await backup(common(broker, tmp_path), SETTINGS)
    async with another(tmp_path) as other, testing.bus(other, declared=False) as there:
        report = await restore(common(other, tmp_path), SETTINGS)
        assert report.name == manifest.name
        assert {one.name for one in report.streams} == {stream.name for stream in STREAMS}
        assert await contents(there) == before
        for stream in STREAMS:
            info = await there.stream_info(stream.name)
            wanted = stream_config(stream, PARTITIONS)
            assert {field: info["config"].get(field, type(value)()) for field, value in wanted.items()} == wanted
        floor = (await there.consumer_info("TOKENS", "analyze"))["ack_floor"]["stream_seq"]
        assert floor == 1234
        # the line goes on where it was
        reader = DurableReader(there, ANALYZE)
        assert await reader.start() == 1234
        first: list[In] = []
        while not first:
            first = reader.take(1)
            await asyncio.sleep(0.001)
        assert first[0].sequence == 1235
        await reader.close()
        assert await there.publish("fills.u1", b"next") == 3001


async def test_a_consumer_that_went_on_during_the_backup_is_set_back_to_the_noted_floor(
    broker: Broker, few: Bus, tmp_path: Path
) -> None:
    here = common(broker, tmp_path)
    on = asyncio.Event()

    def say(text: str) -> None:
        if text.startswith("FILLS: reading"):
            on.set()  # floors are noted, TOKENS comes later

    async def go_on() -> None:
        await on.wait()
        await acknowledge(few, DurableReader(few, ANALYZE), 30)

    going = asyncio.create_task(go_on())
    task = asyncio.create_task(backup(here, SETTINGS, say))
    manifest = await task
    await going
    (floor,) = part_of(manifest, "TOKENS").consumers
    assert floor.floor == 40
    async with another(tmp_path) as other, testing.bus(other, declared=False) as there:
        await restore(common(other, tmp_path), SETTINGS)
        assert (await there.consumer_info("TOKENS", "analyze"))["ack_floor"]["stream_seq"] == 40


async def test_a_restoration_refuses_to_overwrite_unless_told(broker: Broker, few: Bus, tmp_path: Path) -> None:
    here = common(broker, tmp_path)
    await backup(here, SETTINGS)
    await append(few, [Out("fills.u1", b"later")])
    before = await contents(few, SMALL)
    with pytest.raises(BackupError, match=r"FILLS \(101 messages\).*--overwrite"):
        await restore(here, SETTINGS)
    assert await contents(few, SMALL) == before
    await restore(here, SETTINGS, overwrite=True)
    assert len((await contents(few, SMALL))["FILLS"]) == 100


async def test_a_data_directory_is_restored_while_nothing_runs_in_it(broker: Broker, few: Bus, tmp_path: Path) -> None:
    here, other = common(broker, tmp_path), tmp_path / "other"
    before = await contents(few, SMALL)
    await backup(here, SETTINGS)
    other.mkdir()
    with (other / "lock").open("w") as lock:  # as `mintline up` holds it
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BackupError, match="stop it first"):
            await restore(here, SETTINGS, into=other)
    await restore(here, SETTINGS, into=other)
    again = Broker(other / "jetstream")
    again.start()
    try:
        async with testing.bus(again, declared=False) as there:
            assert await contents(there, SMALL) == before
            assert (await there.consumer_info("TOKENS", "analyze"))["ack_floor"]["stream_seq"] == 40
    finally:
        again.kill()


async def test_one_stream_alone_is_restored(broker: Broker, few: Bus, tmp_path: Path) -> None:
    here = common(broker, tmp_path)
    await backup(here, SETTINGS)
    await few.api("STREAM.DELETE.KV_bots")
    await append(few, [Out("fills.u1", b"later")])
    report = await restore(here, SETTINGS, only=("KV_bots",))
    assert [one.name for one in report.streams] == ["KV_bots"]
    assert "FILLS" in report.untouched
    assert len((await contents(few, SMALL))["FILLS"]) == 101
    entry = await buckets.get(few, "bots", "7")
    assert entry is not None
    assert entry.data == b"{}"
    with pytest.raises(BackupError, match="NONE is not in backup"):
        await restore(here, SETTINGS, only=("NONE",))


async def test_nothing_is_restored_under_processes_that_run(broker: Broker, few: Bus, tmp_path: Path) -> None:
    here = common(broker, tmp_path)
    await backup(here, SETTINGS)

    async def live() -> None:
        while True:
            few.tell("status.bots.0", b"{}")
            await asyncio.sleep(0.05)

    living = asyncio.create_task(live())
    with pytest.raises(BackupError, match=r"bots\.0"):
        await restore(here, SETTINGS, overwrite=True)
    living.cancel()


async def test_a_damaged_backup_is_not_restored(broker: Broker, few: Bus, tmp_path: Path) -> None:
    here = common(broker, tmp_path)
    manifest = await backup(here, SETTINGS)
    flip(folder_of(tmp_path, manifest.name) / "FILLS.snapshot", 20)
    before = await contents(few, SMALL)
    with pytest.raises(BackupError, match=r"damaged: FILLS\.snapshot"):
        await restore(here, SETTINGS, overwrite=True)
    unproven = await backup(here, SETTINGS, hold_drill=False)
    flip(folder_of(tmp_path, unproven.name) / "FILLS.digests", 20)
    with pytest.raises(BackupError, match=r"fails its drill: FILLS\.digests"):
        await restore(here, SETTINGS, unproven.name, overwrite=True)
    assert await contents(few, SMALL) == before


# What is kept


async def test_the_old_one_goes_only_after_a_newer_one_is_verified(broker: Broker, few: Bus, tmp_path: Path) -> None:
    here = common(broker, tmp_path)
    settings = msgspec.structs.replace(SETTINGS, backup_keep_days=0.0)
    first = await backup(here, settings)
    second = await backup(here, settings, hold_drill=False)
    assert [one.name for one in await kept(here, settings)] == [first.name, second.name]
    flip(folder_of(tmp_path, second.name) / "FILLS.snapshot", 5)
    assert not (await verify(here, settings)).ok
    assert [one.name for one in await kept(here, settings)] == [first.name, second.name]
    flip(folder_of(tmp_path, second.name) / "FILLS.snapshot", 5)
    assert (await verify(here, settings)).ok
    assert [one.name for one in await kept(here, settings)] == [second.name]


# What can go wrong


async def test_too_little_space_is_said_before_anything_is_written(broker: Broker, few: Bus, tmp_path: Path) -> None:
    here = common(broker, tmp_path)
    with pytest.raises(BackupError, match="MiB free"):
        await backup(here, msgspec.structs.replace(SETTINGS, backup_disk_reserve_bytes=1 << 60))
    assert await kept(here, SETTINGS) == []
    assert left_in(folder_of(tmp_path, "")) == [".lock"]


async def test_a_broker_that_goes_away_leaves_no_backup(broker: Broker, bus: Bus, tmp_path: Path) -> None:
    await fill(bus)
    here = common(broker, tmp_path)

    def say(text: str) -> None:
        if text.startswith("SIGNALS: snapshot"):
            broker.kill()

    with pytest.raises(BackupError):
        await asyncio.wait_for(backup(here, msgspec.structs.replace(SETTINGS, backup_s_max=8.0), say), 60)
    assert await kept(here, SETTINGS) == []
    assert left_in(folder_of(tmp_path, "")) == [".lock"]


async def test_the_scratch_server_wants_a_password_and_leaves_nothing(tmp_path: Path) -> None:
    async with scratch(tmp_path, 0, 0) as bus:
        assert (await bus.api("STREAM.NAMES"))["total"] == 0
        port = port_of_scratch(tmp_path)
        stranger = Bus(lambda event, **fields: None)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stranger.open(Common(nats_url=f"nats://127.0.0.1:{port}"), "stranger"), 1.0)
        await stranger.close()
    assert left_in(tmp_path) == []


# The command, in a process of its own


def environ(broker: Broker, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONSAFEPATH": "1",
        "MINTLINE_NATS_URL": broker.url,
        "MINTLINE_DATA_DIR": str(tmp_path / "data"),
        "MINTLINE_OBSERVER_BACKUP_DISK_RESERVE_BYTES": "0",
    }


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def port_of_scratch(root: Path) -> int:
    text = next(root.glob(".drill-*/nats.conf")).read_text()
    return int(text.split("listen: 127.0.0.1:")[1].split("\n")[0])


def started(broker: Broker, tmp_path: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "runtime.commands", "backup", *arguments],
        env=environ(broker, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def mintline(broker: Broker, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.commands", "backup", *arguments],
        env=environ(broker, tmp_path), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


async def test_the_command_makes_lists_verifies_and_restores(broker: Broker, few: Bus, tmp_path: Path) -> None:
    made = await asyncio.to_thread(mintline, broker, tmp_path, "create", "--json")
    assert made.returncode == 0, made.stderr
    one = json.loads(made.stdout)
    assert (one["state"], one["streams"], one["exempt"]) == ("verified", 3, [])
    listed = await asyncio.to_thread(mintline, broker, tmp_path, "list", "--json")
    assert json.loads(listed.stdout)["backups"] == [one]
    assert (await asyncio.to_thread(mintline, broker, tmp_path, "list")).stdout.startswith(f"{one['name']}\tverified\t")
    proved = await asyncio.to_thread(mintline, broker, tmp_path, "verify", one["name"], "--json")
    assert proved.returncode == 0, proved.stderr
    assert json.loads(proved.stdout)["ok"] is True
    refused = await asyncio.to_thread(mintline, broker, tmp_path, "restore")
    assert refused.returncode == 1
    assert "--overwrite" in refused.stderr
    assert "FILLS (100 messages)" in refused.stderr
    done = await asyncio.to_thread(mintline, broker, tmp_path, "restore", "--overwrite", "--only", "FILLS")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("FILLS: 100 messages, last sequence 100")
    flip(folder_of(tmp_path, one["name"]) / "FILLS.snapshot", 9)
    damaged = await asyncio.to_thread(mintline, broker, tmp_path, "verify")
    assert damaged.returncode == 1
    assert damaged.stderr.strip().endswith("FILLS.snapshot is not what was written: its sha256 differs")
    wrong = await asyncio.to_thread(mintline, broker, tmp_path, "verify", "../../etc")
    assert wrong.returncode == 2
    assert "NAME" in wrong.stderr


async def test_kill_9_in_the_middle_leaves_nothing_that_looks_like_a_backup(
    broker: Broker, bus: Bus, tmp_path: Path
) -> None:
    await fill(bus)
    root = folder_of(tmp_path, "")
    child = started(broker, tmp_path, "create")

    def staged() -> bool:
        return any(root.glob(".staged-*/*.snapshot"))

    try:
        await eventually(staged, "the backup is under way")
        with broker.frozen():
            child.kill()
            child.wait()
        assert staged(), "it was over before"
        here = common(broker, tmp_path)
        assert await kept(here, SETTINGS) == []
        listed = await asyncio.to_thread(mintline, broker, tmp_path, "list", "--json")
        assert json.loads(listed.stdout)["backups"] == []
        manifest = await backup(here, SETTINGS)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    assert not staged()
    assert [one.name for one in await kept(here, SETTINGS)] == [manifest.name]


async def test_kill_9_in_a_drill_leaves_the_backup_unproven_and_no_server(
    broker: Broker, bus: Bus, tmp_path: Path
) -> None:
    await fill(bus)
    root = folder_of(tmp_path, "")
    here = common(broker, tmp_path)
    for _ in range(5):  # on a busy machine it may be over before it is noticed
        manifest = await backup(here, SETTINGS, hold_drill=False)
        child = started(broker, tmp_path, "verify")

        def seen() -> bool:
            return any((drill / "jetstream/jetstream/$G/streams/TOKENS").exists() for drill in root.glob(".drill-*"))

        try:
            await eventually(lambda: seen() or child.poll() is not None, "the drill is under way, or over")  # noqa: B023
        finally:
            child.kill()
            child.wait()
        if seen():
            break
    found = (await kept(here, SETTINGS))[-1]
    assert not found.verified
    assert not found.problem
    port = port_of_scratch(root)

    async def closed() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return True
        writer.close()
        return False

    await eventually(closed, "the scratch server ended with its parent")
    assert (await verify(here, SETTINGS)).name == manifest.name
    assert not any(root.glob(".drill-*"))


# The observer's figures


async def test_figures_come_from_the_folder_whatever_restarts(
    broker: Broker, bus: Bus, tmp_path: Path, service: Callable[..., Service]
) -> None:
    here = common(broker, tmp_path)
    manifest = await backup(here, SETTINGS)
    (found,) = await kept(here, SETTINGS)
    assert found.verification is not None

    async def figures() -> dict[str, float]:
        port = free_port_of(observer)
        _, body = await fetch(f"http://127.0.0.1:{port}/metrics", 2.0)
        lines = (line.split() for line in body.decode().splitlines() if line.startswith("mintline_backup_"))
        return {name: float(value) for name, value in lines}

    def free_port_of(one: Service) -> int:
        started = (json.loads(line) for line in one.text().splitlines() if '"started"' in line)
        return int(list(started)[-1]["port"])

    for life in range(2):
        observer = service("observer", MINTLINE_NATS_URL=broker.url, MINTLINE_PARTITIONS=str(PARTITIONS))
        observer.start()

        async def shown() -> bool:
            with contextlib.suppress(OSError, IndexError):
                return (await figures()).get("mintline_backup_kept") == 1
            return False

        await eventually(shown, "the figures are there")
        told = await figures()
        assert told["mintline_backup_last_success_timestamp_seconds"] == manifest.finished_at_ns // 10**9
        assert told["mintline_backup_last_verified_timestamp_seconds"] == found.verification.at_ns // 10**9
        assert told["mintline_backup_size_bytes"] == manifest.size_bytes
        assert told["mintline_backup_streams"] == told["mintline_backup_streams_listed"] == len(STREAMS)
        assert told["mintline_backup_damaged"] == life
        observer.kill()
        if life == 0:  # damage that is found while nobody watches
            flip(folder_of(tmp_path, manifest.name) / "FILLS.snapshot", 9)
            assert not (await verify(here, SETTINGS)).ok
            (found,) = await kept(here, SETTINGS)
            found = msgspec.structs.replace(
                found, verification=msgspec.structs.replace(found.verification, at_ns=0)
            )  # no drill proves it any more
            assert found.verification is not None


def test_every_figure_is_declared() -> None:
    assert backups.as_figures(backups.State()).keys() | {"backup_store_up"} == backups.FIGURES.keys()
