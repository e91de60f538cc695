"""`mintline up`: the embedded broker and the six processes on this machine, under one supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.live import Live

from runtime.bus import Bus, BusError, Unavailable
from runtime.embedded import (
    START_S_MAX,
    Child,
    StartError,
    answers,
    broker_child,
    command_child,
    free_port,
    run_once,
    write_json,
)
from runtime.logfiles import FiledLogger, LogFile
from runtime.reviving import revive
from runtime.screen import Screen, totals
from runtime.settings import SERVICES, Common, load_common
from runtime.standalone import fail
from runtime.targets import ENDPOINTS, TARGETS, targets
from runtime.telemetry import Logger
from runtime.web import fetch
from schemas import subjects

BROKER_PORT, MONITOR_PORT, PORTAL_PORT = 4222, 8222, 5001
DEMO_USERS = 200
DRAIN_S_MAX = 20.0
AUDIT_S_MAX = 120.0
STATUS_INTERVAL_S = 1.0
PLAIN_STATUS_INTERVAL_S = 10.0
POLL_S = 0.1


class Options(msgspec.Struct, frozen=True, kw_only=True):
    demo: bool
    users: int
    bots: Path | None
    feed: str
    data_dir: Path
    for_s: float
    as_json: bool
    logs: bool
    speed: float
    seed: int


class Up:
    """One run, from the first child to the last."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.shown = Logger("up", "auto", "warning" if options.as_json else "info", sys.stderr)
        self.log_files: list[LogFile] = []
        self.log: Logger = FiledLogger("up", "info", self._log_file("up"), self.shown)
        self.children: list[Child] = []
        self.stop = asyncio.Event()
        self.endpoints: dict[str, Any] = {}
        self.since_ns = time.time_ns()
        self._reviving: asyncio.Task[None] | None = None

    def environ(self, **more: str) -> dict[str, str]:
        return {
            "MINTLINE_NATS_URL": self.endpoints["nats"],
            "MINTLINE_DATA_DIR": str(self.options.data_dir),
            "MINTLINE_DEMO": "true" if self.options.demo else "false",
            "MINTLINE_LOG": "auto" if self.options.logs else "json",
            "PYTHONSAFEPATH": "1",
            **more,
        }

    async def start(self) -> None:
        """Broker, then feed, then users, then processes. Raises StartError naming what did not come up."""
        options = self.options
        port, monitor = free_port(BROKER_PORT), free_port(MONITOR_PORT)
        self.endpoints["nats"] = f"nats://127.0.0.1:{port}"
        self.endpoints["nats_monitor"] = monitor_url = f"http://127.0.0.1:{monitor}"
        broker, health = broker_child(options.data_dir / "nats", port, monitor, self.log), f"{monitor_url}/healthz"
        await self._start(broker)
        if not await answers(health, START_S_MAX):
            raise StartError(f"nats-server does not answer; see {options.data_dir / 'nats' / 'nats.log'}")
        self._reviving = asyncio.create_task(revive(broker, health, options.data_dir, self.log))
        api_key = os.environ.get("MINTLINE_INGEST_API_KEY", "")
        self.endpoints["feed"] = options.feed
        if options.demo and not options.feed:
            feed_port = free_port()
            self.endpoints["feed"] = f"ws://127.0.0.1:{feed_port}/api/data"
            api_key = api_key or "demo"
            arguments = ["--port", str(feed_port), "--speed", str(options.speed), "--seed", str(options.seed)]
            await self._start(self._python("simulator", {}, "simulate", *arguments))
        await self._enrol()
        metrics = {service: free_port() for service in SERVICES}
        portal_port = free_port(PORTAL_PORT)
        own: dict[str, dict[str, str]] = {
            "ingest": {"MINTLINE_INGEST_API_KEY": api_key},
            "observer": {"MINTLINE_OBSERVER_MONITOR_URL": self.endpoints["nats_monitor"]},
            "portal": {"MINTLINE_PORTAL_PORT": str(portal_port), "MINTLINE_PORTAL_ADMIN_TOKEN": self._admin_token()},
        }
        if self.endpoints["feed"]:
            own["ingest"]["MINTLINE_INGEST_FEED_URL"] = self.endpoints["feed"]
        for service in SERVICES:
            env = self.environ(MINTLINE_HTTP_PORT=str(metrics[service]), **own.get(service, {}))
            await self._start(self._python(service, env, service))
        self.endpoints["portal"] = f"http://localhost:{portal_port}"
        self.endpoints["observer"] = f"http://127.0.0.1:{metrics['observer']}"
        self.endpoints["metrics"] = {s: f"http://127.0.0.1:{port}/metrics" for s, port in metrics.items()}
        ready = await asyncio.gather(
            *(answers(f"http://127.0.0.1:{port}/readyz", START_S_MAX) for port in metrics.values())
        )
        late = [service for service, is_ready in zip(metrics, ready, strict=True) if not is_ready]
        if late:
            raise StartError(f"not ready within {START_S_MAX:g} s: {', '.join(late)}; see {self._log_path('*')}")
        self.write_endpoints()

    def _admin_token(self) -> str:
        """The token of the settings, or one made once and kept in data_dir/admin.token for programs to read."""
        given = os.environ.get("MINTLINE_PORTAL_ADMIN_TOKEN", "")
        path = self.options.data_dir / "admin.token"
        if given:
            return given
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_urlsafe(32) + "\n")
        return path.read_text().strip()

    def write_endpoints(self) -> None:
        self.endpoints["pids"] = {child.name: child.pid for child in self.children}
        try:
            write_json(self.options.data_dir / ENDPOINTS, self.endpoints)
            if "metrics" in self.endpoints:  # a process may die before all are up
                write_json(self.options.data_dir / TARGETS, targets(self.endpoints["metrics"]))
        except OSError as error:  # a full disk is no reason not to look after children
            self.log.error("endpoints_not_written", reason=str(error))

    def _log_path(self, name: str) -> Path:
        return self.options.data_dir / "logs" / f"{name}.log"

    def _python(self, name: str, env: Mapping[str, str], *arguments: str) -> Child:
        out = None if self.options.logs else self._log_file(name)
        return command_child(name, arguments, env, self.log, out)

    def _log_file(self, name: str) -> LogFile:
        def failed(reason: str) -> None:
            self.shown.error("log_not_written", reason=reason)

        loop = asyncio.get_running_loop()
        log = LogFile(
            self.options.data_dir / "logs", name, on_failure=failed, background=partial(loop.run_in_executor, None)
        )
        self.log_files.append(log)
        return log

    async def _start(self, child: Child) -> None:
        child.on_restart = self.write_endpoints
        self.children.append(child)
        await child.start()

    async def _enrol(self) -> None:
        options = self.options
        if options.bots is not None:
            await run_once(["enrol", "--bots", str(options.bots)], self.environ(), START_S_MAX)
        elif options.demo:
            await run_once(["enrol", "--users", str(options.users)], self.environ(), START_S_MAX)

    async def admin_link(self) -> str:
        """An address that logs the first who opens it in as admin."""
        arguments = ["link", "--base", self.endpoints["portal"]]
        return (await run_once(arguments, self.environ(), START_S_MAX)).decode().strip()

    async def drained(self) -> bool:
        """Stop the intake, then wait until every stage has done what it was given."""
        for name in ("ingest", "simulator"):
            for child in self.children:
                if child.name == name:
                    await child.stop()
        bus = Bus(self.log.warning)
        await asyncio.wait_for(bus.open(Common(nats_url=self.endpoints["nats"]), "up"), START_S_MAX)
        common = load_common(os.environ)
        due = time.monotonic() + DRAIN_S_MAX
        try:
            for consumer in subjects.consumers(common.partitions, common.mint_partitions):
                while await _waiting(bus, consumer):
                    if time.monotonic() > due:
                        return False
                    await asyncio.sleep(POLL_S)
            while await self._pending_orders():
                if time.monotonic() > due:
                    return False
                await asyncio.sleep(POLL_S)
        finally:
            await bus.close()
        return True

    async def _pending_orders(self) -> int:
        """Paper orders that have not landed; as many as one where bots does not say."""
        try:
            _, body = await fetch(self.endpoints["metrics"]["bots"], 2.0)
        except (OSError, TimeoutError):
            return 1
        found = re.search(rb"^mintline_pending_orders (\S+)", body, re.MULTILINE)
        return int(float(found.group(1))) if found else 1

    async def audit(self) -> dict[str, Any]:
        """The totals of this run, read back from the streams."""
        arguments = ["audit", "--since-ns", str(self.since_ns), "--json"]
        out = await run_once(arguments, self.environ(), AUDIT_S_MAX, good=(0, 1))
        result: dict[str, Any] = json.loads(out)
        return result

    async def close(self) -> None:
        """Intake first, the broker last; within a group, all at once. Nobody is to be asked for figures any more."""
        if self._reviving is not None:
            self._reviving.cancel()
        (self.options.data_dir / TARGETS).unlink(missing_ok=True)
        order = (("simulator", "ingest"), ("portal", "observer", "analyze"), ("dispatch",), ("bots",), ("nats-server",))
        for names in order:
            await asyncio.gather(*(child.stop() for child in self.children if child.name in names))
        for log in self.log_files:
            log.close()


