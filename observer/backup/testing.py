"""What tests of backups share: settings that leave no room, streams to back up, and a broker to restore into."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from observer.backup.backups import BackupSettings
from observer.backup.manifest import (
    Manifest,
    StreamPart,
)  # fmt: skip
from runtime import buckets, testing
from runtime.bus import Bus
from runtime.embedded import broker_config
from runtime.readers import DurableReader, read
from runtime.settings import Common
from runtime.testing import Broker, eventually
from runtime.wire import Out, chunks
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

SETTINGS = BackupSettings(backup_disk_reserve_bytes=0, backup_s_max=120.0)
PARTITIONS = 4


def common(broker: Broker, tmp_path: Path) -> Common:
    return Common(nats_url=broker.url, data_dir=str(tmp_path / "data"), partitions=PARTITIONS)


@contextlib.asynccontextmanager
async def another(tmp_path: Path) -> AsyncIterator[Broker]:
    """A broker that does not sync each message, so that a restoration is quick."""
    text = broker_config().read_text().replace("sync_interval: always", 'sync_interval: "1s"')
    config = tmp_path / "unsynced.conf"
    config.write_text(text)
    broker = Broker(tmp_path / "another", config)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


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


def part_of(manifest: Manifest, stream: str) -> StreamPart:
    return next(part for part in manifest.streams if part.name == stream)


@contextlib.asynccontextmanager
async def small(broker: Broker) -> AsyncIterator[Bus]:
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


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def port_of_scratch(root: Path) -> int:
    text = next(root.glob(".drill-*/nats.conf")).read_text()
    return int(text.split("listen: 127.0.0.1:")[1].split("\n")[0])
