"""The venue's API key shows nowhere: in no page, log, file or argument of a process, and in no error."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingest.market import Market
from ingest.simulator import Simulator, serve
from portal.enrol import enrol
from runtime.embedded import free_port
from runtime.settings import Common
from runtime.testing import Broker, Service, eventually
from schemas.config import BotConfig
from schemas.events import Strategy

PARTITIONS = 4
Make = Callable[..., Service]
NewLine = Callable[..., Any]  # the fixture's

KEY = "k3y/with+odd=signs&and%percent"
KEY_FORMS = (KEY, "k3y%2Fwith%2Bodd%3Dsigns%26and%25percent", base64.b64encode(KEY.encode()).decode())


def _holds_key(data: bytes) -> bool:
    return any(form.encode() in data for form in KEY_FORMS)


async def test_the_api_key_shows_nowhere_in_a_running_line(broker: Broker, new_line: NewLine, tmp_path: Path) -> None:
    await enrol(
        Common(nats_url=broker.url, partitions=PARTITIONS), [("one", BotConfig(strategy=Strategy.SNIPER, min_score=0))]
    )
    async with serve(Market(1), speed=20) as simulator:
        line = new_line(
            broker, MINTLINE_LOG_LEVEL="debug", MINTLINE_PORTAL_PORT="0",
            MINTLINE_INGEST_FEED_URL=simulator.url, MINTLINE_INGEST_API_KEY=KEY,
        )  # fmt: skip
        names = ("ingest", "analyze", "dispatch", "bots", "observer", "portal")
        await line.start(*names)
        await eventually(lambda: bool(simulator.subscribed), "trades, which only a key opens")
        assert simulator._talk.key == KEY
        simulator.drop()
        await eventually(lambda: simulator.connections > 1 and bool(simulator.subscribed), "the feed again")
        for name in names:
            for path in ("metrics", "readyz", "livez"):
                assert not _holds_key((await line.get(name, path))[1]), f"{name}: /{path}"
            assert not _holds_key(_arguments(_pid(line.services[name]))), f"the arguments of {name}"
        for name in names:
            line.stop(name)
    written = _files(tmp_path)
    assert {f"{name}.log" for name in names} <= {path.name for path in written}
    assert any(path.suffix == ".blk" and data for path, data in written.items())
    assert [path for path, data in written.items() if _holds_key(data)] == []


def _pid(service: Service) -> int:
    return int(next(json.loads(line)["pid"] for line in service.text().splitlines() if '"started"' in line))


def _arguments(pid: int) -> bytes:
    """A running process's arguments, as everybody on the machine sees them."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _files(directory: Path) -> dict[Path, bytes]:
    """Logs, the spool, and all that the broker stored."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


async def test_the_api_key_is_no_argument_of_a_supervised_process(service: Make, tmp_path: Path) -> None:
    data_dir = tmp_path / "up"
    endpoints = data_dir / "endpoints.json"
    up = service("runtime.commands", MINTLINE_INGEST_API_KEY=KEY)
    up.start("up", "--demo", "--users", "1", "--data-dir", str(data_dir), "--speed", "20")
    await eventually(endpoints.exists, "the line to be up", 60)
    pids = json.loads(endpoints.read_text())["pids"]
    assert len(pids) == 8  # the broker, the simulator and six processes
    assert [name for name, pid in pids.items() if _holds_key(_arguments(pid))] == []
    up.signal(signal.SIGTERM)
    assert up.wait() == 0
    assert [path for path, data in _files(tmp_path).items() if _holds_key(data)] == []


@pytest.mark.parametrize("fault", ["nobody listens", "refused", "no such name", "no TLS there", "key in the address"])
async def test_the_api_key_shows_in_no_error(fault: str, broker: Broker, new_line: NewLine, venue: Simulator) -> None:
    url = {
        "nobody listens": f"ws://127.0.0.1:{free_port()}/api/data",
        "no such name": "ws://feed.invalid/api/data",
        "no TLS there": venue.url.replace("ws://", "wss://"),
        "key in the address": f"ws://127.0.0.1:{free_port()}/api/data?api-key={KEY_FORMS[1]}",
    }.get(fault, venue.url)
    line = new_line(broker, MINTLINE_INGEST_FEED_URL=url, MINTLINE_LOG_LEVEL="debug", MINTLINE_INGEST_API_KEY=KEY)
    with venue.refusing(401) if fault == "refused" else contextlib.nullcontext():
        await line.start("ingest")
        ingest = line.services["ingest"]
        await eventually(lambda: "feed_down" in ingest.text(), "the failure to be told")
        metrics = (await line.get("ingest", "metrics"))[1]
        line.stop("ingest")
    assert not _holds_key(metrics)
    assert not _holds_key(ingest.out.read_bytes())


async def test_a_wrong_address_is_told_without_its_key(service: Make) -> None:
    started = service("ingest", MINTLINE_INGEST_FEED_URL=f"http://x/?api-key={KEY}", MINTLINE_INGEST_API_KEY=KEY)
    started.start()
    await eventually(lambda: not started.running, "the end of the process")
    assert started.wait() == 2
    assert "MINTLINE_INGEST_FEED_URL" in started.text()
    assert not _holds_key(started.out.read_bytes())
