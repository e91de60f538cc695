"""ingest/spool.py: nothing acknowledged is lost, whatever byte the process died at."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ingest import spool as module
from ingest.spool import RECORD_BYTES_MAX, Record, Spool, SpoolDamaged, SpoolFull, SpoolLocked

MIB = 1 << 20


def record(n: int, payload: bytes = b"{}") -> Record:
    return Record(f"tokens.created.{n}", f"id{n}", payload)


def opened(directory: Path, **options: int) -> Spool:
    return Spool(directory, **{"bytes_max": MIB, **options})


def taken(spool: Spool, **limits: int) -> list[Record]:
    """Everything, read and committed chunk by chunk."""
    records: list[Record] = []
    while (read := spool.read(**limits)).records:
        records += read.records
        spool.commit(read)
    return records


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    one = opened(tmp_path)
    yield one
    one.close()


def test_what_goes_in_comes_out_in_order_and_only_once(spool: Spool) -> None:
    spool.append([record(1, b"\x00\xff"), record(2, b"")])
    spool.append([record(3, b"x" * 10_000)])
    assert spool.records == 3
    assert taken(spool) == [record(1, b"\x00\xff"), record(2, b""), record(3, b"x" * 10_000)]
    assert (spool.records, spool.bytes, spool.read().records) == (0, 0, ())


def test_reading_is_repeatable_until_it_is_committed(spool: Spool) -> None:
    spool.append(record(n) for n in range(5))
    assert spool.read(records_max=2) == spool.read(records_max=2)
    spool.commit(spool.read(records_max=2))
    spool.append([record(5)])
    assert [r.id for r in spool.read(records_max=2).records] == ["id2", "id3"]
    assert spool.records == 4


def test_a_read_is_bounded_in_records_and_in_bytes_but_never_empty(spool: Spool) -> None:
    spool.append(record(n, b"x" * 1_000) for n in range(10))
    assert len(spool.read(records_max=3).records) == 3
    assert len(spool.read(bytes_max=2_500).records) == 2
    assert len(spool.read(bytes_max=1).records) == 1


def test_committing_twice_is_refused(spool: Spool) -> None:
    spool.append([record(1), record(2)])
    read = spool.read(records_max=1)
    spool.commit(read)
    with pytest.raises(ValueError, match="committed already"):
        spool.commit(read)


def test_a_full_spool_refuses_whole_batches_and_takes_more_once_emptied(tmp_path: Path) -> None:
    spool = opened(tmp_path, bytes_max=10_000)
    spool.append([record(1, b"x" * 6_000)])
    with pytest.raises(SpoolFull):
        spool.append([record(2), record(3, b"x" * 6_000)])
    assert [r.id for r in taken(spool)] == ["id1"]
    spool.append([record(2), record(3, b"x" * 6_000)])
    assert spool.records == 2
    spool.close()


def test_segments_are_bounded_and_go_as_they_are_taken(tmp_path: Path) -> None:
    spool = opened(tmp_path, segment_bytes_max=1_000)
    for n in range(50):
        spool.append([record(n, b"x" * 100)])
    sizes = [path.stat().st_size for path in tmp_path.glob("*.spool")]
    assert len(sizes) > 4
    assert max(sizes) < 1_200  # a segment takes records until it has reached its size
    spool.commit(spool.read(records_max=25))
    assert len(list(tmp_path.glob("*.spool"))) < len(sizes)
    assert [r.id for r in taken(spool, records_max=7)] == [f"id{n}" for n in range(25, 50)]
    assert list(tmp_path.glob("*.spool")) == []
    spool.close()


def test_what_was_committed_stays_committed_over_a_restart(tmp_path: Path) -> None:
    first = opened(tmp_path, segment_bytes_max=200)
    first.append(record(n) for n in range(20))
    first.append(record(n) for n in range(20, 40))
    first.commit(first.read(records_max=13))
    first.close()
    second = opened(tmp_path, segment_bytes_max=200)
    assert second.records == 27
    second.append([record(40)])
    assert [r.id for r in taken(second)] == [f"id{n}" for n in range(13, 41)]
    second.close()
    third = opened(tmp_path)
    assert (third.records, third.bytes) == (0, 0)
    third.append([record(41)])  # numbering goes on behind the committed position
    third.close()
    fourth = opened(tmp_path)
    assert [r.id for r in taken(fourth)] == ["id41"]
    fourth.close()


def test_a_file_cut_at_any_byte_keeps_every_whole_record(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    spool = opened(whole)
    ends = []
    for n in range(4):
        spool.append([record(n, b"payload" * n)])
        ends.append(spool.bytes)
    spool.close()
    (path,) = whole.glob("*.spool")
    for size in range(ends[-1] + 1):
        cut = tmp_path / "cut"
        shutil.rmtree(cut, ignore_errors=True)
        shutil.copytree(whole, cut)
        os.truncate(cut / path.name, size)
        survivor = opened(cut)
        kept = sum(end <= size for end in ends)
        assert survivor.dropped == (size not in (0, *ends))
        survivor.append([record(9)])
        assert [r.id for r in taken(survivor)] == [*(f"id{n}" for n in range(kept)), "id9"]
        survivor.close()


def test_any_spoilt_byte_is_noticed(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    spool = opened(whole)
    spool.append([record(1), record(2, b"payload")])
    spool.close()
    (path,) = whole.glob("*.spool")
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        survivor = opened(whole)
        assert survivor.dropped == 1
        assert survivor.read().records in ((), (record(1),))
        survivor.close()


@pytest.mark.parametrize("size", range(20))
def test_a_torn_position_repeats_and_loses_nothing(tmp_path: Path, size: int) -> None:
    spool = opened(tmp_path)
    spool.append(record(n) for n in range(3))
    spool.commit(spool.read(records_max=1))
    spool.close()
    os.truncate(tmp_path / "position", size)
    survivor = opened(tmp_path)
    assert [r.id for r in taken(survivor)] == ["id0", "id1", "id2"]
    survivor.close()


def test_damage_while_running_is_an_error_and_no_silent_end(spool: Spool, tmp_path: Path) -> None:
    spool.append(record(n) for n in range(3))
    (path,) = tmp_path.glob("*.spool")
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(SpoolDamaged):
        spool.read()


def test_only_one_process_uses_a_directory(spool: Spool, tmp_path: Path) -> None:
    with pytest.raises(SpoolLocked):
        opened(tmp_path)
    spool.close()
    opened(tmp_path).close()


def test_a_record_that_is_too_large_is_refused(spool: Spool) -> None:
    with pytest.raises(ValueError, match="more than"):
        spool.append([record(1, b"x" * RECORD_BYTES_MAX)])
    with pytest.raises(ValueError, match="more than"):
        spool.append([Record("s" * 2_000, "id", b"")])
    assert spool.records == 0


def test_a_disk_without_room_is_a_full_spool_and_leaves_no_half_record(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.append([record(1)])

    def no_room(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module.os, "fsync", no_room)
        with pytest.raises(SpoolFull, match="No space left"):
            spool.append([record(2)])
    spool.append([record(3)])
    assert [r.id for r in taken(spool)] == ["id1", "id3"]


def test_appending_and_taking_from_two_threads_loses_nothing(tmp_path: Path) -> None:
    spool = opened(tmp_path, segment_bytes_max=100)
    count = 300
    writer = threading.Thread(target=lambda: [spool.append([record(n)]) for n in range(count)])
    writer.start()
    ids: list[str] = []
    while len(ids) < count and (writer.is_alive() or spool.records):
        ids += [r.id for r in taken(spool, records_max=3)]
    writer.join()
    assert ids == [f"id{n}" for n in range(count)]
    spool.close()


def test_a_killed_process_has_lost_nothing_it_called_safe(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from ingest.spool import Record, Spool\n"
        "spool = Spool(Path(sys.argv[1]), bytes_max=1 << 30, segment_bytes_max=4096)\n"
        "for n in range(10**9):\n"
        "    spool.append([Record('s', str(n), b'x' * (n % 300))])\n"
        "    print(n, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        for _ in range(200):
            last = int(child.stdout.readline())
        child.kill()
        last = int((child.stdout.read().splitlines() or [str(last)])[-1])
    survivor = opened(tmp_path)
    ids = [int(r.id) for r in taken(survivor)]
    assert ids == list(range(len(ids)))
    assert len(ids) >= last + 1
    survivor.close()


class LikeAList(RuleBasedStateMachine):
    """In whatever order it is used and reopened, a spool is a list whose front is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.model: list[Record] = []
        self.count = 0
        self.open()

    def teardown(self) -> None:
        self.spool.close()
        shutil.rmtree(self.directory)

    def open(self) -> None:
        self.spool = Spool(self.directory, bytes_max=5_000, segment_bytes_max=300)

    @rule(sizes=st.lists(st.integers(0, 200), max_size=5))
    def append(self, sizes: list[int]) -> None:
        records = [record(self.count + n, b"x" * size) for n, size in enumerate(sizes)]
        self.count += len(sizes)
        try:
            self.spool.append(records)
        except SpoolFull:
            assert self.spool.bytes > 2_000
        else:
            self.model += records

    @precondition(lambda self: self.model)
    @rule(records_max=st.integers(1, 10))
    def take(self, records_max: int) -> None:
        read = self.spool.read(records_max=records_max)
        assert list(read.records) == self.model[:records_max]
        self.spool.commit(read)
        del self.model[:records_max]

    @rule()
    def reopen(self) -> None:
        self.spool.close()
        self.open()

    @invariant()
    def agrees(self) -> None:
        assert self.spool.records == len(self.model)
        assert self.spool.bytes <= 5_000


TestLikeAList = LikeAList.TestCase
TestLikeAList.settings = settings(max_examples=30, deadline=None)
