"""Puts a backup back into a broker: never onto what is there unless told, never a backup that is not what was written,
never under processes that are running."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from observer.backup.manifest import Manifest, StreamPart
from observer.backup.store import BackupError, portions
from observer.backup.take import Say, durable_floors
from runtime import frames, lives, snapshots
from runtime.bus import Bus, BusError
from schemas.subjects import ADVISORIES, COUNTS, FILLS, SIGNALS

LISTEN_S = 2.5  # every process says its status once a second

# Where sequences of a stream are remembered. A stream that comes back without what remembers it begins a new life: the
# memory there is of messages that it does not hold.
REMEMBERED_IN = {SIGNALS.name: FILLS.name, ADVISORIES.name: COUNTS.name}


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that is back. set_back: consumers whose floor was set back to the one noted when the backup began."""

    name: str
    messages: int
    last_sequence: int
    set_back: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """streams: those restored; untouched: streams of the broker that were not among them."""

    name: str
    streams: tuple[Restored, ...]
    untouched: tuple[str, ...]


async def restore(
    bus: Bus, folder: Path, manifest: Manifest, only: Sequence[str], *, overwrite: bool, synced: bool, say: Say
) -> Report:
    """only: names of streams; all of them if empty. synced: whether the broker may sync each message.

    Raises BackupError, BusError, Unavailable, OSError.
    """
    parts = _chosen(manifest, only)
    there = {info["config"]["name"]: info for info in await snapshots.listed(bus, "STREAM.LIST", "streams")}
    running = await heard(bus)
    if running:
        raise BackupError(f"these processes are running and must be stopped first: {', '.join(running)}")
    existing = [part.name for part in parts if part.name in there]
    if existing and not overwrite:
        held = ", ".join(f"{name} ({there[name]['state']['messages']} messages)" for name in existing)
        raise BackupError(f"the broker has {held}; --overwrite deletes them first")
    names = {part.name for part in parts}
    done: list[Restored] = []
    for part in reversed(parts):  # from the beginning of the line to its end
        say(f"{part.name}: restoring {part.snapshot.bytes:,} bytes")
        try:
            if part.name in existing:
                await bus.api(f"STREAM.DELETE.{part.name}")
            done.append(await _restore_stream(bus, folder, part, synced=synced))
        except BusError as error:
            raise BackupError(_half_done(part.name, done, error)) from None
    # Last: of a restoration that breaks off no stream may go on beside a ledger of another time.
    for part in parts:
        if REMEMBERED_IN.get(part.name, part.name) in names:
            await _go_on(bus, part)
    return Report(name=manifest.name, streams=tuple(done), untouched=tuple(sorted(there.keys() - names)))


def _chosen(manifest: Manifest, only: Sequence[str]) -> list[StreamPart]:
    known = {part.name for part in manifest.streams}
    for name in only:
        if name not in known:
            raise BackupError(f"{name} is not in backup {manifest.name}, which has {', '.join(sorted(known))}")
    return [part for part in manifest.streams if not only or part.name in only]


async def heard(bus: Bus) -> list[str]:
    """The processes of mintline that say that they live."""
    found: set[str] = set()
    await bus.listen("status.>", lambda subject, _: found.add(subject.removeprefix("status.")))
    await asyncio.sleep(LISTEN_S)
    return sorted(found)


async def _restore_stream(bus: Bus, folder: Path, part: StreamPart, *, synced: bool) -> Restored:
    """It begins a new life."""
    chunks = portions(folder / part.snapshot.name, snapshots.CHUNK_BYTES)
    if synced:
        chunks = frames.small(chunks)
    await snapshots.restore(bus, part.name, lives.continuing(part.config, ""), part.state, chunks)
    restored = await durable_floors(bus, part.name)
    set_back = 0
    for consumer in part.consumers:
        if restored.get(consumer.name, 0) > consumer.floor:
            await bus.api(f"CONSUMER.RESET.{part.name}.{consumer.name}", {"seq": consumer.floor + 1})
            set_back += 1
    state = (await bus.stream_info(part.name))["state"]
    return Restored(
        name=part.name,
        messages=int(state["messages"]),
        last_sequence=int(state["last_seq"]),
        set_back=set_back,
    )


async def _go_on(bus: Bus, part: StreamPart) -> None:
    """With the life that the stream had when it was backed up, where that was noted."""
    if part.began:
        config = (await bus.stream_info(part.name))["config"]
        await bus.api(f"STREAM.UPDATE.{part.name}", lives.continuing(config, part.began))


def _half_done(name: str, done: Sequence[Restored], error: BusError) -> str:
    before = f"; restored before it: {', '.join(one.name for one in done)}" if done else ""
    hint = ""
    if error.code == snapshots.RESTORE_FAILED:
        hint = "; the broker took too long to sync messages: see docs/backups.md, Restoring"
    return f"{name} could not be restored: {error}{hint}{before}"