async def _waiting(bus: Bus, consumer: subjects.Consumer) -> int:
    try:
        info = await bus.consumer_info(consumer.stream, consumer.name)
    except (Unavailable, BusError):
        return 1
    return int(info["num_pending"]) + int(info["num_ack_pending"])


@contextlib.contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StartError(f"another mintline runs in {data_dir}; choose another --data-dir") from None
        yield


async def _watch(up: Up, console: Console) -> None:
    """Show what happens until asked to stop or the time is over."""
    options = up.options
    due = time.monotonic() + options.for_s if options.for_s else None
    quiet = options.as_json or options.logs
    screen = Screen(up.since_ns)
    counts: dict[str, int] = {}
    live: contextlib.AbstractContextManager[Live | None] = contextlib.nullcontext()
    bus = Bus(lambda event, **fields: None)
    await asyncio.wait_for(bus.open(Common(nats_url=up.endpoints["nats"]), "mintline-up"), START_S_MAX)
    if console.is_terminal and not quiet:
        await screen.listen(bus)
        live = Live(screen.render(counts), console=console, auto_refresh=False)
    with live as shown:
        spoken = time.monotonic()
        while not up.stop.is_set() and (due is None or time.monotonic() < due):
            with contextlib.suppress(TimeoutError):
                left = STATUS_INTERVAL_S if due is None else min(STATUS_INTERVAL_S, max(0.0, due - time.monotonic()))
                async with asyncio.timeout(left):
                    await up.stop.wait()
            with contextlib.suppress(Unavailable, ValueError, KeyError):
                counts = {} if quiet else await totals(bus)
            if shown is not None:
                shown.update(screen.render(counts), refresh=True)
            elif not quiet and time.monotonic() - spoken > PLAIN_STATUS_INTERVAL_S:
                spoken = time.monotonic()
                console.print(" ".join(f"{name}={count}" for name, count in counts.items()), highlight=False)
    await bus.close()


