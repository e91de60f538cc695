"""How a process lives: settings, logs, web, bus, ready, `main`, close.

Exit status: 0 in good order, 1 crashed, 2 misconfigured.
`/livez` and `/metrics` are served from the first moment, also while the broker is away; `/readyz` once `main` says so.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from runtime import spans, telemetry, web
from runtime.bus import Bus, BusError, Unavailable
from runtime.declare import declare
from runtime.login import connection_options
from runtime.settings import Common, Settings, SettingsError, load_common, load_service
from runtime.vocabulary import LAG_BUCKETS_S, Figure, Vocabulary
from schemas.codec import encode
from schemas.events import ProcessStatus

if TYPE_CHECKING:
    from runtime.tracer import Tracer
    from runtime.tracing import Tracing

STATUS_INTERVAL_S = 1.0
BODY_BYTES_MAX = 1 << 20  # of a request to a service's own route
FINISH_S_MAX, CLOSE_S_MAX = 2.0, 2.5  # together within the 5 s that SIGTERM may take

EXIT_OK, EXIT_CRASHED, EXIT_MISCONFIGURED = 0, 1, 2

FIGURES: Vocabulary = {
    "broker_up": "Whether the process is connected to the broker",
    "process_ready": "Whether the process does its work",
    "log_records_total": Figure(
        "Records logged by level, also those below the level that is shown", {"level": tuple(telemetry.LEVELS)}
    ),
    "event_loop_lag_seconds": Figure("How late the event loop wakes up, once a second", buckets=LAG_BUCKETS_S),
    **spans.FIGURES,
}

S = TypeVar("S", bound=Settings)


class Process:
    """What a service's `main` gets: everything common, opened and closed for it.

    details: what the service has to say of its state in `/readyz`, ready or not; it keeps them up to date.
    routes: what else it answers on its port, by method and path; `main` adds them. Until the process is ready a path
        that nobody has added yet is answered with 503, so that whoever calls tries again.
    health: whether all is well, and a JSON document for people, for `/healthz`; by default that of `/readyz`.
    tracer: what its work is told to; None where tracing is off.
    """

    def __init__(self, service: str, common: Common, log: telemetry.Logger, figures: Vocabulary) -> None:
        self.service = service
        self.instance = common.instance
        self.common = common
        self.log = log
        self.figures = telemetry.Figures({**FIGURES, **figures})
        self.metrics = telemetry.Metrics(self.figures)
        log.counted = self._count_record
        self.details: dict[str, int | bool | str] = {}
        self.routes: dict[tuple[str, str], web.Handler] = {}
        self.health: Callable[[], tuple[bool, bytes]] = self._readiness
        self.stop = asyncio.Event()
        self.started_at_ns = telemetry.now_ns()
        self.bus = Bus(log.warning)
        self.tracer: Tracer | None = None
        self._tracing: Tracing | None = None
        self._ready = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failure: BaseException | None = None

    def _count_record(self, level: str) -> None:
        self.figures.add("log_records_total", level=level)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run beside `main`; a failure ends the process with status 1."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def trace(self, environ: Mapping[str, str]) -> None:
        """Switch tracing on where the environment asks for it. Raises SettingsError."""
        if not spans.wanted(environ):
            return
        from runtime.tracing import Tracing  # opentelemetry is loaded only where it is used

        self._tracing = Tracing(self, environ)
        self.tracer = self._tracing.tracer
        self.spawn(self.tracer.follow(self.bus), "traces-keep")
        self.spawn(self._tracing.report(self.figures, self.log.warning), "traces-report")
        self.spawn(self._tracing.tell_metrics(), "traces-metrics")

    def ready(self, is_ready: bool) -> None:
        if is_ready and not self._ready:
            self.log.info("ready")
        self._ready = is_ready
        self.figures.put("process_ready", int(is_ready))

    @property
    def is_ready(self) -> bool:
        return self._ready and self.bus.connected and not self.stop.is_set()

    async def pause(self, seconds: float) -> None:
        """Wait, or return at once when asked to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self.stop.wait()
        except TimeoutError:
            return

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and self._failure is None:
            self._failure = task.exception()
            self.stop.set()

    async def report(self) -> None:
        """Say once a second, on a plain subject, how things stand."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + STATUS_INTERVAL_S
            await asyncio.sleep(STATUS_INTERVAL_S)
            self.figures.observe("event_loop_lag_seconds", loop.time() - due)
            self.figures.put("broker_up", int(self.bus.connected))
            status = ProcessStatus(
                service=self.service,
                instance=self.instance,
                pid=os.getpid(),
                started_at_ns=self.started_at_ns,
                at_ns=telemetry.now_ns(),
                ready=self.is_ready,
                figures=self.figures.told(),
            )
            try:
                self.bus.tell(f"status.{self.service}.{self.instance}", encode(status))
            except Unavailable:
                continue

    def _readiness(self) -> tuple[bool, bytes]:
        answer = {"ready": self.is_ready, "broker": self.bus.connected, "details": self.details}
        return self.is_ready, msgspec.json.encode(answer)

    def health_routes(self) -> list[web.Route]:
        async def livez(_: web.Request) -> web.Response:
            return web.json({"alive": True})

        async def readyz(_: web.Request) -> web.Response:
            is_ready, answer = self._readiness()
            return web.Response(200 if is_ready else 503, answer)

        async def healthz(_: web.Request) -> web.Response:
            is_well, answer = self.health()
            return web.Response(200 if is_well else 503, answer)

        async def metrics(request: web.Request) -> web.Response:
            return web.Response(200, *self.metrics.text(request.headers.get("Accept", "")))

        async def others(request: web.Request) -> web.Response:
            handler = self.routes.get((request.method, request.path))
            if handler is not None:
                return await handler(request)
            status = 404 if self.is_ready else 503
            return web.json({"success": False, "error": f"there is nothing at {request.path[:200]}"}, status)

        return [
            web.Route("GET", "/livez", livez),
            web.Route("GET", "/readyz", readyz),
            web.Route("GET", "/healthz", healthz),
            web.Route("GET", "/metrics", metrics),
            web.Route("*", "/{rest:.*}", others),
        ]


Main = Callable[[Process, S], Awaitable[None]]


async def _until_stop(process: Process, work: Coroutine[Any, Any, Any], grace_s: float) -> bool:
    """Await work; once asked to stop, for `grace_s` longer, then cancel it. Returns whether it finished."""
    task = asyncio.create_task(work)
    stopping = asyncio.create_task(process.stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not task.done() and grace_s:
        await asyncio.wait({task}, timeout=grace_s)
    if task.done():
        task.result()
        return True
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return False


async def _main(process: Process, main: Callable[[Process], Awaitable[None]]) -> None:
    await main(process)


async def _open_bus(process: Process) -> None:
    await process.bus.open(process.common, f"mintline-{process.service}-{process.instance}")
    told = ""
    while True:
        try:
            drift = await declare(process.bus, process.common.partitions, process.common.mint_partitions)
            break
        except Unavailable as error:
            if str(error) != told:
                told = str(error)
                process.log.warning("declare_retry", reason=told)
            await asyncio.sleep(0.25)
    for difference in drift:
        process.log.warning("configuration_drift", reason=difference)


async def live(process: Process, main: Callable[[Process], Awaitable[None]], needs_broker: bool) -> int:
    """One life, from the first listening socket to the exit status."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, process.stop.set)
    server = await web.serve(
        process.health_routes(),
        process.common.http_host,
        process.common.http_port,
        on_error=lambda path, error: process.log.error("route_failed", path=path, reason=repr(error)),
        body_bytes_max=BODY_BYTES_MAX,
    )
    process.log.info("started", port=server.port, pid=os.getpid())
    reporter: asyncio.Task[None] | None = None
    try:
        reporter = asyncio.create_task(process.report())
        if not needs_broker:
            process.spawn(_open_bus(process), "open-bus")
        begun = not needs_broker or await _until_stop(process, _open_bus(process), 0)
        if begun and not await _until_stop(process, _main(process, main), FINISH_S_MAX):
            process.log.warning("cut_short", reason="main did not end in time")
    except SettingsError as error:
        print(f"mintline {process.service}: {error}", file=sys.stderr)  # noqa: T201 - as before the logger
        return EXIT_MISCONFIGURED
    except Exception as error:
        process._failure = error
    finally:
        process.stop.set()
        process.ready(False)
        await _close(process, server, reporter)
    if isinstance(process._failure, BusError):
        process.log.error("broker_refused", reason=str(process._failure))
    elif process._failure is not None:
        process.log.error("crashed", reason="".join(traceback.format_exception(process._failure))[-2000:])
    if process._failure is not None:
        return EXIT_CRASHED
    process.log.info("stopped")
    return EXIT_OK


