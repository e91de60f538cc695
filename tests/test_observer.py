"""observer, and portal in front of it, as real processes beside a real broker."""

from __future__ import annotations

import json
import re
import signal
import time
import urllib.error
import urllib.request
from asyncio import to_thread
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import buckets, web
from runtime.bus import Bus, Unavailable
from runtime.embedded import free_port
from runtime.testing import Broker, Service, eventually
from schemas import subjects
from schemas.codec import encode
from schemas.config import BotConfig, BotWanted, Wanted
from schemas.events import Append, Fill, ProcessStatus, Reason, Refusal, Side, Strategy

PARTITIONS = "4"  # as the `bus` fixture declares
STOP_S_MAX = 5.0


@pytest.fixture
def environ(broker: Broker, tmp_path: Path) -> dict[str, str]:
    return {
        "MINTLINE_NATS_URL": broker.url,
        "MINTLINE_PARTITIONS": PARTITIONS,
        "MINTLINE_DATA_DIR": str(tmp_path / "data"),
        "MINTLINE_OBSERVER_POLL_INTERVAL_S": "0.1",
    }


@pytest.fixture
def observer(bus: Bus, environ: dict[str, str], tmp_path: Path) -> Iterator[Service]:
    service = Service("observer", tmp_path / "observer.log", **environ)
    service.start()
    yield service
    service.kill()


async def ask(bus: Bus, subject: str, question: bytes = b"{}") -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(await bus.request(subject, question, 1.0))
    except Unavailable:
        return {}
    return answer


async def settles(bus: Bus, **wanted: int) -> None:
    """The named numbers of `observer.stats`, wherever in it they are, come to what they should be."""
    found: dict[str, Any] = {}

    async def there() -> bool:
        stats = (await ask(bus, "observer.stats")).get("stats", {})
        ledger = next((s["contents"] for s in stats.get("streams", ()) if s["name"] == "FILLS"), {})
        found.update({**stats, **stats.get("feed_stats", {}), **stats.get("engine_stats", {}), **ledger})
        return all(found.get(name) == value for name, value in wanted.items())

    try:
        await eventually(there, "the numbers settle")
    except AssertionError as error:
        raise AssertionError(f"{wanted} wanted, { {name: found.get(name) for name in wanted} } found") from error


async def fill_streams(bus: Bus) -> None:
    """Three creations and a trade, two running bots and a stopped one, five signals, three of them settled."""
    for number, kind in enumerate(("created", "traded", "created", "created")):
        await bus.publish(f"tokens.{kind}.mint{number}", b"{}")
    config = BotConfig(strategy=Strategy.SNIPER)
    for user, wanted in (("1", Wanted.RUNNING), ("2", Wanted.RUNNING), ("3", Wanted.STOPPED)):
        bot = BotWanted(user=user, wanted=wanted, config=config, changed_at_ns=time.time_ns())
        await buckets.put(bus, "bots", user, encode(bot))
    for user in ("1", "2", "1", "2", "1"):
        await bus.publish(f"signals.{user}", b"{}")
    refused = Refusal(
        id="r", signal_id="s", order_id=None, mint="M", side=Side.BUY, reason=Reason.EXPIRED, detail="", at_ns=1
    )
    for number, user in enumerate(("1", "2", "1")):
        line = Append(id=f"{user}:{number}", user=user, signal_sequence=1, entries=(refused,), at_ns=1)
        await bus.publish(f"fills.{user}", encode(line))


NUMBERS = {"tokens_received": 3, "tokens_per_minute": 3, "active_bots": 2, "signals_sent": 5, "refused": 3}


async def test_the_numbers_are_those_of_the_streams_and_survive_a_kill(bus: Bus, observer: Service) -> None:
    await fill_streams(bus)
    await settles(bus, **NUMBERS, tokens_analyzed=0)
    bots = (await ask(bus, "observer.stats"))["stats"]["engine_stats"]["bots"]
    assert [(bot["user_id"], bot["signals_received"]) for bot in bots] == [("1", 2), ("2", 1)]
    observer.kill()
    observer.start()
    await settles(bus, **NUMBERS)


