"""What real processes serve at /metrics: clean, the vocabulary and nothing else, and true to the broker."""

from __future__ import annotations

import importlib
import re
import shutil
import urllib.request
from asyncio import create_subprocess_exec, to_thread
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from ingest.market import Market
from ingest.simulator import serve
from portal.enrol import enrol
from runtime import process, vocabulary
from runtime.bus import Bus
from runtime.embedded import free_port
from runtime.readers import read
from runtime.settings import SERVICES, Common
from runtime.testing import Broker, Service, eventually
from schemas import subjects
from schemas.config import BotConfig
from schemas.events import Strategy

PARTITIONS = 4  # as the `bus` fixture declares
PROMTOOL = shutil.which("promtool")
Make = Callable[..., Service]
Labels = tuple[tuple[str, str], ...]


class Processes:
    """Running processes, and what each serves at /metrics."""

    def __init__(self, make: Make, broker: Broker) -> None:
        self._make = make
        self._environ = {
            "MINTLINE_NATS_URL": broker.url, "MINTLINE_PARTITIONS": str(PARTITIONS), "MINTLINE_PORTAL_PORT": "0",
            "MINTLINE_BOTS_LANDING_MS": "0", "MINTLINE_OBSERVER_MEASURE_INTERVAL_S": "0.2",
            "MINTLINE_OBSERVER_MONITOR_URL": f"http://127.0.0.1:{broker.monitor_port}",
        }  # fmt: skip
        self._ports: dict[str, int] = {}

    def start(self, *names: str, **environ: str) -> None:
        for name in names:
            self._ports[name] = free_port()
            own = {**self._environ, **environ, "MINTLINE_HTTP_PORT": str(self._ports[name])}
            self._make(name, **own).start()

    async def text(self, name: str, accept: str = "text/plain") -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{self._ports[name]}/metrics", headers={"Accept": accept})

        def get() -> str:
            try:
                with urllib.request.urlopen(request, timeout=5.0) as answer:
                    return str(answer.read().decode())
            except OSError:
                return ""

        return await to_thread(get)

    async def values(self, name: str, metric: str) -> dict[Labels, float]:
        """A metric's samples by their labels."""
        families = plain(await self.text(name))
        return {
            tuple(sorted(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
            if sample.name == f"mintline_{metric}"
        }

    async def value(self, name: str, metric: str, **labels: str) -> float | None:
        return (await self.values(name, metric)).get(tuple(sorted(labels.items())))


@pytest.fixture
def processes(service: Make, broker: Broker, bus: Bus) -> Processes:
    return Processes(service, broker)


async def checked(text: str) -> tuple[int, str]:
    """What promtool says of an exposition."""
    assert PROMTOOL is not None
    child = await create_subprocess_exec(PROMTOOL, "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=STDOUT)
    said, _ = await child.communicate(text.encode())
    return child.returncode or 0, said.decode()


def agrees(name: str, text: str) -> None:
    """Every family is declared, of its kind, with its labels, and each label's value is one of those declared."""
    whole = {**process.FIGURES, **importlib.import_module(f"{name}.__main__").FIGURES}
    declared = {vocabulary.shown(one)[0]: (one, vocabulary.declared(figure)) for one, figure in whole.items()}
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    system = {f"mintline_{one}" for one in vocabulary.OF_THE_SYSTEM}
    assert kinds.keys() - system == declared.keys()
    for shown, (one, figure) in declared.items():
        assert kinds[shown] == vocabulary.kind(one, figure), shown
    for family in plain(text):
        for sample in family.samples:
            found = re.sub(r"_(bucket|sum|count)$", "", sample.name) if family.type == "histogram" else sample.name
            if found in system:
                continue
            figure = declared[found][1]
            assert sample.labels.keys() - {"le"} == figure.labels.keys(), sample
            for label, values in figure.labels.items():
                assert not values or sample.labels[label] in values, sample


async def test_every_process_serves_its_vocabulary_and_nothing_else_and_examples_name_their_trace(
    processes: Processes, broker: Broker, bus: Bus
) -> None:
    config = BotConfig(strategy=Strategy.SNIPER, min_score=0)
    await enrol(Common(nats_url=broker.url, partitions=PARTITIONS), [(f"u{number}", config) for number in range(3)])
    async with serve(Market(seed=7), speed=50) as simulator:
        processes.start("analyze", "dispatch", "bots", "observer", "portal")
        for name in ("analyze", "dispatch", "bots"):

            async def ready(name: str = name) -> bool:
                return await processes.value(name, "process_ready") == 1

            await eventually(ready, f"{name} to be ready", 60)
        processes.start("ingest", MINTLINE_INGEST_FEED_URL=simulator.url, MINTLINE_INGEST_API_KEY="demo")

        async def filled() -> bool:
            return (await processes.value("bots", "frame_to_fill_seconds_count") or 0) > 0

        await eventually(filled, "a fill", 60)

        async def measured() -> bool:
            return len(await processes.values("observer", "consumer_pending")) == len(subjects.consumers(PARTITIONS))

        await eventually(measured, "observer to have asked the broker", 60)
        texts = {name: await processes.text(name) for name in SERVICES}
        open_texts = {name: await processes.text(name, "application/openmetrics-text") for name in SERVICES}
    for name in SERVICES:
        agrees(name, texts[name])
        if PROMTOOL is not None:
            assert await checked(texts[name]) == (0, ""), name
    traces = {name: examples(open_texts[name]) for name in SERVICES}
    events = {message.headers["Nats-Msg-Id"] for message in await read(bus, "TOKENS", after_sequence=0)}
    for name, metric in (("bots", "frame_to_fill"), ("bots", "stage_duration"), ("analyze", "stage_duration"),
                         ("dispatch", "stage_duration")):  # fmt: skip
        found = traces[name][f"mintline_{metric}_seconds"]
        assert found, f"{name}: {metric} has no example"
        assert found <= events, f"{name}: an example's trace is no token event's"
    if PROMTOOL is None:
        pytest.skip("promtool is not installed: the rest was checked")


def examples(text: str) -> dict[str, set[str]]:
    """The trace ids of a page, by metric."""
    return {
        family.name: {sample.exemplar.labels["trace_id"] for sample in family.samples if sample.exemplar}
        for family in openmetrics(text)
    }


async def test_observer_tells_what_the_broker_has_and_no_more_once_it_is_gone(
    processes: Processes, broker: Broker, bus: Bus
) -> None:
    for number in range(3):
        await bus.publish(f"tokens.created.mint{number}", b'{"pool": "pump"}')
    await bus.publish("signals.u1", b"{}")
    partition = subjects.partition("u1", PARTITIONS)
    behind = {"stream": "SIGNALS", "durable": f"p{partition}"}
    processes.start("observer")
    values: dict[str, Any] = {}

    async def is_(metric: str, wanted: float | None, **labels: str) -> None:
        async def so() -> bool:
            values[metric] = await processes.value("observer", metric, **labels)
            return values[metric] == wanted

        try:
            await eventually(so, f"{metric} {labels}", 60)
        except AssertionError as error:
            raise AssertionError(f"{metric}{labels}: {wanted} wanted, {values[metric]} found") from error

    await is_("consumer_unprocessed", 1, **behind)
    await is_("consumer_ack_pending_limit", 1000, **behind)
    await is_("consumer_lag_threshold_seconds", 10, **behind)
    await is_("consumer_waiting", 0, **behind)
    stored = (await read(bus, "SIGNALS", after_sequence=0))[0]
    await is_("consumer_oldest_unprocessed_timestamp_seconds", stored.at_ns / 1_000_000_000, **behind)
    await is_("stream_messages", 3, stream="TOKENS", discard="old")
    await is_("stream_max_age_seconds", 86_400, stream="TOKENS", discard="old")
    await is_("stream_max_bytes", 6 << 30, stream="FILLS", discard="new")
    newest = (await read(bus, "TOKENS", after_sequence=0))[-1]
    await bus.publish("tokens.gap.pumpportal", b"{}")
    await is_("stream_messages", 4, stream="TOKENS", discard="old")
    await is_("feed_last_message_timestamp_seconds", newest.at_ns / 1_000_000_000)
    await is_("active_sources", 1)
    await is_("broker_slow_consumers_total", 0)
    assert abs(await processes.value("observer", "clock_skew_seconds") or 9) < 9
    assert (await processes.value("observer", "jetstream_api_requests_total") or 0) > 0

    await bus.api("STREAM.PURGE.SIGNALS")
    await is_("consumer_oldest_unprocessed_timestamp_seconds", None, **behind)
    asset = {"kind": "consumer", **behind}
    await is_("asset_state", 0, **asset, state="missing")
    await bus.api(f"CONSUMER.DELETE.SIGNALS.p{partition}")
    await is_("asset_state", 1, **asset, state="missing")
    await is_("consumer_unprocessed", None, **behind)
    await is_("broker_up", 1)
    with broker.stopped():
        await is_("broker_up", 0)
        await is_("stream_messages", None, stream="TOKENS", discard="old")
        await is_("feed_last_message_timestamp_seconds", newest.at_ns / 1_000_000_000)
