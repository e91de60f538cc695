"""Logs on disk: whole, bounded, readable, also what a child says as it crashes."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import sys
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.commands import app
from runtime.embedded import Child
from runtime.log_lines import LINE_BYTES_MAX, Splitter, Wanted, as_text, matches, parse, parse_broker, record_line
from runtime.logfiles import FiledLogger, LogFile, older_parts
from runtime.logs_command import tails
from runtime.telemetry import Logger
from runtime.testing import eventually

NOW = "2026-11-21T15:45:01.000Z"


def record(event: str = "hello", **fields: Any) -> bytes:
    whole = {"time": NOW, "level": "info", "service": "bots", "event": event, **fields}
    return msgspec.json.encode(whole) + b"\n"


def found(folder: Path, service: str = "bots") -> list[dict[str, Any]]:
    with closing(tails(folder)[service]) as tail:
        return [each.fields for each in tail.history()]


# Lines


@given(st.lists(st.binary(max_size=200)), st.lists(st.integers(0, 400), max_size=20))
def test_lines_do_not_depend_on_how_a_pipe_cuts_them(lines: list[bytes], cuts: list[int]) -> None:
    data = b"\n".join(lines)
    whole = Splitter("bots")
    expected = whole.lines(data, NOW) + whole.end(NOW)
    pieces, begin, splitter, got = sorted(cuts), 0, Splitter("bots"), b""
    for cut in [*pieces, len(data)]:
        got += splitter.lines(data[begin:cut], NOW)
        begin = max(begin, cut)
    assert got + splitter.end(NOW) == expected
    for line in expected.splitlines():
        assert parse(line) is not None


def test_a_record_stays_as_it_is_and_anything_else_becomes_an_error() -> None:
    assert record_line(record().rstrip(), "bots", "later") == record()
    crashed = parse(record_line(b"MemoryError: \xff", "bots", NOW))
    assert crashed is not None
    assert (crashed.level, crashed.service, crashed.event, crashed.fields["text"]) == (
        "error",
        "bots",
        "output",
        "MemoryError: \ufffd",
    )
    assert record_line(b"  ", "bots", NOW) == b""


def test_a_line_without_an_end_is_cut_into_pieces() -> None:
    splitter = Splitter("bots")
    lines = splitter.lines(b"x" * (3 * LINE_BYTES_MAX + 5), NOW).splitlines()
    assert len(lines) == 3
    assert parse(splitter.end(NOW)).fields["text"] == "xxxxx"  # type: ignore[union-attr]


def test_the_brokers_own_lines_are_understood() -> None:
    line = b"[2168] 2026/11/21 15:45:01.123456 [WRN] Filestore: slow\n"
    one = parse_broker(line)
    assert one is not None
    assert (one.time, one.level, one.fields["text"]) == ("2026-11-21T15:45:01.123Z", "warning", "Filestore: slow")
    assert parse_broker(b"goroutine 1 [running]:") is None


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        (Wanted(), True),
        (Wanted(user="5"), True),
        (Wanted(user="55"), False),
        (Wanted(service="bots"), True),
        (Wanted(service="bot"), False),
        (Wanted(level="warning"), True),
        (Wanted(level="error"), False),
        (Wanted(since=NOW), True),
        (Wanted(since="2026-11-21T15:45:01.001Z"), False),
    ],
)
def test_what_is_wanted_is_shown(wanted: Wanted, shown: bool) -> None:
    one = parse(record(user="5", level="warning"))
    assert one is not None
    assert matches(one, wanted) is shown


def test_people_see_one_line_without_what_moves_a_cursor() -> None:
    one = parse(record("order_filled", user="5", symbol="a\x1b[2Jb\nc", level="warning"))
    assert one is not None
    assert as_text(one) == f"{NOW} [BOT 5] WARNING order filled symbol=a?[2Jb c"


# Files


def test_a_log_is_rotated_packed_and_bounded_and_reads_back_in_order(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs", "bots", bytes_max=1000, files_max=3)
    for number in range(200):
        log.write(record(number=number))
    parts = older_parts(tmp_path / "logs", "bots")
    assert len(parts) == 3
    assert {part.suffix for part in parts} == {".gz"}
    assert log.path.stat().st_size <= 1000
    numbers = [each["number"] for each in found(tmp_path)]
    assert numbers == list(range(numbers[0], 200))
    assert all(len(gzip.decompress(part.read_bytes())) <= 1000 for part in parts)


def test_what_an_earlier_life_left_unpacked_is_packed_and_read(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "bots.20260101T000000.000000Z.log").write_bytes(record(number=1))
    assert [each["number"] for each in found(tmp_path)] == [1]
    LogFile(folder, "bots").write(record(number=2))
    assert [part.name for part in older_parts(folder, "bots")] == ["bots.20260101T000000.000000Z.log.gz"]
    assert [each["number"] for each in found(tmp_path)] == [1, 2]


def test_a_disk_that_takes_nothing_is_told_once_and_written_again_when_it_does(tmp_path: Path) -> None:
    told: list[str] = []
    log = LogFile(tmp_path / "logs", "bots", on_failure=told.append)
    log.path.mkdir()  # nobody can write a file there
    log.write(record())
    log.write(record() * 2)
    assert len(told) == 1
    assert log.lost_lines == 3
    log.path.rmdir()
    log.write(record(number=4))
    assert [each["number"] for each in found(tmp_path)] == [4]
    assert log.lost_lines == 0


def test_a_follower_sees_every_line_once_across_rotations(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs", "bots", bytes_max=600, files_max=5)
    log.write(record(number=0))
    tail = tails(tmp_path)["bots"]
    seen = [each.fields["number"] for each in tail.history()]
    for number in range(1, 60):
        log.write(record(number=number))
        seen += [each.fields["number"] for each in tail.news()]
    tail.close()
    assert seen == list(range(60))
    assert older_parts(tmp_path / "logs", "bots"), "it was rotated"


def test_a_line_written_just_before_the_file_is_moved_away_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LogFile(tmp_path / "logs", "bots", bytes_max=150)
    log.write(record(number=0))
    tail = tails(tmp_path)["bots"]
    numbers, moved = [each.fields["number"] for each in tail.history()], tail._moved

    def late() -> bool:
        """Between reading to the end and looking whether the file is still the same one."""
        if numbers == [0]:
            with log.path.open("ab") as file:
                file.write(record(number=1))
            log.write(record(number=2))
        return moved()

    monkeypatch.setattr(tail, "_moved", late)
    for each in tail.news():
        numbers.append(each.fields["number"])
    tail.close()
    assert numbers == [0, 1, 2]


def test_half_a_line_is_shown_when_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    path = tmp_path / "logs" / "bots.log"
    path.write_bytes(record()[:20])
    tail = tails(tmp_path)["bots"]
    assert not list(tail.history())
    with path.open("ab") as file:
        file.write(record()[20:])
    assert [each.event for each in tail.news()] == ["hello"]
    tail.close()


# A child's output


def child(folder: Path, code: str, quiet: Logger) -> tuple[Child, LogFile]:
    log = LogFile(folder / "logs", "bots")
    return Child("bots", [sys.executable, "-c", code], {}, quiet, log), log


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("print('on stdout', flush=True); raise RuntimeError('of mine')", "RuntimeError: of mine"),
        (
            "import ctypes, faulthandler; faulthandler.enable(); ctypes.string_at(0)",
            "Fatal Python error: Segmentation fault",
        ),
        ("import os; os.write(1, b'x' * 300000); os.write(2, b'no line end'); os.abort()", "no line end"),
    ],
)
async def test_what_a_child_says_as_it_crashes_is_in_its_log(tmp_path: Path, code: str, text: str) -> None:
    one, _ = child(tmp_path, code, Logger("test", "json", "error"))
    await one.start()
    await eventually(lambda: one.restarts >= 1, "it died and was started again")
    await one.stop()
    lines = found(tmp_path)
    assert any(line["text"].endswith(text) for line in lines), [line["text"][-100:] for line in lines]
    assert {line["level"] for line in lines if line["text"].endswith(text)} == {"error"}
    assert {line["level"] for line in lines if line["text"] == "on stdout"} <= {"info"}


async def test_the_last_words_of_a_child_that_is_stopped_are_in_its_log(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "def bye(*_): print('good', 'bye'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, bye); print('ready', flush=True); time.sleep(60)\n"
    )
    one, log = child(tmp_path, code, Logger("test", "json", "error"))
    await one.start()
    await eventually(lambda: bool(log.path.exists() and found(tmp_path)), "it is ready")
    await one.stop()
    assert [line["text"] for line in found(tmp_path)] == ["ready", "good bye"]


async def test_no_pipe_is_left_open_when_children_come_and_go(tmp_path: Path) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    one, log = child(tmp_path, "print('x')", Logger("test", "json", "error"))
    await one.start()
    await eventually(lambda: one.restarts >= 1, "a second life")
    before = open_files()
    await eventually(lambda: one.restarts >= 3, "a fourth life")
    assert open_files() <= before + 6  # one life more or less is open at any moment
    await one.stop()
    log.close()
    await asyncio.sleep(0)


def test_the_supervisors_own_words_are_filed_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = LogFile(tmp_path / "logs", "up")
    logger = FiledLogger("up", "info", log, Logger("up", "json", "warning", sys.stderr))
    logger.info("quiet", child="bots")
    logger.warning("child_died", child="bots")
    assert [each["event"] for each in found(tmp_path, "up")] == ["quiet", "child_died"]
    assert "child_died" in capsys.readouterr().err


# The command


class Ran(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run(folder: Path, *arguments: str) -> Ran:
    """`mintline logs` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            app(["logs", "--data-dir", str(folder), *arguments])
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
    return Ran(status, out.getvalue(), err.getvalue())


