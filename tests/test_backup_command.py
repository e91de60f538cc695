"""`mintline backup` as a process that is killed at any moment, and the figures that observer makes of what it left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from observer.backup import backups
from observer.backup.backups import backup, kept, verify
from observer.backup.testing import (
    PARTITIONS,
    SETTINGS,
    common,
    fill,
    flip,
    folder_of,
    port_of_scratch,
)
from runtime.bus import Bus
from runtime.testing import Broker, Service, eventually
from runtime.web import fetch
from schemas.subjects import (
    STREAMS,
)


def environ(broker: Broker, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONSAFEPATH": "1",
        "MINTLINE_NATS_URL": broker.url,
        "MINTLINE_DATA_DIR": str(tmp_path / "data"),
        "MINTLINE_OBSERVER_BACKUP_DISK_RESERVE_BYTES": "0",
    }


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
