"""kill -9 under load: the whole line as a newcomer starts it, killed piece by piece, then read back."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.testing import Service, eventually
from runtime.web import fetch

USERS = 200
SPEED = 40  # of the market: some fifteen tokens a second, each to many users
RUN_S = 25
START_S_MAX = 60.0
END_S_MAX = 120.0


class Line:
    """`mintline up --demo` as a child, and what it wrote about itself."""

    def __init__(self, data_dir: Path, log: Path) -> None:
        self._data_dir = data_dir
        self._service = Service("runtime.commands", log, MINTLINE_CANARY_INTERVAL_S="0.5")

    def start(self, *more: str) -> None:
        self._service.start(
            "up", "--demo", "--users", str(USERS), "--speed", str(SPEED), "--data-dir", str(self._data_dir), *more
        )

    def endpoints(self) -> dict[str, Any]:
        path = self._data_dir / "endpoints.json"
        return json.loads(path.read_text()) if path.exists() else {}

    async def started(self) -> None:
        await eventually(lambda: bool(self.endpoints()), "the line to be up", START_S_MAX)

    async def messages(self, stream: str) -> int | None:
        """None while a broker that has just been started has not said yet."""
        try:
            _, body = await fetch(f"{self.endpoints()['nats_monitor']}/jsz?streams=1", 5.0)
        except (OSError, TimeoutError):
            return None
        accounts = json.loads(body).get("account_details") or [{}]
        found = {s["name"]: int(s["state"]["messages"]) for s in accounts[0].get("stream_detail") or []}
        return found.get(stream)

    async def grown(self, stream: str, by: int) -> None:
        """Wait until a stream has grown, i.e. the line is at work."""
        before: int | None = None

        async def enough() -> bool:
            nonlocal before
            now = await self.messages(stream)
            before = now if before is None else before
            return now is not None and before is not None and now >= before + by

        await eventually(enough, f"{by} more messages in {stream}", START_S_MAX)

    def pid(self, name: str) -> int:
        return int(self.endpoints()["pids"][name] or 0)

    async def kill(self, name: str) -> None:
        """kill -9 one process, and wait until the supervisor has another."""
        before = self.pid(name)
        os.kill(before, signal.SIGKILL)
        await eventually(lambda: self.pid(name) not in (0, before), f"another {name}", START_S_MAX)

    def result(self) -> dict[str, Any]:
        self._service.wait(END_S_MAX)
        lines = self._service.text().strip().splitlines()
        found = [line for line in lines if line.startswith("{") and '"lost"' in line]
        assert found, self._service.text()
        return json.loads(found[-1])

    def stop(self) -> None:
        if self._service.running:
            self._service.signal(signal.SIGTERM)
            self._service.wait(END_S_MAX)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path / "line", tmp_path / "up.log")
    yield made
    made.stop()


@pytest.mark.parametrize("victim", ["analyze", "dispatch", "bots"])
async def test_killing_a_stage_under_load_loses_and_doubles_nothing(line: Line, victim: str) -> None:
    line.start("--for", str(RUN_S), "--json")
    await line.started()
    for _ in range(2):
        await line.grown("FILLS", 300)
        await line.kill(victim)
    result = line.result()
    assert result["drained"]
    assert result["signals"] > 1000, result
    assert (result["lost"], result["doubled"]) == (0, 0), result


async def test_killing_the_broker_and_the_feed_s_reader_loses_and_doubles_nothing(line: Line) -> None:
    line.start("--for", str(RUN_S), "--json")
    await line.started()
    await line.grown("FILLS", 300)
    await line.kill("nats-server")
    await line.grown("FILLS", 300)
    await line.kill("ingest")
    result = line.result()
    assert result["drained"]
    assert (result["lost"], result["doubled"]) == (0, 0), result


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
async def test_children_do_not_outlive_a_killed_supervisor(line: Line) -> None:
    line.start()
    await line.started()
    pids = [pid for pid in line.endpoints()["pids"].values() if pid]
    line._service.kill()
    await eventually(lambda: not any(_alive(pid) for pid in pids), "the end of all children", START_S_MAX)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
