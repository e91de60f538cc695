"""mintline doctor and mintline lag as people run them, against real processes and a real broker, well and sick."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from observer.admin import HealthAnswer
from observer.facts import HostFacts
from observer.health.checks import Row
from observer.health.diagnosis import Reached, conclude
from observer.health.doctor import ASK_S_MAX, WHOLE_S_MAX, endpoints
from observer.health.levels import Level
from observer.health.limits import Thresholds
from observer.health.remedies import remedy
from observer.health.verdict import Status, checked
from runtime.bus import Bus
from runtime.embedded import free_port
from runtime.settings import Common
from runtime.testing import Broker, Service, eventually
from schemas.codec import encode

PARTITIONS = "4"  # as the `bus` fixture declares
SERVICES = ("ingest", "analyze", "dispatch", "bots", "observer", "portal")
END_S_MAX = 180  # for a machine that is busy with other tests; printed below is what it took

Make = Callable[..., Service]

# The machine that runs the tests may be busy or full; that is not what is looked at here.
LENIENT = {
    f"MINTLINE_OBSERVER_{name}_PERCENT_{end}": "100"
    for name in ("CPU", "MEMORY", "DISK", "STALLED_MEMORY", "STALLED_IO")
    for end in ("MAX", "CRITICAL")
}


class Ran:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    def levels(self, *names: str) -> list[str]:
        return [self.json["checks"][name]["level"] for name in names]


async def run(command: str, *arguments: str, **environ: str) -> Ran:
    """`mintline <command> …`, to its end."""
    begun = time.monotonic()
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "runtime.commands", command, *arguments], capture_output=True, text=True,
        env={**os.environ, "PYTHONSAFEPATH": "1", "COLUMNS": "150", **environ}, timeout=END_S_MAX, check=False,
    )  # fmt: skip
    print(f"mintline {command}: status {done.returncode} after {time.monotonic() - begun:.1f} s")
    return Ran(done.returncode, done.stdout, done.stderr)


class System:
    """Processes beside a broker, and the endpoints.json that `mintline up` would write."""

    def __init__(self, make: Make, broker: Broker, data: Path, **environ: str) -> None:
        self.data = data
        self.broker = broker
        self.services: dict[str, Service] = {}
        self._make = make
        self._ports: dict[str, int] = {}
        self._environ = {
            "MINTLINE_NATS_URL": broker.url,
            "MINTLINE_PARTITIONS": PARTITIONS,
            "MINTLINE_DATA_DIR": str(data),
            "MINTLINE_OBSERVER_POLL_INTERVAL_S": "0.2",
            **LENIENT,
            **environ,
        }

    def start(self, name: str, *arguments: str, module: str = "", **environ: str) -> Service:
        port = self._ports[name] = free_port()
        own = {"MINTLINE_HTTP_PORT": str(port), **environ}
        service = self.services[name] = self._make(module or name, **{**self._environ, **own})
        service.start(*arguments)
        self._write()
        return service

    def _write(self) -> None:
        at = {name: f"http://127.0.0.1:{port}" for name, port in self._ports.items() if name in SERVICES}
        found = {
            "nats": self.broker.url,
            "observer": at.get("observer", ""),
            "metrics": {name: f"{address}/metrics" for name, address in at.items()},
            "pids": {name: service.pid for name, service in self.services.items()},
        }
        self.data.mkdir(parents=True, exist_ok=True)
        (self.data / "endpoints.json").write_text(json.dumps(found))

    async def doctor(self, *arguments: str) -> Ran:
        return await run("doctor", "--data-dir", str(self.data), *arguments, **LENIENT)

    async def becomes(self, what: str, is_so: Callable[[Ran], bool]) -> Ran:
        """The doctor's findings, as soon as they are so."""
        found: list[Ran] = []

        async def asked() -> bool:
            found[:] = [await self.doctor("--json")]
            return bool(found[0].out) and is_so(found[0])

        try:
            await eventually(asked, what, within_s=90)
        except AssertionError as error:
            bad = {n: c for n, c in found[0].json["checks"].items() if not c["ok"]} if found and found[0].out else found
            raise AssertionError(f"{error}: {bad}") from error
        return found[0]


