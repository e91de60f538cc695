"""Backups, from the settings to the figures: what the schedule and `mintline backup` call.

`backup` makes one and holds a drill with it; `verify` holds a drill with one that is there, the newest by default, and
then removes what may go; `restore` puts one back; `run` keeps the figures true to what is in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import msgspec

from observer.backup.drill import check_sums, drill, unsynced_server
from observer.backup.manifest import (
    VERIFICATION,
    Damaged,
    Kept,
    Manifest,
    State,
    Verification,
    expired,
    name_at,
    seal,
    state_of,
)  # fmt: skip
from observer.backup.restore import Report
from observer.backup.restore import restore as restore_into
from observer.backup.s3 import S3Store
from observer.backup.store import DRILL, STAGED, BackupError, FolderStore, Store, look, look_all, only_one
from observer.backup.take import Say, take
from observer.schedule.settings import ScheduleSettings
from runtime import telemetry
from runtime.bus import Bus, BusError, Unavailable
from runtime.process import Process
from runtime.settings import Common, Seconds, SettingsError

CONNECT_S_MAX = 10.0
REFRESH_S = 30.0
DAY_NS = 86_400_000_000_000
FOLDER = "backups"  # of the data directory

FIGURES = {
    "backup_last_success_timestamp_seconds": "When the newest backup was complete; 0 where there is none",
    "backup_last_verified_timestamp_seconds": "When a drill last proved a backup that is there; 0 where none did",
    "backup_size_bytes": "Of the newest backup",
    "backup_duration_seconds": "How long the newest backup took",
    "backup_streams": "Streams in the newest backup",
    "backup_streams_listed": "Streams that the broker had then",
    "backup_streams_exempt": "Streams that it had in memory, which cannot be backed up",
    "backup_kept": "Backups that are there",
    "backup_damaged": "Backups that cannot be read, or whose last drill failed",
    "backup_store_up": "Whether the place of the backups could be looked at",
}


class BackupSettings(ScheduleSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    __doc__ = f"""{ScheduleSettings.__doc__}
    backup_url: where backups are kept: a folder, or `s3://<bucket>/<prefix>`; by default `backups` in the data
        directory.
    backup_s3_endpoint: the server of `s3://`, with http:// or https://.
    backup_s3_region: its region.
    backup_s3_access_key, backup_s3_secret_key: the login there.
    backup_keep_days: older backups are removed, once a newer one is verified.
    backup_keep_min: so many of the newest verified backups are never removed.
    backup_disk_reserve_bytes: what a backup or a drill must leave free on the disk.
    backup_s_max: seconds that a backup, a drill or a restoration may take.
    """

    backup_url: str = ""
    backup_s3_endpoint: str = "https://s3.amazonaws.com"
    backup_s3_region: str = "us-east-1"
    backup_s3_access_key: str = ""
    backup_s3_secret_key: str = ""
    backup_keep_days: Annotated[float, msgspec.Meta(ge=0)] = 7.0
    backup_keep_min: Annotated[int, msgspec.Meta(ge=1)] = 1
    backup_disk_reserve_bytes: Annotated[int, msgspec.Meta(ge=0)] = 1 << 30
    backup_s_max: Seconds = 7200.0

    def check(self, common: Common) -> None:
        super().check(common)
        store_of(common, self)


def store_of(common: Common, settings: BackupSettings) -> Store:
    """Nothing is asked of the store yet. Raises SettingsError."""
    variable = "MINTLINE_OBSERVER_BACKUP_URL"
    here = Path(common.data_dir) / FOLDER
    url = settings.backup_url
    if url.startswith("s3://"):
        if find_spec("minio") is None:
            raise SettingsError(f"{variable}: s3:// needs the extra `s3`: pip install 'mintline[s3]'")
        try:
            return S3Store(
                url,
                here,
                endpoint=settings.backup_s3_endpoint,
                region=settings.backup_s3_region,
                access_key=settings.backup_s3_access_key,
                secret_key=settings.backup_s3_secret_key,
            )
        except ValueError as error:
            raise SettingsError(f"{variable}, MINTLINE_OBSERVER_BACKUP_S3_ENDPOINT: {error}") from None
    if "://" in url and not url.startswith("file:///"):
        raise SettingsError(f"{variable}: a folder, or s3://<bucket>/<prefix>")
    return FolderStore(Path(url.removeprefix("file://")) if url else here)


def quiet(_: str) -> None:
    """No progress is shown."""


async def backup(common: Common, settings: BackupSettings, say: Say = quiet, *, hold_drill: bool = True) -> Manifest:
    """Make a backup, and hold a drill with it. Raises BackupError: also where it was made and fails the drill."""
    store = store_of(common, settings)
    async with _at_work(store, settings):
        name = name_at(telemetry.now_ns())
        staged = store.root / f"{STAGED}{name}"
        staged.mkdir(mode=0o700)
        try:
            async with _connected(common) as bus:
                manifest = await take(bus, staged, name, settings.backup_disk_reserve_bytes, say)
            say(f"keeping {manifest.size_bytes:,} bytes in {store.where}")
            await asyncio.to_thread(store.keep, staged, name)
        finally:
            await asyncio.to_thread(shutil.rmtree, staged, ignore_errors=True)
        if hold_drill:
            verification = await _drill(store, settings, name, say)
            if not verification.ok:
                raise BackupError(f"backup {name} was made and fails its drill: {'; '.join(verification.problems)}")
        return manifest


async def verify(common: Common, settings: BackupSettings, name: str = "", say: Say = quiet) -> Verification:
    """Hold a drill with a backup, the newest by default, and note the outcome beside it. What is wrong with the backup
    is in the outcome. Raises BackupError where no drill can be held."""
    store = store_of(common, settings)
    async with _at_work(store, settings):
        return await _drill(store, settings, await _existing(store, name), say)


async def kept(common: Common, settings: BackupSettings) -> list[Kept]:
    """Every backup, oldest first. Raises BackupError."""
    store = store_of(common, settings)
    try:
        return await asyncio.to_thread(look_all, store)
    except OSError as error:
        raise BackupError(f"{store.where} cannot be read: {error}") from None


async def restore(
    common: Common,
    settings: BackupSettings,
    name: str = "",
    only: Sequence[str] = (),
    say: Say = quiet,
    *,
    overwrite: bool = False,
    into: Path | None = None,
) -> Report:
    """Put a backup back, by default the newest that passed its drill; one that did not pass one yet is held to it
    first. into: the data directory of a `mintline up` that does not run, instead of a broker that does.

    Raises BackupError.
    """
    store = store_of(common, settings)
    async with _at_work(store, settings):
        name = await _existing(store, name, verified=True)
        if not (await asyncio.to_thread(look, store, name)).verified:
            verification = await _drill(store, settings, name, say)
            if not verification.ok:
                raise BackupError(f"backup {name} fails its drill: {'; '.join(verification.problems)}")
        say("checking sums")
        opened = _connected(common) if into is None else _resting(into)
        async with _fetched(store, name) as folder, opened as bus:
            try:
                manifest = await asyncio.to_thread(check_sums, folder, name)
            except Damaged as error:
                raise BackupError(f"backup {name} is damaged: {error}") from None
            return await restore_into(bus, folder, manifest, only, overwrite=overwrite, synced=into is None, say=say)


async def run(process: Process, settings: BackupSettings) -> None:
    """Keep the figures true to what is in the store, for as long as the process lives."""
    store = store_of(process.common, settings)
    while not process.stop.is_set():
        await refresh(process, store)
        await process.pause(REFRESH_S)


async def refresh(process: Process, store: Store) -> None:
    figures = process.figures
    try:
        state = state_of(await asyncio.to_thread(look_all, store))
    except OSError as error:
        if figures["backup_store_up"]:
            process.log.warning("backup_store_unreadable", reason=str(error))
        figures.put("backup_store_up", 0)
        return
    if len(state.damaged) > figures["backup_damaged"]:
        process.log.error("backup_damaged", backups=list(state.damaged))
    figures.put("backup_store_up", 1)
    for name, value in as_figures(state).items():
        figures.put(name, value)


def as_figures(state: State) -> dict[str, int]:
    return {
        "backup_last_success_timestamp_seconds": state.last_success_at_ns // 1_000_000_000,
        "backup_last_verified_timestamp_seconds": state.last_verified_at_ns // 1_000_000_000,
        "backup_size_bytes": state.size_bytes,
        "backup_duration_seconds": state.duration_ns // 1_000_000_000,
        "backup_streams": state.streams,
        "backup_streams_listed": state.streams_listed,
        "backup_streams_exempt": state.streams_exempt,
        "backup_kept": state.kept,
        "backup_damaged": len(state.damaged),
    }


async def _drill(store: Store, settings: BackupSettings, name: str, say: Say) -> Verification:
    async with _fetched(store, name) as folder:
        verification = await drill(folder, name, store.root, settings.backup_disk_reserve_bytes, say)
    await asyncio.to_thread(store.write, name, VERIFICATION, seal(verification))
    if verification.ok:
        all_kept = await asyncio.to_thread(look_all, store)
        keep_ns = int(settings.backup_keep_days * DAY_NS)
        for old in expired(all_kept, telemetry.now_ns(), keep_ns, settings.backup_keep_min):
            say(f"removing {old}")
            await asyncio.to_thread(store.remove, old)
    return verification


async def _existing(store: Store, name: str, *, verified: bool = False) -> str:
    """The name of a backup that is there: the one given, or the newest; verified: that passed its drill, if any did."""
    names = await asyncio.to_thread(store.names)
    if name:
        if name not in names:
            raise BackupError(f"there is no backup {name} in {store.where}")
        return name
    if not names:
        raise BackupError(f"there is no backup in {store.where}")
    passed = [one.name for one in await asyncio.to_thread(look_all, store) if one.verified] if verified else []
    return (passed or names)[-1]


@contextlib.asynccontextmanager
async def _fetched(store: Store, name: str) -> AsyncIterator[Path]:
    context = store.fetch(name)
    folder = await asyncio.to_thread(context.__enter__)
    try:
        yield folder
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


@contextlib.asynccontextmanager
async def _connected(common: Common) -> AsyncIterator[Bus]:
    """A connection of our own: reading everything must not keep the observer's answers waiting."""
    bus = Bus(lambda event, **fields: None)
    try:
        try:
            await asyncio.wait_for(bus.open(common, "mintline-backup"), CONNECT_S_MAX)
        except TimeoutError:
            raise BackupError("the broker does not answer (MINTLINE_NATS_URL)") from None
        yield bus
    finally:
        await bus.close()