def traded(side: Side, signal_id: str, lamports: int) -> Fill:
    return Fill(
        id="f", order_id="o", signal_id=signal_id, mint="M", side=side, tokens=1, lamports=lamports,
        curve_lamports=lamports, protocol_fee_lamports=0, creator_fee_lamports=0, network_fee_lamports=0,
        reason=Reason.SIGNAL, price_at_ns=1, at_ns=1,
    )  # fmt: skip


async def realised(port: int) -> dict[str, float]:
    """Profit by strategy, as `/metrics` shows it; nothing while observer does not."""
    try:
        _, body = await web.fetch(f"http://127.0.0.1:{port}/metrics", 5.0)
    except OSError:
        return {}
    told = re.findall(r'^mintline_realised_lamports{strategy="(\w+)"} (\S+)$', body.decode(), re.MULTILINE)
    return {strategy: float(lamports) for strategy, lamports in told}


async def test_profit_by_strategy_is_that_of_the_whole_ledger_and_a_restart_neither_forgets_nor_fakes_it(
    bus: Bus, environ: dict[str, str], tmp_path: Path
) -> None:
    wanted = {"SNIPER": 50.0, "MOMENTUM": -40.0, "GRADUATION": 0.0, "AI_PREDICTIONS": 0.0, "other": 0.0}
    for user, strategy, received in (("1", "SNIPER", 150), ("2", "MOMENTUM", 60)):
        for number, (side, lamports) in enumerate(((Side.BUY, 100), (Side.SELL, received))):
            entries = (traded(side, f"e:{strategy}:{user}", lamports),)
            line = Append(id=f"{user}:{number}", user=user, signal_sequence=1, entries=entries, at_ns=1)
            await bus.publish(f"fills.{user}", encode(line))
    port, seen = free_port(), list[dict[str, float]]()
    observer = Service("observer", tmp_path / "observer.log", **environ, MINTLINE_HTTP_PORT=str(port))

    async def told() -> bool:
        seen.append(await realised(port))
        return bool(seen[-1])

    try:
        for _ in range(2):
            observer.start()
            await eventually(told, "the profit to be told")
            assert seen[-1] == wanted  # not before all of the ledger is read
            observer.kill()
    finally:
        observer.kill()


async def test_how_far_each_consumer_is_behind_is_told_in_seconds(bus: Bus, observer: Service) -> None:
    await fill_streams(bus)  # user 1 has three signals, user 2 two, and nobody works on them
    behind = {subjects.partition_consumer(subjects.partition(user, int(PARTITIONS))).name for user in ("1", "2")}

    async def told() -> bool:
        stats = (await ask(bus, "observer.stats")).get("stats", {})
        signals = next((s for s in stats.get("streams", ()) if s["name"] == "SIGNALS"), {"consumers": ()})
        late = {c["name"] for c in signals["consumers"] if c["lag_seconds"] >= 1}
        return late == behind and signals["lag_seconds"] >= 1

    await eventually(told, "the two consumers to be a second behind")
    await bus.api("STREAM.PURGE.SIGNALS")

    async def caught_up() -> bool:
        stats = (await ask(bus, "observer.stats"))["stats"]
        return all(c["lag_seconds"] == 0 for s in stats["streams"] for c in s["consumers"] if s["name"] == "SIGNALS")

    await eventually(caught_up, "nobody to be behind any more")


async def test_a_bot_that_stops_and_a_token_that_comes_are_seen_at_once(bus: Bus, observer: Service) -> None:
    await fill_streams(bus)
    await settles(bus, active_bots=2)
    await buckets.delete(bus, "bots", "1")
    await bus.publish("tokens.created.mint9", b"{}")
    await settles(bus, active_bots=1, subscribers=1, tokens_received=4)


async def test_a_message_that_cannot_be_read_is_skipped_and_counted(bus: Bus, observer: Service) -> None:
    await settles(bus, active_bots=0)  # it listens
    await bus.publish("fills.1", b"not json")
    await buckets.put(bus, "bots", "9", b'{"type": "bot_wanted"}')
    bus.tell("status.ingest.0", b"[]")
    await fill_streams(bus)
    await settles(bus, **NUMBERS)

    async def counted() -> bool:
        processes = (await ask(bus, "observer.stats"))["stats"]["processes"]
        figures = next((p["figures"] for p in processes if p["service"] == "observer"), {})
        return sum(n for name, n in figures.items() if name.startswith("events_malformed_total")) == 3

    await eventually(counted, "observer counts the three")


