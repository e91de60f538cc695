"""ingest/recorder.py: `mintline record` keeps every frame, and ends in good order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ingest.market import Market
from ingest.playback import Recording
from ingest.recorder import Recorder
from ingest.recording import MalformedLine, format_line, parse_line
from ingest.simulator import serve
from runtime.testing import eventually

WAIT_S = 10.0
SECRET = "s3cret-key"


def start(out: Path, url: str, **environ: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "ingest.recorder", "--out", str(out), "--feed", url]
    return subprocess.Popen(
        command, env={**os.environ, **environ}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_recording_holds_every_frame_and_no_key(tmp_path: Path, number: int) -> None:
    out = tmp_path / "frames.jsonl"
    async with serve(Market(4), speed=300) as simulator:
        with start(out, simulator.url, MINTLINE_INGEST_API_KEY=SECRET) as process:
            await eventually(lambda: out.exists() and out.read_bytes().count(b"\n") > 50, "frames in the file")
            process.send_signal(number)
            await eventually(lambda: process.poll() is not None, "the end")
            assert process.returncode == 0
            assert process.stderr is not None
            said = process.stderr.read()
    recorded = [parse_line(line) for line in out.read_bytes().splitlines()]
    assert f"{len(recorded)} frames" in said
    assert SECRET not in said + out.read_text()
    made = [frame.text for frame in Market(4).until(2_400 * 10**9) if not frame.is_trade]
    heard = [frame.raw for frame in recorded if "Successfully" not in frame.raw and "Subscribed" not in frame.raw]
    first = made.index(heard[0])
    assert heard == made[first : first + len(heard)]
    # what was recorded can be served again
    assert [frame.text for frame in Recording(out).until(10**18)] == [frame.raw for frame in recorded]


async def test_a_torn_last_line_is_cut_off_and_a_whole_one_kept(tmp_path: Path) -> None:
    out = tmp_path / "frames.jsonl"
    whole = format_line("one", 1) + format_line("two", 2)
    for size in range(len(whole) + 1):
        out.write_bytes(whole[:size])
        recorder = Recorder(out)
        await recorder.frame(b"three", 3)
        recorder.close()
        kept = [parse_line(line).raw for line in out.read_bytes().splitlines()]
        # a line that lacks only its end is whole
        assert kept == [*["one", "two"][: whole[: size + 1].count(b"\n")], "three"]


def test_a_file_that_is_no_recording_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "notes.txt"
    out.write_bytes(b"my notes")
    with pytest.raises(MalformedLine):
        Recorder(out)
    assert out.read_bytes() == b"my notes"


@pytest.mark.parametrize(
    ("out", "url", "status", "names"),
    [
        ("frames.jsonl", "https://x", 2, "--feed"),
        ("no/such/folder/frames.jsonl", "ws://127.0.0.1:1", 1, "No such file or directory"),
    ],
)
def test_bad_arguments_are_refused_by_name(tmp_path: Path, out: str, url: str, status: int, names: str) -> None:
    with start(tmp_path / out, url) as process:
        assert process.wait(WAIT_S) == status
        assert process.stderr is not None
        assert names in process.stderr.read()
