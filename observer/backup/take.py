"""Takes a backup: every stream of the broker, its reference, its consumers' floors -> files in a staging folder."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from observer.backup.digest import RECORD, Witnessed, records
from observer.backup.manifest import (
    MANIFEST,
    SUMS,
    File,
    Floor,
    Manifest,
    StreamPart,
    encode_manifest,
    file_of,
    sums_of,
    sums_text,
    taking_order,
)  # fmt: skip
from observer.backup.store import BackupError, free_bytes, write_synced
from runtime import lives, snapshots, telemetry
from runtime.bus import Bus
from runtime.readers import Follower
from runtime.wire import In

TAKE_MESSAGES_MAX = 500  # between two looks at anything else: the process that backs up answers questions, too

Say = Callable[[str], None]  # progress, for a terminal


async def take(bus: Bus, folder: Path, name: str, reserve_bytes: int, say: Say) -> Manifest:
    """Back every stream up into an empty folder, up to its SHA256SUMS, all synced.

    reserve_bytes: what must stay free on the disk. Raises BackupError, BusError, Unavailable, OSError.
    """
    started_at_ns = telemetry.now_ns()
    streams = {info["config"]["name"]: info for info in await snapshots.listed(bus, "STREAM.LIST", "streams")}
    exempt = sorted(stream for stream, info in streams.items() if info["config"]["storage"] == "memory")
    taken = taking_order(stream for stream in streams if stream not in exempt)
    check_space(folder.parent, sum(_space(streams[stream]["state"]) for stream in taken), reserve_bytes)
    floors = {stream: await durable_floors(bus, stream) for stream in taken}
    parts = []
    for stream in taken:
        parts.append(await _take_stream(bus, folder, stream, floors[stream], say))
    manifest = Manifest(
        name=name,
        started_at_ns=started_at_ns,
        finished_at_ns=telemetry.now_ns(),
        server_version=bus.server_version,
        streams_listed=len(streams),
        streams=tuple(parts),
        exempt=tuple(exempt),
    )
    data = encode_manifest(manifest)
    await asyncio.to_thread(write_synced, folder / MANIFEST, data)
    await asyncio.to_thread(write_synced, folder / SUMS, sums_text(sums_of(manifest, data)))
    return manifest


def check_space(root: Path, needed_bytes: int, reserve_bytes: int) -> None:
    """Raises BackupError."""
    free = free_bytes(root)
    if free < needed_bytes + reserve_bytes:
        raise BackupError(
            f"{root} has {free >> 20} MiB free; {needed_bytes >> 20} MiB may be needed,"
            f" and {reserve_bytes >> 20} MiB must stay free"
        )


def _space(state: Mapping[str, Any]) -> int:
    """At most; snapshots are compressed."""
    return int(state["bytes"]) + RECORD.size * int(state["messages"])


async def durable_floors(bus: Bus, stream: str) -> dict[str, int]:
    """Acknowledged floors by name; a durable consumer has a `durable_name`."""
    found = await snapshots.listed(bus, f"CONSUMER.LIST.{stream}", "consumers")
    return {
        consumer["name"]: int(consumer["ack_floor"]["stream_seq"])
        for consumer in found
        if consumer["config"].get("durable_name")
    }


async def _take_stream(bus: Bus, folder: Path, stream: str, floors: Mapping[str, int], say: Say) -> StreamPart:
    """First the reference up to now, then the snapshot, then what was stored meanwhile, then what is still there."""
    say(f"{stream}: reading")
    witnessed = Witnessed()
    with _Output(folder / file_of(stream, "digests")) as digests:
        info = await bus.stream_info(stream)
        settled = int(info["state"]["last_seq"])
        settled = max(settled, await _read(bus, stream, 0, settled, witnessed, digests))
        say(f"{stream}: snapshot of {witnessed.count:,} messages")
        with _Output(folder / file_of(stream, "snapshot")) as file:
            snapshot = await snapshots.take(bus, stream, file.write)
            kept = await file.finish()
        read = int((await bus.stream_info(stream))["state"]["last_seq"])
        read = max(read, await _read(bus, stream, settled, read, witnessed, digests))
        compared = await digests.finish()
    after = (await bus.api(f"STREAM.INFO.{stream}", {"deleted_details": True}, snapshots.ANSWER_S_MAX))["state"]
    floors_after = await durable_floors(bus, stream)
    return StreamPart(
        name=stream,
        config=snapshot.config,
        state=snapshot.state,
        snapshot=kept,
        digests=compared,
        messages=witnessed.count,
        settled=settled,
        read=read,
        fleeting=tuple(witnessed.fleeting(after)),
        consumers=tuple(
            Floor(name=name, floor=floor, floor_after=floors_after[name])
            for name, floor in sorted(floors.items())
            if name in floors_after
        ),
        began=lives.began(info),
    )


async def _read(bus: Bus, stream: str, after: int, to: int, witnessed: Witnessed, digests: _Output) -> int:
    """Note the messages behind a sequence, up to another one at least where they are there; return the last one's."""
    async for messages in messages_after(bus, stream, after, to):
        witnessed.add(messages)
        digests.write(records(messages))
        after = messages[-1].sequence
    return after


async def messages_after(bus: Bus, stream: str, after: int, to: int) -> AsyncIterator[list[In]]:
    """What a stream holds behind a sequence, up to another one at least, in portions."""
    if after >= to:
        return
    follower = Follower(bus, stream, after_sequence=after)
    try:
        while follower.sequence < to and not follower.caught_up:
            messages = follower.take(TAKE_MESSAGES_MAX) or await follower.wait()
            if messages:
                yield messages
                await asyncio.sleep(0)
    finally:
        await follower.close()


class _Output:
    """A file being written, and its sum."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] = path.open("wb")
        self._sum = sha256()
        self._bytes = 0

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._sum.update(data)
        self._bytes += len(data)

    async def finish(self) -> File:
        """Onto the disk."""
        self._file.flush()
        await asyncio.to_thread(os.fsync, self._file.fileno())
        return File(name=self._path.name, bytes=self._bytes, sha256=self._sum.hexdigest())