async def _close(process: Process, server: web.Server, reporter: asyncio.Task[None] | None) -> None:
    tasks = [task for task in (*process._tasks, reporter) if task is not None]
    for task in tasks:
        task.cancel()
    try:
        async with asyncio.timeout(CLOSE_S_MAX):
            await asyncio.gather(*tasks, return_exceptions=True)
            traces = () if process._tracing is None else (process._tracing.close(),)
            await asyncio.gather(process.bus.close(), server.close(), *traces, return_exceptions=True)
    except TimeoutError:
        process.log.warning("close_timeout")


def run(service: str, main: Main[S], kind: type[S], figures: Vocabulary, *, needs_broker: bool = True) -> None:
    """Live as a service and exit. `main` returns when `process.stop` is set.

    figures: the service's vocabulary.
    needs_broker: whether `main` begins only once the broker has been reached and its streams are there.
    """
    environ = os.environ
    try:
        common = load_common(environ)
        settings = load_service(kind, service, environ)
        settings.check(common)
        connection_options(common)
        if spans.wanted(environ):
            spans.sampling(environ)
        spans.measured(environ)
    except SettingsError as error:
        print(f"mintline {service}: {error}", file=sys.stderr)  # noqa: T201 - there is no logger yet
        sys.exit(EXIT_MISCONFIGURED)
    log = telemetry.Logger(service, common.log, common.log_level)

    async def whole() -> int:
        process = Process(service, common, log, figures)
        process.trace(environ)
        return await live(process, lambda p: main(p, settings), needs_broker)

    try:
        sys.exit(asyncio.run(whole()))
    except SettingsError as error:
        print(f"mintline {service}: {error}", file=sys.stderr)  # noqa: T201 - as above
        sys.exit(EXIT_MISCONFIGURED)
    except OSError as error:
        log.error("cannot_start", reason=str(error))
        sys.exit(EXIT_CRASHED)