@contextlib.asynccontextmanager
async def _resting(data_dir: Path) -> AsyncIterator[Bus]:
    """The broker of a `mintline up` that does not run, started for this alone; on the disk when it has stopped."""
    folder = data_dir / FOLDER / f"{DRILL}broker"
    await asyncio.to_thread(folder.mkdir, 0o700, parents=True, exist_ok=True)
    with (data_dir / "lock").open("w") as lock:  # as runtime/up.py holds it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BackupError(f"mintline runs in {data_dir}; stop it first") from None
        try:
            async with unsynced_server(folder, data_dir / "jetstream") as (bus, _):
                yield bus
            await asyncio.to_thread(os.sync)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def _at_work(store: Store, settings: BackupSettings) -> AsyncIterator[None]:
    """Nobody else writes in the store, for a limited time; whatever is expected to fail is a BackupError."""
    try:
        async with asyncio.timeout(settings.backup_s_max):
            context = only_one(store)
            await asyncio.to_thread(context.__enter__)
            try:
                yield
            finally:
                await asyncio.to_thread(context.__exit__, None, None, None)
    except TimeoutError:
        raise BackupError(f"not done within {settings.backup_s_max:g} s") from None
    except (Unavailable, BusError, OSError, ValueError) as error:
        raise BackupError(str(error) or type(error).__name__) from error