async def test_a_healthy_system_is_good_and_a_feed_that_falls_silent_is_found(
    bus: Bus, broker: Broker, service: Make, tmp_path: Path
) -> None:
    port = free_port()
    system = System(
        service, broker, tmp_path / "data",
        MINTLINE_INGEST_FEED_URL=f"ws://127.0.0.1:{port}/api/data", MINTLINE_INGEST_API_KEY="demo",
        MINTLINE_DEMO="true", MINTLINE_PORTAL_PORT=str(free_port()), MINTLINE_OBSERVER_FEED_SILENCE_S_MAX="2",
    )  # fmt: skip
    simulator = system.start("simulate", "simulate", "--port", str(port), "--speed", "10", module="runtime.commands")
    for name in SERVICES:
        system.start(name)
    assert (await run("enrol", "--users", "5", MINTLINE_NATS_URL=broker.url)).status == 0
    well = await system.becomes("all to be good", lambda ran: ran.status == 0)
    assert well.json["status"] == "healthy"
    assert well.json["source"] == "broker"
    assert well.json["active_bots"] == 5
    assert well.json["checks"]["bots_in_step"]["value"] == 0
    assert well.json["remedies"] == {}
    simulator.kill()
    sick = await system.becomes("the feed to be missed", lambda ran: ran.json["checks"]["feed_silence"]["ok"] is False)
    assert sick.status == 1
    assert sick.levels("feed_running", "feed_silence") == ["critical", "warning"]
    assert sick.json["status"] == "unhealthy"
    assert {"feed_running", "feed_silence"} <= sick.json["remedies"].keys()
    told = await system.doctor()
    print(told.out)
    assert told.status == 1
    assert "feed_silence: See whether the venue itself is silent" in told.out


async def test_without_a_broker_it_says_so_and_asks_past_it(
    bus: Bus, broker: Broker, service: Make, tmp_path: Path
) -> None:
    system = System(service, broker, tmp_path / "data")
    observer = system.start("observer")
    await system.becomes("observer to answer", lambda ran: ran.json["source"] == "broker")
    with broker.frozen():
        frozen = await system.becomes("http", lambda ran: ran.json["source"] == "http")
        assert frozen.levels("broker_reachable") == ["critical"]
        assert "does not answer within" in frozen.json["checks"]["broker_reachable"]["reason"]
    with broker.stopped():
        stopped = await system.becomes(
            "the broker's end", lambda ran: ran.json["checks"]["broker"]["level"] == "critical"
        )
        assert (stopped.status, stopped.json["status"], stopped.json["source"]) == (1, "unhealthy", "http")
        assert stopped.levels("broker_reachable", "observer_reachable") == ["critical", "good"]
        assert stopped.json["checks"]["lag_bots"]["value"] is None
        assert "lag_bots" not in stopped.json["remedies"]  # it follows from the broker
        told = await system.doctor()
        print(told.out)
        assert "broker_reachable: Start nats-server" in told.out
        observer.kill()
        alone = await system.doctor("--json")
        assert (alone.status, alone.json["source"]) == (1, "none")
        assert alone.levels("broker_reachable", "observer_reachable", "disk", "memory") == [
            "critical", "critical", "good", "good",
        ]  # fmt: skip
        assert alone.json["checks"]["processes_reachable"]["value"] == 1


async def test_a_full_disk_is_critical_and_the_line_unhealthy(
    bus: Bus, broker: Broker, service: Make, tmp_path: Path
) -> None:
    system = System(service, broker, tmp_path / "data")
    system.start("observer", MINTLINE_OBSERVER_DISK_PERCENT_MAX="0", MINTLINE_OBSERVER_DISK_PERCENT_CRITICAL="0")
    full = await system.becomes("the disk to be judged", lambda ran: "cpu" in ran.json["checks"])
    assert (full.status, full.levels("disk"), full.json["status"]) == (1, ["critical"], "unhealthy")
    assert full.json["remedies"]["disk"].startswith("Make room")


