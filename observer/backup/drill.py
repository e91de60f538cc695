"""The drill: a backup's sums are checked, each stream is restored into a scratch nats-server, and compared message by
message with the reference that was taken with the backup; then its consumers' floors."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex

from observer.backup.digest import RECORD, Comparison, unpack
from observer.backup.manifest import (
    MANIFEST,
    PROBLEMS_MAX,
    SUMS,
    Damaged,
    Manifest,
    StreamPart,
    Verification,
    drill_config,
    read_manifest,
    sums_of,
    wrong_floors,
    wrong_sums,
)  # fmt: skip
from observer.backup.store import DRILL, BackupError, file_sums, portions
from observer.backup.take import Say, check_space, durable_floors, messages_after
from runtime import snapshots, telemetry
from runtime.bus import Bus, BusError
from runtime.embedded import Child, StartError, broker_binary, free_port
from runtime.settings import Common

START_S_MAX = 20.0

# Of the scratch server. Its files are thrown away, so nothing is synced; whoever guesses the port needs the password.
CONFIG = """
server_name: drill
listen: 127.0.0.1:{port}
max_payload: 1MB
authorization {{ user: drill, password: {password} }}
jetstream {{ store_dir: {folder}, max_mem: 64MB, max_file: 1TB, sync_interval: "5m" }}
feature_flags {{ js_ack_fc_v2: false }}
"""


def check_sums(folder: Path, name: str) -> Manifest:
    """The manifest of a backup whose every file is what was written. Raises Damaged, which names each that is not."""
    try:
        data = (folder / MANIFEST).read_bytes()
        manifest = read_manifest(data, (folder / SUMS).read_bytes(), name)
    except FileNotFoundError as error:
        raise Damaged(f"a file is missing: {error}") from None
    problems = wrong_sums(sums_of(manifest, data), file_sums(folder))
    if problems:
        raise Damaged("; ".join(problems[:PROBLEMS_MAX]))
    return manifest


async def drill(folder: Path, name: str, root: Path, reserve_bytes: int, say: Say) -> Verification:
    """root: where the scratch server keeps its files meanwhile.

    Raises BackupError where the drill itself cannot be held, which says nothing of the backup.
    """
    begun_ns = telemetry.now_ns()
    problems: list[str] = []
    streams = messages = unwitnessed = 0
    version = ""
    try:
        say("checking sums")
        manifest = await asyncio.to_thread(check_sums, folder, name)
        largest = max((int(part.state["bytes"]) for part in manifest.streams), default=0)
        async with scratch(root, 2 * largest, reserve_bytes) as bus:
            version = bus.server_version
            for part in manifest.streams:
                say(f"{part.name}: restoring {part.snapshot.bytes:,} bytes")
                found, equal, unknown = await _drill_stream(bus, folder, part, say)
                problems += found
                streams += 1
                messages += equal
                unwitnessed += unknown
        absent = manifest.streams_listed - len(manifest.exempt) - streams
        if absent:
            problems.append(f"{absent} of the {manifest.streams_listed} streams that the broker had are not there")
    except Damaged as error:
        problems.append(str(error))
    now_ns = telemetry.now_ns()
    return Verification(
        name=name,
        ok=not problems,
        at_ns=now_ns,
        duration_ns=now_ns - begun_ns,
        server_version=version,
        streams=streams,
        messages=messages,
        unwitnessed=unwitnessed,
        problems=tuple(problems[:PROBLEMS_MAX]),
    )


async def _drill_stream(bus: Bus, folder: Path, part: StreamPart, say: Say) -> tuple[list[str], int, int]:
    """What is wrong with one stream, messages found equal, messages with nothing to compare them with."""
    chunks = portions(folder / part.snapshot.name, snapshots.CHUNK_BYTES)
    try:
        await snapshots.restore(bus, part.name, drill_config(part.config), part.state, chunks)
    except BusError as error:
        return [f"{part.name} cannot be restored: {error}"], 0, 0
    say(f"{part.name}: comparing {part.messages:,} messages")
    state = (await bus.stream_info(part.name))["state"]
    comparison = Comparison(
        unpack(portions(folder / part.digests.name, RECORD.size << 15)),
        settled=part.settled,
        last=int(part.state["last_seq"]),
        read=part.read,
        fleeting=part.fleeting,
    )
    count = 0
    async for messages in messages_after(bus, part.name, 0, int(state["last_seq"])):
        comparison.take(messages)
        count += len(messages)
    result = comparison.end()
    problems = [] if result.ok else [f"{part.name}: {result.sentence()}"]
    if count != int(state["messages"]):
        problems.append(f"{part.name}: {state['messages']} messages are said to be restored, and {count} can be read")
    if int(state["last_seq"]) < int(part.state["last_seq"]):
        problems.append(f"{part.name} ends at sequence {state['last_seq']}, not at {part.state['last_seq']}")
    problems += wrong_floors(part, await durable_floors(bus, part.name), int(state["first_seq"]))
    await bus.api(f"STREAM.DELETE.{part.name}")
    return problems, result.equal, result.unwitnessed


@asynccontextmanager
async def scratch(root: Path, needed_bytes: int, reserve_bytes: int) -> AsyncIterator[Bus]:
    """A nats-server of our own with nothing in it, gone afterwards with its files. Raises BackupError."""
    check_space(root, needed_bytes, reserve_bytes)
    folder = root / f"{DRILL}{token_hex(4)}"
    folder.mkdir(mode=0o700)
    try:
        async with unsynced_server(folder, folder / "jetstream") as (bus, _):
            yield bus
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


@asynccontextmanager
async def unsynced_server(folder: Path, store: Path) -> AsyncIterator[tuple[Bus, Common]]:
    """A nats-server on what is in `store`, which syncs when it stops and not at each message. folder: for its
    configuration and log. Raises BackupError."""
    try:
        binary = broker_binary()
    except StartError as error:
        raise BackupError(str(error)) from None
    port, password = free_port(), token_hex(16)
    config, log = folder / "nats.conf", folder / "nats.log"
    config.touch(mode=0o600)
    config.write_text(CONFIG.format(port=port, password=password, folder=json.dumps(str(store))))
    bus = Bus(lambda event, **fields: None)
    common = Common(nats_url=f"nats://127.0.0.1:{port}", nats_user="drill", nats_password=password)
    logger = telemetry.Logger("observer", "json", "error", sys.stderr)
    child = Child("nats-server", [binary, "-c", str(config), "-l", str(log)], {}, logger, None)
    try:
        await child.start()
        try:
            await asyncio.wait_for(bus.open(common, "drill"), START_S_MAX)
        except TimeoutError:
            raise BackupError(f"the scratch nats-server does not start: {_tail(log)}") from None
        yield bus, common
    finally:
        await bus.close()
        await child.stop()


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-300:] if log.exists() else "it says nothing"