def test_the_command_merges_services_by_time_and_filters(tmp_path: Path) -> None:
    for service, second, more in (
        ("bots", 3, {"user": "5"}),
        ("ingest", 1, {}),
        ("bots", 5, {"level": "error"}),
        ("ingest", 4, {}),
    ):
        log = LogFile(tmp_path / "logs", service)
        log.write(record(f"event_{second}", time=f"2026-11-21T15:45:0{second}.000Z", service=service, **more))
    (tmp_path / "nats").mkdir()
    (tmp_path / "nats" / "nats.log").write_text("[1] 2026/11/21 15:45:02.000000 [INF] Server is ready\n")
    out = run(tmp_path)
    assert [line.split()[0][17:19] for line in out.stdout.splitlines()] == ["01", "02", "03", "04", "05"]
    assert "[BOT 5] event 3" in out.stdout
    assert "[NATS-SERVER] Server is ready" in out.stdout
    assert [json.loads(line)["event"] for line in run(tmp_path, "--user", "5", "--json").stdout.splitlines()] == [
        "event_3"
    ]
    assert "event 5" in run(tmp_path, "--level", "error").stdout
    assert run(tmp_path, "--service", "ingest", "--since", "2026-11-21T15:45:02Z").stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--level", "loud"), 2, "--level"),
        (("--since", "noon"), 2, "--since"),
        (("--user", "a b"), 2, "--user"),
        (("--service", "nobody"), 2, "there are: bots"),
    ],
)
def test_a_bad_argument_is_named(tmp_path: Path, arguments: tuple[str, ...], status: int, words: str) -> None:
    LogFile(tmp_path / "logs", "bots").write(record())
    out = run(tmp_path, *arguments)
    assert out.returncode == status
    assert words in out.stderr


def test_a_folder_without_logs_is_said(tmp_path: Path) -> None:
    out = run(tmp_path)
    assert out.returncode == 1
    assert "mintline up" in out.stderr


async def test_following_shows_lines_as_they_come(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs", "bots")
    log.write(record("before"))
    following = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "runtime.commands", "logs", "--data-dir", str(tmp_path), "--follow",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert following.stdout is not None
    try:
        async with asyncio.timeout(20):
            assert b"before" in await following.stdout.readline()
            log.write(record("after"))
            assert b"after" in await following.stdout.readline()
            LogFile(tmp_path / "logs", "ingest").write(record("another", service="ingest"))
            assert b"another" in await following.stdout.readline()
    finally:
        following.terminate()
        await following.wait()


def test_every_record_is_counted_by_level_also_one_that_is_not_shown() -> None:
    counted: list[str] = []
    logger = Logger("bots", "json", "error")
    logger.counted = counted.append
    logger.info("a")
    logger.error("b")
    assert counted == ["info", "error"]
