"""A bounded, durable queue on disk: what the broker could not take yet, in order, until it can.

    <directory>/0000000001.spool …   segments of records, appended to and deleted whole
    <directory>/position             up to where the broker has taken them, replaced atomically
    <directory>/lock                 held while a process uses the directory

A record is `length, crc32` of its body and the body: `subject length, id length`, subject, id, payload. `append`
returns when the records are on disk (fsync). A process killed at any byte leaves at most one torn record at the end,
which nobody was told is safe; it is cut off and counted when the spool is opened again. A lost position repeats records
and loses none: their ids make a repetition recognisable.

Everything here blocks, so callers run it in threads; calls from several threads take turns.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

SEGMENT_BYTES_MAX = 8 << 20
RECORD_BYTES_MAX = 256 * 1024
NAME_BYTES_MAX = 1_024
READ_RECORDS_MAX = 1_000
READ_BYTES_MAX = 4 << 20

Packed = bytes  # records as they lie on disk

_HEAD = struct.Struct("<II")
_LENGTHS = struct.Struct("<HH")
_POSITION = struct.Struct("<QQI")


class SpoolFull(Exception):
    """No room for these records, and none of them was kept: stop reading what feeds the spool."""


class SpoolLocked(Exception):
    """Another process uses this directory."""


class SpoolDamaged(Exception):
    """Records that were good when the spool was opened can no longer be read; opening it again cuts them off."""


class Record(NamedTuple):
    subject: str
    id: str
    payload: bytes


class Read(NamedTuple):
    """Records from the front, and where they end; give it to `commit` once they are safe elsewhere."""

    records: tuple[Record, ...]
    segment: int
    offset: int


class _Segment:
    """number: its place in the order. size: its good bytes. offset: those already committed. records: those left."""

    def __init__(self, directory: Path, number: int) -> None:
        self.number = number
        self.path = directory / f"{number:010d}.spool"
        self.size = 0
        self.offset = 0
        self.records = 0


class Spool:
    """See the module. Raises SpoolLocked, and OSError where the directory cannot be used."""

    def __init__(self, directory: Path, *, bytes_max: int, segment_bytes_max: int = SEGMENT_BYTES_MAX) -> None:
        self._directory = directory
        self._bytes_max = bytes_max
        self._segment_bytes_max = min(segment_bytes_max, bytes_max // 4)
        self._segments: list[_Segment] = []
        self._turn = threading.Lock()
        self._tail: BinaryIO | None = None  # the last segment, open for appending; None until something is appended
        self.dropped = 0
        """Torn or damaged ends of segments that were cut off when opening."""
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = (directory / "lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise SpoolLocked(f"{directory} is used by another process") from error
        self._recover()

    @property
    def records(self) -> int:
        """Records waiting."""
        return sum(segment.records for segment in self._segments)

    @property
    def bytes(self) -> int:
        """Bytes on disk, with those already committed in the first segment."""
        return sum(segment.size for segment in self._segments)

    def append(self, records: Iterable[Record]) -> None:
        """Add to the end, on disk when this returns: all of them, or none. Raises SpoolFull."""
        packed = [_pack(record) for record in records]
        data = b"".join(packed)
        if data:
            with self._turn:
                self._append(data, len(packed))

    def read(self, *, records_max: int = READ_RECORDS_MAX, bytes_max: int = READ_BYTES_MAX) -> Read:
        """The first records not yet committed, at least one if there are any; the same again until they are.

        Raises SpoolDamaged.
        """
        with self._turn:
            return self._read(records_max, bytes_max)

    def commit(self, read: Read) -> None:
        """Forget these records, durably: the newest answer of `read`. Raises ValueError for one committed already."""
        if read.records:
            with self._turn:
                self._commit(read)

    def close(self) -> None:
        with self._turn:
            if self._tail is not None:
                self._tail.close()
                self._tail = None
            self._lock.close()

    def _append(self, data: Packed, records: int) -> None:
        if self.bytes + len(data) > self._bytes_max:
            raise SpoolFull(f"{self.bytes} bytes of {self._bytes_max} are used, {len(data)} more do not fit")
        segment, tail = self._open_tail()
        try:
            _write_all(tail, data)
            os.fsync(tail.fileno())
        except OSError as error:
            os.ftruncate(tail.fileno(), segment.size)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise SpoolFull(f"{self._directory}: {error.strerror}") from error
            raise
        segment.size += len(data)
        segment.records += records

    def _read(self, records_max: int, bytes_max: int) -> Read:
        records: list[Record] = []
        segment_number = offset = size = 0
        for segment in self._segments:
            end = segment.offset
            for body, end in _bodies(segment, segment.offset):
                if len(records) >= records_max or (records and size + len(body) > bytes_max):
                    return Read(tuple(records), segment_number, offset)
                records.append(_unpack(body))
                segment_number, offset, size = segment.number, end, size + len(body)
            if end < segment.size:
                raise SpoolDamaged(f"{segment.path}: unreadable from byte {end} of {segment.size}")
        return Read(tuple(records), segment_number, offset)

    def _commit(self, read: Read) -> None:
        if not self._segments or (read.segment, read.offset) <= (self._segments[0].number, self._segments[0].offset):
            raise ValueError("these records are committed already")
        self._write_position(read.segment, read.offset)
        taken = len(read.records)
        while self._segments and self._segments[0].number < read.segment:
            taken -= self._segments[0].records
            self._delete_first()
        first = self._segments[0]
        first.records -= taken
        first.offset = read.offset
        if first.records == 0:
            self._delete_first()

    def _recover(self) -> None:
        position_segment, position_offset = self._read_position()
        for path in sorted(self._directory.glob("*.spool")):
            segment = _Segment(self._directory, int(path.stem))
            if segment.number < position_segment:
                path.unlink()
                continue
            self._scan(segment, position_offset if segment.number == position_segment else 0)
            if segment.records == 0:
                path.unlink()
                continue
            self._segments.append(segment)

    def _scan(self, segment: _Segment, committed: int) -> None:
        """Find the good bytes of a segment, and cut off the rest."""
        on_disk = segment.size = segment.path.stat().st_size
        good = 0
        for _, good in _bodies(segment, 0):
            segment.records += good > committed
        segment.offset = min(committed, good)
        segment.size = good
        if good < on_disk:
            self.dropped += 1
            with segment.path.open("r+b") as file:
                file.truncate(good)
                os.fsync(file.fileno())

    def _open_tail(self) -> tuple[_Segment, BinaryIO]:
        """The segment to append to; a new one where the last is full."""
        last = self._segments[-1] if self._segments else None
        if last is None or last.size >= self._segment_bytes_max:
            position_segment, _ = self._read_position()
            last = _Segment(self._directory, max(last.number if last else 0, position_segment) + 1)
            if self._tail is not None:
                self._tail.close()
                self._tail = None
            last.path.touch()
            self._sync_directory()
            self._segments.append(last)
        if self._tail is None:
            # Unbuffered, so that a failed write leaves nothing behind that a later one would bring along.
            self._tail = last.path.open("ab", buffering=0)
        return last, self._tail

    def _delete_first(self) -> None:
        segment = self._segments.pop(0)
        if not self._segments and self._tail is not None:
            self._tail.close()
            self._tail = None
        segment.path.unlink()

    def _read_position(self) -> tuple[int, int]:
        """Segment and offset; zeros where there is none that can be trusted, which repeats records."""
        try:
            data = (self._directory / "position").read_bytes()
            segment, offset, checksum = _POSITION.unpack(data)
        except (FileNotFoundError, struct.error):
            return 0, 0
        return (segment, offset) if zlib.crc32(data[:-4]) == checksum else (0, 0)

    def _write_position(self, segment: int, offset: int) -> None:
        body = _POSITION.pack(segment, offset, 0)[:-4]
        new = self._directory / "position.new"
        with new.open("wb") as file:
            file.write(body + struct.pack("<I", zlib.crc32(body)))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._directory / "position")
        self._sync_directory()

    def _sync_directory(self) -> None:
        handle = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _pack(record: Record) -> bytes:
    """Raises ValueError for a record that is too large."""
    subject, identity = record.subject.encode(), record.id.encode()
    if max(len(subject), len(identity)) > NAME_BYTES_MAX:
        raise ValueError(f"a subject or an id of more than {NAME_BYTES_MAX} bytes")
    body = b"".join((_LENGTHS.pack(len(subject), len(identity)), subject, identity, record.payload))
    if len(body) > RECORD_BYTES_MAX:
        raise ValueError(f"a record of {len(body)} bytes, more than {RECORD_BYTES_MAX}")
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def _unpack(body: bytes) -> Record:
    subject, identity = _LENGTHS.unpack_from(body)
    start = _LENGTHS.size
    middle = start + subject
    end = middle + identity
    return Record(body[start:middle].decode(), body[middle:end].decode(), body[end:])


def _bodies(segment: _Segment, offset: int) -> Iterator[tuple[bytes, int]]:
    """The bodies of a segment's good records from an offset, each with the offset behind it."""
    with segment.path.open("rb") as file:
        file.seek(offset)
        while offset < segment.size:
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                return
            length, checksum = _HEAD.unpack(head)
            if not _LENGTHS.size <= length <= RECORD_BYTES_MAX:
                return
            body = file.read(length)
            if len(body) < length or zlib.crc32(body) != checksum:
                return
            offset += _HEAD.size + length
            yield body, offset


def _write_all(file: BinaryIO, data: bytes) -> None:
    """An unbuffered file may take only a part of what it is given."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
