"""`mintline doctor`: is the running system well? Observer's checks, by way of the broker or past it, and what can be
seen from here when nobody answers. Everything is asked at the same time and within a limit, so it ends in under 5 s."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn

import msgspec
from rich.console import Console

from observer.admin import HealthAnswer
from observer.facts import HostFacts
from observer.health.diagnosis import Diagnosis, Reached, conclude
from observer.health.diagnosis_text import text
from observer.health.limits import Thresholds
from observer.host import Host, running_s
from observer.poll import ObserverSettings
from runtime.bus import Bus, BusError, Unavailable
from runtime.login import connection_options, servers
from runtime.settings import Common, SettingsError, load_common, load_service
from runtime.standalone import fail
from runtime.telemetry import now_ns
from runtime.web import fetch
from schemas.codec import Decoder, MalformedEvent

WHOLE_S_MAX: Final = 4.3  # from the start of the process to its findings
ASK_S_MAX: Final = 2.5  # of each question, all put at once; less where the start took long
ASK_S_MIN: Final = 0.5
SUBJECT: Final = "observer.health"

_answer: Decoder[HealthAnswer] = Decoder(HealthAnswer)


class Endpoints(msgspec.Struct, frozen=True):
    """What `mintline up` wrote down of where things listen; all empty where it is not known."""

    nats: str = ""
    portal: str = ""
    observer: str = ""
    metrics: Mapping[str, str] = {}
    pids: Mapping[str, int | None] = {}


def endpoints(data_dir: Path, *, given: bool) -> Endpoints:
    """Of data_dir, or unless it was given, of its folder `demo`, too; a file whose processes are gone says nothing."""
    for place in (data_dir,) if given else (data_dir, data_dir / "demo"):
        try:
            found = msgspec.json.decode((place / "endpoints.json").read_bytes(), type=Endpoints)
        except (OSError, msgspec.DecodeError):
            continue
        if given or any(pid is not None and Path(f"/proc/{pid}").exists() for pid in found.pids.values()):
            return found
    return Endpoints()


async def examine(common: Common, limits: Thresholds, known: Endpoints, observer: str, wait_s: float) -> Diagnosis:
    """Ask everybody at once; whoever has not answered after wait_s does not answer."""
    ask = _Ask(wait_s)
    metrics = known.metrics.items()
    reaching = asyncio.gather(
        ask.port(common),
        ask.by_broker(common),
        ask.by_http(observer or known.observer),
        ask.http(known.portal, "/login"),
        *(ask.http(address.removesuffix("/metrics"), "/livez") for _, address in metrics),
    )
    host = await ask.host(Path(common.data_dir))
    broker, by_broker, by_http, portal, *lives = await reaching
    return conclude(
        now_ns(),
        limits,
        broker=broker,
        by_broker=by_broker,
        by_http=by_http,
        portal=portal if known.portal else None,
        processes={service: life for (service, _), life in zip(metrics, lives, strict=True)},
        host=host,
    )


class _Ask:
    """One question each, answered within a limit or not at all. Nothing is closed: the process ends soon after."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s

    async def port(self, common: Common) -> Reached:
        """Whether somebody listens, at one of the broker's addresses, who greets as nats-server does."""
        reached = await asyncio.gather(*(self._greeting(host, port) for host, port in servers(common)))
        why = "; ".join(each.why for each in reached)
        return next((each for each in reached if each.answer is not None), Reached(answer=None, why=why))

    async def _greeting(self, host: str, port: int) -> Reached:
        at = f"{host}:{port}"
        try:
            async with asyncio.timeout(self._wait_s):
                reader, _ = await asyncio.open_connection(host, port)
                greeting = await reader.readline()
        except TimeoutError:
            return Reached(answer=None, why=f"{at} does not answer within {self._wait_s:.1f} s")
        except (OSError, ValueError) as error:  # ValueError: a line without an end
            return Reached(answer=None, why=f"{at}: {error}")
        if greeting.startswith(b"INFO "):
            return Reached(answer=greeting, why="")
        return Reached(answer=None, why=f"{at} is no nats-server")

    async def by_broker(self, common: Common) -> Reached:
        told: list[str] = []
        bus = Bus(lambda event, **fields: told.append(str(fields.get("reason", event))))
        try:
            async with asyncio.timeout(self._wait_s):
                await bus.open(common, "mintline-doctor")
                return _health(await bus.request(SUBJECT, b"{}", self._wait_s))
        except Unavailable as error:
            return Reached(answer=None, why=str(error))
        except (BusError, TimeoutError, OSError) as error:
            return Reached(answer=None, why=told[0] if told else str(error) or "no answer")

    async def by_http(self, observer: str) -> Reached:
        if not observer:
            return Reached(answer=None, why="its address is not known (--observer)")
        found = await self.http(observer, "/healthz")
        return found if found.answer is None else _health(found.answer)

    async def http(self, base: str, path: str) -> Reached:
        try:
            async with asyncio.timeout(self._wait_s):
                _, body = await fetch(base.rstrip("/") + path, self._wait_s)
                return Reached(answer=body, why="")
        except TimeoutError:
            return Reached(answer=None, why=f"{base} does not answer within {self._wait_s:.1f} s")
        except OSError as error:
            return Reached(answer=None, why=f"{base}: {error}"[:200])

    async def host(self, data_dir: Path) -> HostFacts:
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(self._wait_s):  # a network volume may hang
                return await asyncio.to_thread(lambda: Host(data_dir).read())
        return HostFacts()


def _health(data: bytes) -> Reached:
    try:
        return Reached(answer=data, why="", health=_answer(data))
    except MalformedEvent:
        return Reached(answer=None, why="observer has no checks yet: it waits for the broker")


def cli(*, json: bool = False, data_dir: Path | None = None, observer: str = "") -> None:
    """Is the running system well? Every check with its value, limit and since when, and what to do about those that are
    not good. Exit status 0 when all are good, 1 otherwise.

    Parameters
    ----------
    json
        Print one JSON object.
    data_dir
        Of the `mintline up` that is meant, for its endpoints.json; data, then data/demo.
    observer
        Observer's own address, e.g. http://127.0.0.1:9001, which is asked when the broker does not answer.
    """
    try:
        common = load_common(os.environ)
        known = endpoints(data_dir or Path(common.data_dir), given=data_dir is not None)
        if known.nats and "MINTLINE_NATS_URL" not in os.environ:
            common = msgspec.structs.replace(common, nats_url=known.nats)
        if data_dir is not None:
            common = msgspec.structs.replace(common, data_dir=str(data_dir))
        limits = load_service(ObserverSettings, "observer", os.environ)
        limits.check(common)
        servers(common)
        connection_options(common)
    except SettingsError as error:
        fail(f"doctor: {error}", 2)
    asyncio.run(_whole(common, limits, known, observer, json))


async def _whole(common: Common, limits: Thresholds, known: Endpoints, observer: str, json: bool) -> None:
    with Console(stderr=True).status("asking the broker and the processes"):
        wait_s = min(ASK_S_MAX, max(ASK_S_MIN, WHOLE_S_MAX - running_s()))
        found = await examine(common, limits, known, observer, wait_s)
    if json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    else:
        text(found, Console())
    _leave(0 if found.success else 1)


def _leave(status: int) -> NoReturn:
    """At once: a name server or a volume that hangs keeps a thread, and an orderly exit would wait for it."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