async def test_observer_goes_on_after_the_broker_was_away(bus: Bus, observer: Service, broker: Broker) -> None:
    await fill_streams(bus)
    await settles(bus, **NUMBERS)
    with broker.stopped():
        pass

    async def published() -> bool:
        try:
            return await bus.publish("tokens.created.mint9", b"{}", message_id="mint9") > 0
        except Unavailable:
            return False

    await eventually(published, "our own connection is back")
    await settles(bus, **{**NUMBERS, "tokens_received": 4, "tokens_per_minute": 4})
    assert observer.running


async def test_a_process_that_falls_silent_fails_its_check(bus: Bus, observer: Service) -> None:
    def status(service: str, **figures: int) -> bytes:
        now = time.time_ns()
        return encode(
            ProcessStatus(
                service=service, instance="0", pid=1, started_at_ns=now, at_ns=now, ready=True, figures=figures
            )
        )

    async def check(name: str, ok: bool) -> bool:
        bus.tell("status.ingest.0", status("ingest", feed_running=1, feed_since_at_ns=time.time_ns()))
        health = await ask(bus, "observer.health")
        return bool(health) and health["checks"][name]["ok"] is ok

    await settles(bus, active_bots=0)  # it listens
    bus.tell("status.bots.0", status("bots"))
    await eventually(lambda: check("process_bots", True), "bots is heard")
    await eventually(lambda: check("process_bots", False), "bots falls silent")
    assert await check("process_ingest", True)
    assert await check("feed_running", True)


async def test_a_bad_page_is_refused_by_name(bus: Bus, observer: Service) -> None:
    await settles(bus, active_bots=0)
    answer = await ask(bus, "observer.stats", b'{"per_page": 501}')
    assert answer["success"] is False
    assert "per_page" in answer["error"]


async def test_observer_ends_in_good_order_while_the_broker_is_away(
    bus: Bus, observer: Service, broker: Broker
) -> None:
    await settles(bus, active_bots=0)
    with broker.stopped():
        begun = time.monotonic()
        observer.signal(signal.SIGTERM)
        assert await to_thread(observer.wait) == 0
        assert time.monotonic() - begun < STOP_S_MAX


def test_a_bad_threshold_ends_observer_with_status_two_and_its_name(environ: dict[str, str], tmp_path: Path) -> None:
    service = Service("observer", tmp_path / "bad.log", **environ, MINTLINE_OBSERVER_CPU_PERCENT_MAX="101")
    service.start()
    assert service.wait() == 2
    assert "MINTLINE_OBSERVER_CPU_PERCENT_MAX" in service.text()


def fetch(url: str, token: str = "") -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers={"X-Admin-Token": token} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


async def test_both_processes_together_answer_over_http(
    bus: Bus, observer: Service, environ: dict[str, str], tmp_path: Path
) -> None:
    await fill_streams(bus)
    portal = Service(
        "portal", tmp_path / "portal.log", **environ, MINTLINE_PORTAL_PORT="0", MINTLINE_PORTAL_ADMIN_TOKEN="t"
    )
    portal.start()
    try:
        await eventually(lambda: '"listening"' in portal.text(), "portal listens")
        found = re.search(r'"event":"listening".*"port":(\d+)', portal.text())
        assert found is not None
        base = f"http://127.0.0.1:{found[1]}"
        await settles(bus, **NUMBERS)
        status, body = await to_thread(fetch, f"{base}/api/admin/stats?per_page=1", "t")
        assert status == 200
        stats = json.loads(body)["stats"]
        assert stats["feed_stats"]["tokens_received"] == 3
        assert [bot["user_id"] for bot in stats["engine_stats"]["bots"]] == ["1"]
        status, body = await to_thread(fetch, f"{base}/api/admin/health", "t")
        assert status == 503  # no ingest, no analyze, no dispatch, no bots
        assert json.loads(body)["checks"]["process_ingest"]["value"] is None
        assert (await to_thread(fetch, f"{base}/api/admin/stats"))[0] == 401
        observer.kill()
        status, body = await to_thread(fetch, f"{base}/api/admin/stats", "t")
        assert (status, json.loads(body)["success"]) == (503, False)
    finally:
        portal.signal(signal.SIGTERM)
        assert await to_thread(portal.wait) == 0
