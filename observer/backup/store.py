"""Where backups lie: a folder here, or `backup_s3.py`. Everything here blocks, so callers run it in threads.

A backup is staged in a folder whose name begins with a dot, synced, and renamed: whatever kills the process leaves
nothing that looks like a backup. What is left over is swept away under the lock that every writer holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from observer.backup.manifest import (
    MANIFEST,
    SUMS,
    VERIFICATION,
    Damaged,
    Kept,
    is_name,
    read_manifest,
    unseal,
)  # fmt: skip

READ_BYTES = 1 << 20
LOCK = ".lock"
STAGED, GONE, DRILL, FETCHED = ".staged-", ".gone-", ".drill-", ".fetched-"


class BackupError(Exception):
    """A backup could not be made, read, verified or restored; the text says why, in one sentence."""


class Store(Protocol):
    """Raises OSError, of which FileNotFoundError says that there is none."""

    where: str  # as shown to people
    root: Path  # a folder on this machine: staging, drills and the lock

    def names(self) -> list[str]:
        """Of complete backups, oldest first."""

    def read(self, name: str, file: str) -> bytes:
        """A small file of a backup."""

    def write(self, name: str, file: str, data: bytes) -> None:
        """A small file of a backup, whole or not at all."""

    def keep(self, staged: Path, name: str) -> None:
        """Make a backup of a folder of synced files, which is gone afterwards."""

    def fetch(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A folder with the backup's files."""

    def remove(self, name: str) -> None:
        """First so that it is no backup any more, then its files."""

    def sweep(self) -> None:
        """Remove what interrupted writers left. Call it under the lock."""


class FolderStore:
    """Backups as folders of `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.where = str(root)

    def names(self) -> list[str]:
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if is_name(path.name) and path.is_dir())

    def read(self, name: str, file: str) -> bytes:
        return (self.root / name / file).read_bytes()

    def write(self, name: str, file: str, data: bytes) -> None:
        path = self.root / name / file
        temporary = path.with_name(f".{file}.new")
        write_synced(temporary, data)
        temporary.replace(path)
        sync_folder(path.parent)

    def keep(self, staged: Path, name: str) -> None:
        sync_folder(staged)
        staged.rename(self.root / name)
        sync_folder(self.root)

    @contextlib.contextmanager
    def fetch(self, name: str) -> Iterator[Path]:
        folder = self.root / name
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no backup {name} in {self.where}")
        yield folder

    def remove(self, name: str) -> None:
        gone = self.root / f"{GONE}{name}"
        (self.root / name).rename(gone)
        sync_folder(self.root)
        shutil.rmtree(gone)

    def sweep(self) -> None:
        sweep_folder(self.root)


def sweep_folder(root: Path) -> None:
    for path in root.iterdir():
        if path.name.startswith((STAGED, GONE, DRILL, FETCHED)):
            shutil.rmtree(path)


@contextlib.contextmanager
def only_one(store: Store) -> Iterator[None]:
    """Nobody else writes in this folder meanwhile; what interrupted writers left is gone. Raises BackupError."""
    store.root.mkdir(parents=True, exist_ok=True)
    with (store.root / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BackupError(f"another backup, drill or restoration is at work in {store.root}") from None
        store.sweep()
        yield


def look(store: Store, name: str) -> Kept:
    """What the small files of a backup say. The large ones are `check_sums`' and the drill's."""
    try:
        manifest = read_manifest(store.read(name, MANIFEST), store.read(name, SUMS), name)
    except FileNotFoundError as error:
        return Kept(name=name, manifest=None, verification=None, problem=f"a file is missing: {error}")
    except Damaged as error:
        return Kept(name=name, manifest=None, verification=None, problem=str(error))
    try:
        verification = unseal(store.read(name, VERIFICATION), name)
    except FileNotFoundError:
        return Kept(name=name, manifest=manifest, verification=None)
    except Damaged as error:
        return Kept(name=name, manifest=manifest, verification=None, problem=str(error))
    return Kept(name=name, manifest=manifest, verification=verification)


def look_all(store: Store) -> list[Kept]:
    """Every backup, oldest first."""
    return [look(store, name) for name in store.names()]


def file_sums(folder: Path) -> dict[str, str | None]:
    """sha256 in hex of each file in a folder of a backup, but for those that come after the sums."""
    return {path.name: file_sum(path) for path in folder.iterdir() if path.name not in (SUMS, VERIFICATION)}


def file_sum(path: Path) -> str:
    total = sha256()
    for portion in portions(path, READ_BYTES):
        total.update(portion)
    return total.hexdigest()


def portions(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(size):
            yield data


def write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(root: Path) -> int:
    return shutil.disk_usage(root).free