def fill(disk: Path, percent: float) -> None:
    """So much of a file system is used, by one file more or less."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    usage = psutil.disk_usage(str(disk))
    filler.write_bytes(bytes(int(usage.total * percent / 100) - usage.used))


async def test_a_small_disk_that_fills_is_a_warning_and_then_critical_with_value_and_limit(
    bus: Bus, broker: Broker, service: Make, small_disk: Path
) -> None:
    system = System(service, broker, small_disk / "data")
    system.start("observer", MINTLINE_OBSERVER_DISK_PERCENT_MAX="90", MINTLINE_OBSERVER_DISK_PERCENT_CRITICAL="95")
    for percent, level in ((50, "good"), (93, "warning"), (98, "critical"), (50, "good")):
        fill(small_disk, percent)

        def seen(ran: Ran, percent: float = percent) -> bool:
            checks = ran.json["checks"]  # observer's, with its limits, and not what doctor sees by itself
            return checks["observer_reachable"]["ok"] and abs((checks["disk"]["value"] or 0) - percent) < 1

        found = await system.becomes(f"{percent} % to be seen", seen)
        disk = found.json["checks"]["disk"]
        assert disk["level"] == level
        assert (disk["limit"], disk["critical"], disk["unit"]) == (90.0, 95.0, "%")
        assert disk["ok"] is (level == "good")
        assert found.status == 1  # also while the disk is good: other processes are missing
        assert ("disk" in found.json["remedies"]) == (level != "good")


async def test_why_stands_in_the_table_where_there_is_room_and_else_before_the_remedy() -> None:
    nobody = {"MINTLINE_NATS_URL": "nats://127.0.0.1:1"}
    wide, narrow = await run("doctor", COLUMNS="150", **nobody), await run("doctor", COLUMNS="80", **nobody)
    assert (wide.out.splitlines()[0].split()[-1], narrow.out.splitlines()[0].split()[-1]) == ("why", "since")
    assert "broker_reachable: Start nats-server" in wide.out
    assert "broker_reachable: 127.0.0.1:1: " in narrow.out
    assert "Connect call failed" in wide.out.partition("unhealthy: ")[0]


async def test_a_setting_that_cannot_be_used_is_named_with_status_two() -> None:
    bad = await run("doctor", MINTLINE_OBSERVER_DISK_PERCENT_CRITICAL="80")
    assert (bad.status, bad.out) == (2, "")
    assert "MINTLINE_OBSERVER_DISK_PERCENT_CRITICAL" in bad.err
    assert (await run("doctor", MINTLINE_NATS_URL="nats://")).status == 2


async def test_lag_is_told_in_messages_and_in_seconds(bus: Bus, broker: Broker) -> None:
    for number in range(3):
        await bus.publish(f"tokens.created.mint{number}", b"{}")
    await asyncio.sleep(0)
    at_ns = time.time_ns()
    await eventually(lambda: time.time_ns() - at_ns > 200_000_000, "a moment to pass")
    ran = await run("lag", "--json", MINTLINE_NATS_URL=broker.url, MINTLINE_PARTITIONS=PARTITIONS)
    assert ran.status == 0
    streams = {stream["name"]: stream for stream in ran.json["streams"]}
    (analyze,) = streams["TOKENS"]["consumers"]
    assert (analyze["name"], analyze["lag"], analyze["unacked"], analyze["waiting"]) == ("analyze", 3, 0, 0)
    assert analyze["lag_seconds"] >= 0.2
    assert [c["name"] for c in streams["SIGNALS"]["consumers"]] == ["p0", "p1", "p2", "p3"]
    assert {c["lag"] for c in streams["SIGNALS"]["consumers"]} == {0}
    shown = await run("lag", MINTLINE_NATS_URL=broker.url)
    assert "analyze" in shown.out
    with broker.stopped():
        gone = await run("lag", MINTLINE_NATS_URL=broker.url)
        assert (gone.status, gone.out) == (1, "")
        assert "the broker does not answer" in gone.err


# What it says of what it learned


NOW = 1_795_000_000_000_000_000
YES, NO = Reached(answer=b"", why=""), Reached(answer=None, why="nobody is there")


def told(level: Level = Level.GOOD, status: Status = Status.HEALTHY) -> Reached:
    check = checked(Row(value=1, limit=1, level=level), None, NOW)
    health = HealthAnswer(success=True, status=status, active_bots=7, checks={"cpu": check})
    return Reached(answer=b"", why="", health=msgspec.json.decode(encode(health), type=HealthAnswer))


def concluded(**changes: Any) -> Any:
    given: dict[str, Any] = {
        "broker": YES, "by_broker": told(), "by_http": NO, "portal": YES, "processes": {"bots": YES},
        "host": HostFacts(memory_percent=1.0, disk_percent=1.0),
    }  # fmt: skip
    return conclude(NOW, Thresholds(), **{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "source", "status", "bad"),
    [
        ({}, "broker", Status.HEALTHY, set()),
        # a port that greets in TLS alone says nothing to us, but observer was reached through it
        ({"broker": NO}, "broker", Status.HEALTHY, set()),
        ({"by_broker": told(Level.WARNING, Status.DEGRADED)}, "broker", Status.DEGRADED, {"cpu"}),
        ({"portal": NO}, "broker", Status.DEGRADED, {"portal_reachable"}),
        ({"portal": None, "processes": {}}, "broker", Status.HEALTHY, set()),
        ({"processes": {"bots": NO, "portal": YES}}, "broker", Status.DEGRADED, {"processes_reachable"}),
        ({"broker": NO, "by_broker": NO, "by_http": told()}, "http", Status.UNHEALTHY, {"broker_reachable"}),
        ({"by_broker": NO}, "none", Status.UNHEALTHY, {"observer_reachable"}),
        (
            {"by_broker": NO, "host": HostFacts(disk_percent=99.0)},
            "none", Status.UNHEALTHY, {"observer_reachable", "disk", "memory"},
        ),
    ],
)  # fmt: skip
def test_the_worst_that_was_found_decides(changes: dict[str, Any], source: str, status: Status, bad: set[str]) -> None:
    found = concluded(**changes)
    assert (found.source, found.status, found.success) == (source, status, not bad)
    assert {name for name, check in found.checks.items() if not check.ok} == bad == found.remedies.keys()


def test_every_check_has_a_remedy() -> None:
    names = {
        "broker", "feed_running", "feed_silence", "tokens_per_minute", "decisions_overdue", "fills_overdue", "cpu",
        "memory", "disk", "stalled_memory", "stalled_io",
        "process_bots", "lag_bots", "ack_saturation", "not_fetching", "stream_room", "replay_window",
        "bots_in_step", "backup_age", "backup_unverified", "secrets_store", "feed_budget", *concluded().checks,
    }  # fmt: skip
    assert {name for name in names if remedy(name) == remedy("")} == set()


async def test_when_everything_hangs_all_are_asked_at_the_same_time_and_none_for_longer_than_its_limit(
    tmp_path: Path,
) -> None:
    now = most = 0

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        try:
            while await reader.read(1 << 16):
                pass
        except OSError:
            pass  # reset
        finally:
            now -= 1
            writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    at = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    listening = {
        "portal": f"http://{at}", "observer": f"http://{at}", "metrics": dict.fromkeys(SERVICES, f"http://{at}/metrics")
    }  # fmt: skip
    (tmp_path / "endpoints.json").write_text(json.dumps(listening))
    ran = await run("doctor", "--json", "--data-dir", str(tmp_path), MINTLINE_NATS_URL=",".join([f"nats://{at}"] * 3))
    assert most == 3 + 1 + 1 + 1 + len(SERVICES)  # ports, the broker's client, observer, portal, processes
    assert (ran.status, ran.json["source"], ran.json["status"]) == (1, "none", "unhealthy")
    assert ran.json["checks"]["broker_reachable"]["reason"].count("does not answer within") == 3
    assert ran.json["checks"]["processes_reachable"]["value"] == len(SERVICES)
    assert ASK_S_MAX < WHOLE_S_MAX < 5
    server.close()


def test_endpoints_of_processes_that_are_gone_say_nothing_unless_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    for place, pid in ((tmp_path, 4_194_304 + 1), (tmp_path / "demo", os.getpid())):
        (place / "endpoints.json").write_text(json.dumps({"nats": f"nats://{place.name}", "pids": {"bots": pid}}))
    assert endpoints(tmp_path, given=False).nats == "nats://demo"
    assert endpoints(tmp_path, given=True).nats == f"nats://{tmp_path.name}"
    assert endpoints(tmp_path / "nowhere", given=True).nats == ""
    (tmp_path / "endpoints.json").write_text("not json")
    assert endpoints(tmp_path, given=True).nats == ""


def test_addresses_of_the_broker_are_read() -> None:
    from runtime.login import servers

    assert servers(Common(nats_url="nats://a:1,tls://u:p@b, c:3")) == [("a", 1), ("b", 4222), ("c", 3)]
