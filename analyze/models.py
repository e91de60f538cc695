"""Models on disk -> models in memory: the newest file is the one in use, a few more are kept, the least used go first.

The directory is the truth. A file that appears is used from the next poll on, without a restart (who writes it replaces
atomically, as `mintline train` does); deleting the newest goes back to the one before; an empty directory means none.
A file that cannot be used is named in the log once and left alone, and the newest of the others stays in use.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import OrderedDict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from analyze.model import MODEL_FILE_BYTES_MAX, MalformedModel, Model, decode_model
from runtime import telemetry
from runtime.telemetry import Logger

MODELS_MAX: Final = 5
MODELS_BYTES_MAX: Final = 2_048 << 20
FILES_MAX: Final = 1_000
SUFFIX: Final = ".model.json"


class File(NamedTuple):
    """A model file as it was found; another time or size is another file."""

    modified_ns: int
    name: str
    size_bytes: int


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A model in memory. bytes: what its numbers and texts take there."""

    name: str
    label: str
    kind: str
    trained_at: str
    bytes: int
    base_rate: float
    pr_auc: float
    roc_auc: float


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """in_use: the name of the file, "" for none. hits, misses: looks at the newest file, one every few seconds, that
    found its model in memory, and that had to load it. loaded_at_ns: of the newest load, 0 before the first.
    """

    directory: str
    in_use: str
    models: tuple[Held, ...]
    models_max: int
    bytes: int
    bytes_max: int
    hits: int
    misses: int
    evictions: int
    refused: int
    loaded_at_ns: int


class Models:
    """All of it is called from one task. `current` is the model in use, None where there is none."""

    def __init__(
        self,
        directory: Path,
        log: Logger,
        known: Collection[str],
        *,
        models_max: int = MODELS_MAX,
        bytes_max: int = MODELS_BYTES_MAX,
    ) -> None:
        """known: the features that a token has."""
        self._directory = directory
        self._log = log
        self._known = known
        self._models_max = models_max
        self._bytes_max = bytes_max
        self._held: OrderedDict[File, tuple[Model, int]] = OrderedDict()  # the least recently used first
        self._refused: dict[File, None] = {}
        self._in_use: File | None = None
        self._told_none = False
        self.current: Model | None = None
        self.hits = self.misses = self.evictions = self.refused = self.loaded_at_ns = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self._held.values())

    async def poll(self) -> bool:
        """Look at the directory, and use its newest model; whether another one is in use now."""
        try:
            files = await asyncio.to_thread(_files, self._directory)
        except OSError as error:
            self._log.error("models_unreadable", directory=str(self._directory), reason=str(error))
            return False
        self._refused = dict.fromkeys(file for file in self._refused if file in files)
        for file in files:
            if file in self._refused:
                continue
            model = await self._get(file)
            if model is not None:
                return self._use(file, model)
        return self._use(None, None)

    def optimize(self) -> int:
        """Let go of all models but the one in use; the bytes that they took."""
        before = self.bytes
        for file in [file for file in self._held if file != self._in_use]:
            del self._held[file]
        freed = before - self.bytes
        self._log.info("models_optimized", freed_bytes=freed, models=len(self._held))
        return freed

    def stats(self) -> Stats:
        return Stats(
            directory=str(self._directory), in_use=self._in_use.name if self._in_use else "",
            models=tuple(_held(file, model, size) for file, (model, size) in reversed(self._held.items())),
            models_max=self._models_max, bytes=self.bytes, bytes_max=self._bytes_max, hits=self.hits,
            misses=self.misses, evictions=self.evictions, refused=self.refused, loaded_at_ns=self.loaded_at_ns,
        )  # fmt: skip

    async def _get(self, file: File) -> Model | None:
        """From memory, else from disk; None for one that cannot be used."""
        held = self._held.get(file)
        if held is not None:
            self.hits += 1
            self._held.move_to_end(file)
            return held[0]
        self.misses += 1
        try:
            model, size = await asyncio.to_thread(_load, self._directory / file.name, self._known)
            if size > self._bytes_max:
                raise MalformedModel(f"{size} bytes in memory, more than {self._bytes_max}")
        except (MalformedModel, OSError) as error:
            self.refused += 1
            self._refused[file] = None
            self._log.error("model_refused", file=str(self._directory / file.name), reason=str(error))
            return None
        self._held[file] = model, size
        self.loaded_at_ns = telemetry.now_ns()
        self._evict()
        return model

    def _evict(self) -> None:
        while len(self._held) > self._models_max or self.bytes > self._bytes_max:
            self._held.popitem(last=False)
            self.evictions += 1

    def _use(self, file: File | None, model: Model | None) -> bool:
        if file == self._in_use and (file is not None or self._told_none):
            return False
        self._in_use, self.current = file, model
        if file is None or model is None:
            self._told_none = True
            self._log.info("no_model", reason="NO_MODEL", directory=str(self._directory))
        else:
            report = model.report
            self._log.info(
                "model_in_use", file=file.name, label=model.label, kind=report.kind, trained_at=report.trained_at,
                base_rate=report.base_rate, pr_auc=report.pr_auc, roc_auc=report.roc_auc,
            )  # fmt: skip
        return True


def _files(directory: Path) -> list[File]:
    """The newest first, of equal age the last by name; at most FILES_MAX."""
    found = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for path in directory.iterdir():
            with contextlib.suppress(FileNotFoundError):  # it went as we looked
                if path.name.endswith(SUFFIX):
                    stat = path.stat()
                    found.append(File(stat.st_mtime_ns, path.name, stat.st_size))
    return sorted(found, reverse=True)[:FILES_MAX]


def _load(path: Path, known: Collection[str]) -> tuple[Model, int]:
    """Raises MalformedModel, OSError."""
    with path.open("rb") as file:
        data = file.read(MODEL_FILE_BYTES_MAX + 1)
    model = decode_model(data, known)
    return model, _bytes_of(model)


def _bytes_of(value: Any) -> int:
    """What a model takes in memory, its parts included; what is shared counts each time."""
    size = sys.getsizeof(value)
    if isinstance(value, msgspec.Struct):
        return size + sum(_bytes_of(getattr(value, name)) for name in value.__struct_fields__)
    if isinstance(value, dict):
        parts: Iterable[Any] = (*value.keys(), *value.values())
        return size + sum(map(_bytes_of, parts))
    if isinstance(value, tuple):
        return size + sum(map(_bytes_of, value))
    return size


def _held(file: File, model: Model, size: int) -> Held:
    report = model.report
    return Held(
        name=file.name, label=model.label, kind=report.kind, trained_at=report.trained_at, bytes=size,
        base_rate=report.base_rate, pr_auc=report.pr_auc, roc_auc=report.roc_auc,
    )  # fmt: skip
