"""Backups on a real broker: everything is in them, a drill proves it, a flipped byte is found, and what goes wrong
leaves nothing that looks like a backup."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

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
from observer.backup.testing import (
    PARTITIONS,
    SETTINGS,
    another,
    append,
    common,
    fill,
    flip,
    folder_of,
    left_in,
    part_of,
    port_of_scratch,
)
from runtime import buckets, testing
from runtime.bus import Bus
from runtime.readers import DurableReader, read
from runtime.settings import Common
from runtime.testing import Broker, eventually
from runtime.wire import In, Out
from schemas.subjects import (
    ANALYZE,
    STREAMS,
    partition_consumer,
)


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