async def _run(options: Options) -> dict[str, Any] | None:
    up = Up(options)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, up.stop.set)
    console = Console(stderr=options.as_json)
    try:
        with console.status("starting the broker and six processes …"):
            await up.start()
            link = await up.admin_link()
        console.print(f"dashboard  {up.endpoints['portal']}/admin", highlight=False)
        console.print(f"admin link (works once)  {link}", highlight=False, soft_wrap=True)
        console.print(f"broker     {up.endpoints['nats']}   endpoints  {options.data_dir / 'endpoints.json'}\n")
        await _watch(up, console)
        if not options.for_s:
            return None
        with console.status("stopping the intake and reading the streams back …"):
            drained = await up.drained()
            return {"drained": drained, **await up.audit()}
    finally:
        await up.close()


def cli(
    *,
    demo: bool = False,
    users: int = DEMO_USERS,
    bots: Path | None = None,
    feed: str = "",
    data_dir: Path | None = None,
    for_: Annotated[float, Parameter(name="--for")] = 0,
    json: bool = False,
    logs: bool = False,
    speed: float = 1.0,
    seed: int = 1,
) -> None:
    """Run everything on this machine: the embedded broker and six processes, restarted when they die.

    Parameters
    ----------
    demo
        A simulated market (unless --feed is given) and demo users with running paper bots.
    users
        How many demo users.
    bots
        Users from a file instead, a JSON line each: {"user": "1", "config": {...}}.
    feed
        Address of the feed; PumpPortal's if neither this nor --demo is given.
    data_dir
        Where streams, logs, endpoints.json and targets.json (for Prometheus) lie; data, or data/demo with --demo.
    for_
        Stop in good order after this many seconds, read the streams back and print the totals.
    json
        Print one JSON object at the end instead of a live view.
    logs
        Show the processes' logs here instead of writing them to files.
    speed
        How fast the simulated market's time runs.
    seed
        Which simulated market.
    """
    if users < 1 or users > 100_000:
        fail("up: --users: from 1 to 100000", 2)
    if bots is not None and not bots.is_file():
        fail(f"up: --bots: there is no file {bots}", 2)
    options = Options(
        demo=demo, users=users, bots=bots, feed=feed, for_s=for_, as_json=json, logs=logs, speed=speed, seed=seed,
        data_dir=(data_dir or Path("data/demo" if demo else "data")).resolve(),
    )  # fmt: skip
    try:
        with _only_one(options.data_dir):
            result = asyncio.run(_run(options))
    except (StartError, Unavailable, BusError, TimeoutError) as error:
        fail(f"up: {str(error) or type(error).__name__}", 1)
    if result is not None:
        _show(result, json)
        if result["lost"] or result["doubled"] or not result["drained"]:
            sys.exit(1)


def _show(result: Mapping[str, Any], as_json: bool) -> None:
    text = msgspec.json.encode(result).decode()
    print(text if as_json else "\n".join(f"{name:>10}  {value}" for name, value in result.items()))  # noqa: T201
