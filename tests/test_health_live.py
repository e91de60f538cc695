"""Observer's checks as a real process: dependencies that hang, bots out of step, and what survives a restart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from observer.health.levels import Level
from observer.health.recall import YOUNG_S, Recall
from observer.health.verdict import Check, Status, Verdict
from runtime import buckets, web
from runtime.bus import Bus, Unavailable
from runtime.embedded import free_port
from runtime.testing import Broker, Service, eventually
from schemas.codec import encode
from schemas.config import BotConfig, BotWanted, Wanted
from schemas.events import Strategy

PARTITIONS = "4"  # as the `bus` fixture declares

Make = Callable[..., Service]


@pytest.fixture
def environ(broker: Broker) -> dict[str, str]:
    return {
        "MINTLINE_NATS_URL": broker.url,
        "MINTLINE_PARTITIONS": PARTITIONS,
        "MINTLINE_OBSERVER_POLL_INTERVAL_S": "0.2",
    }


async def checks(bus: Bus) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(await bus.request("observer.health", b"{}", 2.0))["checks"]
    except Unavailable:
        return {}
    return found


async def becomes(bus: Bus, name: str, level: str, reason: str = "") -> dict[str, Any]:
    """A check, as soon as it has this level and says this."""
    found: dict[str, Any] = {}

    async def so() -> bool:
        found.clear()
        found.update((await checks(bus)).get(name, {}))
        return found.get("level") == level and reason in found["reason"]

    try:
        await eventually(so, f"{name} to be {level}", within_s=40)
    except AssertionError as error:
        raise AssertionError(f"{error}: {found}") from error
    return found


@contextlib.asynccontextmanager
async def vault() -> AsyncIterator[tuple[str, list[int]]]:
    """A Vault that answers with the status code in the list, and its address."""
    status = [200]

    async def health(_: web.Request) -> web.Response:
        return web.json({"sealed": False}, status[0])

    server = await web.serve([web.Route("GET", "/v1/sys/health", health)], "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.port}", status
    finally:
        await server.close()


async def test_each_of_vaults_answers_is_graded(bus: Bus, service: Make, environ: dict[str, str]) -> None:
    async with vault() as (address, status):
        service("observer", **environ, MINTLINE_OBSERVER_VAULT_URL=address).start()
        for code, level, reason in (
            (200, "good", "active"), (503, "critical", "sealed"), (473, "good", "performance"),
            (501, "critical", "initialised"), (429, "good", "standing by"), (472, "warning", "secondary"),
            (404, "unknown", "404"),
        ):  # fmt: skip
            status[0] = code
            assert (await becomes(bus, "secrets_store", level, reason))["value"] == code


async def test_a_vault_that_hangs_is_unknown_with_its_reason_and_holds_nothing_up(
    bus: Bus, service: Make, environ: dict[str, str]
) -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    service("observer", **environ, MINTLINE_OBSERVER_VAULT_URL=address).start()
    found = await becomes(bus, "secrets_store", "unknown", "no answer within 2 s")
    assert found["value"] is None
    assert (await becomes(bus, "stream_room", "good"))["value"] is not None  # asked beside it
    server.close()
    await becomes(bus, "secrets_store", "unknown", "cannot be reached")


async def test_a_broker_that_cannot_write_says_so_in_its_own_words(
    bus: Bus, service: Make, environ: dict[str, str]
) -> None:
    answer: list[tuple[str, int]] = [("ok", 200)]

    async def health(_: web.Request) -> web.Response:
        said, status = answer[0]
        return web.json({"status": said, "error": "" if status == 200 else said}, status)

    server = await web.serve([web.Route("GET", "/healthz", health)], "127.0.0.1", 0)
    service("observer", **environ, MINTLINE_OBSERVER_MONITOR_URL=f"http://127.0.0.1:{server.port}").start()
    assert (await becomes(bus, "broker_health", "good"))["value"] is True
    answer[0] = ("stream 'FILLS' write error: no space left on device", 503)
    assert (await becomes(bus, "broker_health", "critical", "FILLS' write error"))["value"] is False
    await server.close()
    assert (await becomes(bus, "broker_health", "unknown", "cannot be reached"))["value"] is None


async def want(bus: Bus, key: str, user: str = "", wanted: Wanted = Wanted.RUNNING) -> None:
    config = BotConfig(strategy=Strategy.SNIPER)
    bot = BotWanted(user=user or key, wanted=wanted, config=config, changed_at_ns=time.time_ns())
    await buckets.put(bus, "bots", key, encode(bot))


async def test_users_whose_bot_is_not_as_it_is_wanted_are_named(
    bus: Bus, service: Make, environ: dict[str, str]
) -> None:
    for user in ("1", "2", "3"):
        await want(bus, user)
    for name in ("dispatch", "bots", "observer"):
        service(name, **environ).start()
    assert (await becomes(bus, "bots_in_step", "good"))["value"] == 0
    await want(bus, "4", user="other")  # under another user's key: dispatch leaves it out
    found = await becomes(bus, "bots_in_step", "warning")
    assert found["value"] == 1
    assert found["names"]["wanted_not_in_dispatch"] == ["4"]
    assert "wanted not in dispatch: 4" in found["reason"]
    await want(bus, "4", wanted=Wanted.STOPPED)
    await want(bus, "1", wanted=Wanted.STOPPED)
    assert (await becomes(bus, "bots_in_step", "good"))["value"] == 0


async def test_bots_that_do_not_say_whom_they_run_are_unknown_and_not_in_step(
    bus: Bus, service: Make, environ: dict[str, str]
) -> None:
    await want(bus, "1")
    service("dispatch", **environ).start()
    service("observer", **environ).start()
    found = await becomes(bus, "bots_in_step", "unknown", "bots.0, bots.1")
    assert found["value"] is None
    service("bots", **environ).start()
    await becomes(bus, "bots_in_step", "good")


async def test_what_nobody_fetches_and_since_when_survives_a_kill_of_observer(
    bus: Bus, service: Make, environ: dict[str, str]
) -> None:
    limits = {"MINTLINE_OBSERVER_STALL_S_MAX": "1", "MINTLINE_OBSERVER_LAG_S_MAX": "1"}
    observer = service("observer", **environ, **limits)
    observer.start()
    await becomes(bus, "not_fetching", "good")
    await bus.publish("tokens.created.mint0", b"{}")  # and there is no analyze
    idle = await becomes(bus, "not_fetching", "warning", "analyze of TOKENS")
    before = await becomes(bus, "lag_analyze", "warning", "1 messages of TOKENS")
    assert idle["value"] >= 2

    async def kept() -> bool:
        entry = await buckets.get(bus, "checks", "verdict")
        return entry is not None and json.loads(entry.data)["checks"]["lag_analyze"]["since"] == before["since"]

    await eventually(kept, "the verdict to be stored")
    observer.kill()
    observer.start()
    assert (await becomes(bus, "lag_analyze", "warning"))["since"] == before["since"]


async def test_health_is_served_past_the_broker_for_people(
    bus: Bus, broker: Broker, service: Make, environ: dict[str, str]
) -> None:
    port = free_port()
    service("observer", **environ, MINTLINE_HTTP_PORT=str(port)).start()
    await becomes(bus, "broker", "good")
    with broker.stopped():

        async def told() -> bool:
            status, body = await web.fetch(f"http://127.0.0.1:{port}/healthz", 5.0)
            return status == 503 and json.loads(body)["checks"]["broker"]["level"] == "critical"

        await eventually(told, "observer to say that the broker is away")
        status, _ = await web.fetch(f"http://127.0.0.1:{port}/livez", 5.0)
        assert status == 200  # no probe restarts it for that


# What a restart makes of a verdict


def verdict(level: Level, since: str) -> Verdict:
    check = Check(ok=level is Level.GOOD, value=1, limit=1, unit="", since=since, level=level)
    return Verdict(status=Status.HEALTHY, checks={"cpu": check})


async def test_what_is_not_known_yet_after_a_start_changes_nothing(bus: Bus) -> None:
    recall = Recall(bus)
    assert recall.note(verdict(Level.GOOD, "a"), 0) == {}
    assert recall.note(verdict(Level.UNKNOWN, "b"), YOUNG_S - 1) == {}
    assert recall.before is not None
    assert recall.before.checks["cpu"].since == "a"
    assert list(recall.note(verdict(Level.UNKNOWN, "c"), YOUNG_S)) == ["cpu"]
    assert recall.before.checks["cpu"].since == "c"


async def test_a_verdict_that_cannot_be_read_is_begun_anew(bus: Bus) -> None:
    await buckets.put(bus, "checks", "verdict", b"{")
    recall = Recall(bus)
    await recall.recall()
    assert recall.before is None
