"""Traces of real processes, at a collector on a real socket that decodes what the exporter sends."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Encoded

from ingest.market import Frame
from ingest.simulator import Simulator, serve
from portal.enrol import enrol
from runtime.bus import Bus
from runtime.embedded import free_port
from runtime.readers import read
from runtime.settings import Common
from runtime.spans import Sampling, context_of
from runtime.testing import Broker, Service, eventually
from runtime.web import fetch
from schemas import subjects
from schemas.config import BotConfig
from schemas.events import Strategy

PARTITIONS = 4  # as the `bus` fixture declares
START_S_MAX = 60.0
LINE = ("analyze", "dispatch", "bots", "ingest")
Make = Callable[..., Service]
Kind = Encoded.SpanKind


class Got(NamedTuple):
    """A span as it came."""

    service: str
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    links: tuple[tuple[str, str, dict[str, Any]], ...]
    failed: bool


class Collector:
    """An OTLP/HTTP receiver."""

    def __init__(self) -> None:
        self.port = free_port()
        self.spans: list[Got] = []
        self.requests = 0
        self.resources: list[dict[str, Any]] = []
        self.hanging = False
        self.metrics: dict[str, dict[str, Metric]] = {}  # the newest of each service, by name
        self.metric_requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def take(self, request: web.Request) -> web.Response:
        self.requests += 1
        if self.hanging:
            await asyncio.sleep(3600)
        body = ExportTraceServiceRequest.FromString(await request.read())
        for resource in body.resource_spans:
            about = _values(resource.resource.attributes)
            self.resources.append(about)
            for scope in resource.scope_spans:
                self.spans += [_got(about["service.name"], span) for span in scope.spans]
        return web.Response()

    async def take_metrics(self, request: web.Request) -> web.Response:
        self.metric_requests += 1
        if self.hanging:
            await asyncio.sleep(3600)
        body = ExportMetricsServiceRequest.FromString(await request.read())
        for resource in body.resource_metrics:
            service = _values(resource.resource.attributes)["service.name"]
            metrics = {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
            self.metrics[service.removeprefix("mintline-")] = metrics
        return web.Response()

    def points(self, service: str, name: str) -> dict[tuple[str, str], Any]:
        """Of one metric, by operation and destination."""
        metric = self.metrics.get(service, {}).get(name)
        data = [] if metric is None else getattr(metric, str(metric.WhichOneof("data"))).data_points
        return {
            (a["messaging.operation.name"], _destination(a)): one for one in data for a in [_values(one.attributes)]
        }

    def of(self, trace: str) -> list[Got]:
        return [span for span in self.spans if span.trace == trace]

    def named(self, name: str, trace: str = "") -> list[Got]:
        return [span for span in self.spans if span.name == name and span.trace.startswith(trace)]


def _values(attributes: Iterable[Any]) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def _destination(attributes: dict[str, Any]) -> str:
    """By its template, or where it has none by its name; never both."""
    (found,) = (
        attributes[f"messaging.destination.{kind}"]
        for kind in ("template", "name")
        if f"messaging.destination.{kind}" in attributes
    )
    return str(found)


def _got(service: str, span: Encoded) -> Got:
    return Got(
        service, span.name, span.kind, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(),
        span.start_time_unix_nano, span.end_time_unix_nano, _values(span.attributes),
        tuple((link.trace_id.hex(), link.span_id.hex(), _values(link.attributes)) for link in span.links),
        span.status.code == 2,
    )  # fmt: skip


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    made = Collector()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/traces", made.take)
    app.router.add_post("/v1/metrics", made.take_metrics)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", made.port).start()
    yield made
    await runner.cleanup()


class Quiet:
    """A market in which nothing happens but what the test sends."""

    next_at_ns = None

    def until(self, now_ns: int) -> list[Frame]:
        return []


@pytest.fixture
async def venue() -> AsyncIterator[Simulator]:
    async with serve(Quiet()) as simulator:
        yield simulator


class Line:
    """Processes by name, all with the same variables but where told otherwise."""

    def __init__(self, make: Make, broker: Broker, feed_url: str, **environ: str) -> None:
        self._make = make
        self._environ = {
            "MINTLINE_NATS_URL": broker.url, "MINTLINE_PARTITIONS": str(PARTITIONS), "OTEL_BSP_SCHEDULE_DELAY": "50",
            "MINTLINE_INGEST_FEED_URL": feed_url, **environ,
        }  # fmt: skip
        self.services: dict[str, Service] = {}
        self.ports: dict[str, int] = {}

    async def start(self, *names: str, **environ: str) -> None:
        for name in names:
            self.ports[name] = free_port()
            own = {key: value for key, value in self._environ.items() if name == "ingest" or "INGEST" not in key}
            service = self._make(name, **{**own, "MINTLINE_HTTP_PORT": str(self.ports[name]), **environ})
            self.services[name] = service
            service.start()
        for name in names:
            await eventually(lambda name=name: self._is_ready(name), f"{name} to be ready", START_S_MAX)
        if "ingest" in names:
            await eventually(self._hears, "the feed")

    async def _is_ready(self, name: str) -> bool:
        with contextlib.suppress(OSError, TimeoutError):
            return (await fetch(f"http://127.0.0.1:{self.ports[name]}/readyz", 2.0))[0] == 200
        return False

    async def _hears(self) -> bool:
        _, body = await fetch(f"http://127.0.0.1:{self.ports['ingest']}/readyz", 2.0)
        return json.loads(body)["details"].get("feed") == "SUBSCRIBED"

    async def stop(self, name: str) -> None:
        """In good order, while the collector goes on answering."""
        service = self.services[name]
        service.signal(signal.SIGTERM)
        assert await asyncio.to_thread(service.wait) == 0, service.text()[-2000:]

    async def figures(self, name: str) -> dict[str, float]:
        _, body = await fetch(f"http://127.0.0.1:{self.ports[name]}/metrics", 2.0)
        rows = (row.rpartition(" ") for row in body.decode().splitlines() if row.startswith("mintline_"))
        return {key.removeprefix("mintline_"): float(value) for key, _, value in rows}


def otlp(collector: Collector, **more: str) -> dict[str, str]:
    return {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **more}


def create(name: str) -> str:
    """A creation in the venue's spelling."""

    def base58(text: str, chars: int) -> str:
        digest = hashlib.blake2b(text.encode()).digest() * 2
        return "".join("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"[b % 58] for b in digest[:chars])

    frame = {
        "txType": "create", "signature": base58(f"signature {name}", 88), "mint": base58(f"mint {name}", 44),
        "traderPublicKey": base58(f"trader {name}", 44), "initialBuy": 34612903.225806, "solAmount": 1,
        "name": name, "symbol": name, "uri": "https://example.org/x", "bondingCurveKey": base58(f"curve {name}", 44),
        "pool": "pump", "vTokensInBondingCurve": 1038387096.774194, "vSolInBondingCurve": 31.0,
    }  # fmt: skip
    return json.dumps(frame)


async def enrolled(broker: Broker, *users: str) -> None:
    config = BotConfig(strategy=Strategy.SNIPER, min_score=0)
    await enrol(Common(nats_url=broker.url, partitions=PARTITIONS), [(user, config) for user in users])


async def filled(bus: Bus, count: int) -> bool:
    lines = await read(bus, "FILLS", after_sequence=0)
    entries = [e for one in lines if subjects.about_user(one.subject) for e in json.loads(one.data)["entries"]]
    return sum(entry["type"] == "fill" for entry in entries) >= count


# One token's way


async def test_one_tokens_way_is_one_trace_from_the_frame_to_the_fill(
    broker: Broker, bus: Bus, service: Make, venue: Simulator, collector: Collector
) -> None:
    await enrolled(broker, "u1", "u2", "u3")
    line = Line(service, broker, venue.url, **otlp(collector))
    await line.start(*LINE)
    await venue.send(create("WAY"))
    await eventually(lambda: filled(bus, 3), "the fills")
    (event,) = await read(bus, "TOKENS", after_sequence=0)
    trace = json.loads(event.data)["id"]
    mint = json.loads(event.data)["mint"]
    await eventually(lambda: len(collector.named("publish fills.{partition}.{user}", trace)) >= 2, "orders and fills")
    await eventually(lambda: len(collector.named("ack $JS.ACK", trace)) >= 3, "the acknowledgements")

    def one(name: str, service_name: str) -> Got:
        found = [span for span in collector.named(name, trace) if span.service == f"mintline-{service_name}"]
        assert len(found) == 1, (name, [span.name for span in collector.of(trace)])
        return found[0]

    root = one("publish tokens.created.{mint}", "ingest")
    analyzed = one("process tokens.created.{mint}", "analyze")
    decided = one("publish decisions.{strategy}.{mint}", "analyze")
    matched = one("process decisions.{strategy}.{mint}", "dispatch")
    signalled = one("publish signals.{partition}.{user}", "dispatch")
    acted = one("process signals.{partition}.{user}", "bots")
    way = (root, analyzed, decided, matched, signalled, acted)

    # Parents and links: what a message was published with is the parent of its processing, and its link.
    assert (root.parent, root.id) == ("", trace[16:])
    assert [span.parent for span in way[1:]] == [span.id for span in way[:-1]]
    for made, processed in ((root, analyzed), (decided, matched)):
        assert [link[:2] for link in processed.links] == [(trace, made.id)]
    decision = f"{trace}:SNIPER"
    assert [link[:2] for link in acted.links] == [(trace, signalled.id)] * 3
    signal_ids = {link[2]["messaging.message.id"] for link in acted.links}
    assert signal_ids == {f"{decision}:{user}" for user in ("u1", "u2", "u3")}
    appends = collector.named("publish fills.{partition}.{user}", trace)
    assert {span.parent for span in appends} == {acted.id}, "orders, and later the fills"
    assert sum(int(span.attributes.get("messaging.batch.message_count", 1)) for span in appends) == 6

    # What travelled is what was exported.
    for stream, published in (
        ("TOKENS", [root]),
        ("DECISIONS", [decided]),
        ("SIGNALS", [signalled]),
        ("FILLS", appends),
    ):
        contexts = [context_of(message.header_block) for message in await read(bus, stream, after_sequence=0)]
        assert {c.span for c in contexts if c is not None} == {span.id for span in published}, stream
        assert all(c is None or (c.trace == trace and c.sampled) for c in contexts)

    # Kinds, and settling.
    assert [span.kind for span in way] == [Kind.SPAN_KIND_PRODUCER, Kind.SPAN_KIND_CONSUMER] * 3
    acks = collector.named("ack $JS.ACK", trace)
    by_parent = {
        parent: [span for span in acks if span.parent == parent] for parent in (analyzed.id, matched.id, acted.id)
    }
    assert sum(map(len, by_parent.values())) == len(acks)
    assert all(by_parent.values())
    for span in acks:
        assert span.kind == Kind.SPAN_KIND_CLIENT
        assert (span.attributes["messaging.operation.name"], span.attributes["messaging.operation.type"]) == (
            "ack",
            "settle",
        )
        assert span.attributes["messaging.destination.name"] == "$JS.ACK"

    # Fetches: not of the token's trace, but linked to it.
    for stream, made in (("TOKENS", root), ("DECISIONS", decided), ("SIGNALS", signalled)):
        fetches = [
            span for span in collector.named(f"fetch {stream}") if (trace, made.id) in {k[:2] for k in span.links}
        ]
        assert sum(len(span.links) for span in fetches) == (3 if stream == "SIGNALS" else 1)
        for span in fetches:
            assert (span.kind, span.parent) == (Kind.SPAN_KIND_CLIENT, "")
            assert span.trace != trace
            assert span.attributes["messaging.operation.type"] == "receive"
            assert span.attributes["messaging.destination.name"] == stream

    _attributes(collector, broker)
    assert root.attributes["messaging.message.id"] == analyzed.attributes["messaging.message.id"] == trace
    assert root.attributes["messaging.destination.name"] == f"tokens.created.{mint}"
    assert decided.attributes["messaging.message.id"] == matched.attributes["messaging.message.id"] == decision
    assert analyzed.attributes["messaging.consumer.group.name"] == "analyze"
    assert matched.attributes["messaging.consumer.group.name"] == "dispatch"
    assert (
        signalled.attributes["messaging.batch.message_count"] == acted.attributes["messaging.batch.message_count"] == 3
    )
    for single in (root, analyzed, decided, matched):
        assert "messaging.batch.message_count" not in single.attributes

    # In the order of time.
    assert [span.start_ns for span in way] == sorted(span.start_ns for span in way)
    assert root.start_ns == json.loads(event.data)["seen_at_ns"]


def _attributes(collector: Collector, broker: Broker) -> None:
    """What every span has."""
    for span in collector.spans:
        name = span.name.split(" ")[0]
        about = span.attributes
        assert about["messaging.system"] == "nats"
        assert about["messaging.operation.name"] == name
        assert about["messaging.operation.type"] == {
            "publish": "send", "process": "process", "fetch": "receive", "ack": "settle",
        }[name]  # fmt: skip
        assert about["messaging.client.id"] == f"{span.service}-0"
        assert (about["server.address"], about["server.port"]) == ("127.0.0.1", broker.port)
        assert about["messaging.destination.name"]
        if name in ("publish", "process"):
            assert about["messaging.destination.template"] == span.name.split(" ", 1)[1]
        assert span.start_ns <= span.end_ns
        assert not span.failed
        assert "error.type" not in about
        assert int(span.id, 16)
    assert len({span.id for span in collector.spans}) == len(collector.spans), "each span is told once"
    assert {about["service.namespace"] for about in collector.resources} == {"mintline"}


# OpenTelemetry's own metrics


async def test_a_tokens_way_is_in_the_messaging_metrics_though_nobody_sampled_it(
    broker: Broker, bus: Bus, service: Make, venue: Simulator, collector: Collector
) -> None:
    await enrolled(broker, "u1", "u2", "u3")
    variables = otlp(collector, OTEL_METRIC_EXPORT_INTERVAL="100", OTEL_TRACES_SAMPLER="always_off")
    line = Line(service, broker, venue.url, MINTLINE_TRACE_SLOW_S="3600", **variables)
    await line.start(*LINE)
    await venue.send(create("METERED"))
    await eventually(lambda: filled(bus, 3), "the fills")
    for name in LINE:  # the end of each is exported, too
        await line.stop(name)
    assert collector.spans == []

    coin, decision = "tokens.created.{mint}", "decisions.{strategy}.{mint}"
    signal_, fill = "signals.{partition}.{user}", "fills.{partition}.{user}"

    def sums(service_name: str, name: str) -> dict[tuple[str, str], int]:
        return {key: point.as_int for key, point in collector.points(service_name, name).items()}

    sent, consumed = "messaging.client.sent.messages", "messaging.client.consumed.messages"
    assert sums("ingest", sent) == {("publish", coin): 1}
    assert sums("analyze", sent) == {("publish", decision): 1}
    assert sums("dispatch", sent) == {("publish", signal_): 3}
    assert sums("bots", sent) == {("publish", fill): 6}  # orders, and later the fills
    assert sums("analyze", consumed) == {("fetch", "TOKENS"): 1}
    assert sums("dispatch", consumed) == {("fetch", "DECISIONS"): 1}
    points = collector.metrics["bots"][consumed].sum.data_points
    assert {_destination(_values(point.attributes)) for point in points} == {"SIGNALS"}
    assert sum(point.as_int for point in points) == 3

    processing = {name: collector.points(name, "messaging.process.duration") for name in LINE}
    assert {name: list(found) for name, found in processing.items()} == {
        "ingest": [], "analyze": [("process", coin)], "dispatch": [("process", decision)],
        "bots": [("process", signal_)],
    }  # fmt: skip
    operations = {key for name in LINE for key in collector.points(name, "messaging.client.operation.duration")}
    assert operations == {
        *(("publish", template) for template in (coin, decision, signal_, fill)),
        *(("fetch", stream) for stream in ("TOKENS", "DECISIONS", "SIGNALS")), ("ack", "$JS.ACK"),
    }  # fmt: skip
    _conventions(collector, broker)


def _conventions(collector: Collector, broker: Broker) -> None:
    """What every metric and every point of it has."""
    for metrics in collector.metrics.values():
        for name, metric in metrics.items():
            data = getattr(metric, str(metric.WhichOneof("data")))
            assert data.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
            for point in data.data_points:
                about = _values(point.attributes)
                assert (about["messaging.system"], about["server.port"]) == ("nats", broker.port)
                assert {"messaging.operation.type", "server.address"} <= about.keys()
                assert not {"messaging.message.id", "messaging.client.id", "error.type"} & about.keys()
                assert 0 < point.start_time_unix_nano <= point.time_unix_nano
                if not name.endswith("duration"):
                    assert (metric.unit, metric.sum.is_monotonic) == ("{message}", True)
                    continue
                assert metric.unit == "s"
                assert (point.explicit_bounds[0], point.explicit_bounds[-1]) == (0.005, 10.0)
                assert sum(point.bucket_counts) == point.count > 0
                assert 0 <= point.sum < 3600 * point.count


async def test_metrics_can_be_left_out_beside_traces(
    broker: Broker, bus: Bus, service: Make, venue: Simulator, collector: Collector
) -> None:
    variables = otlp(collector, OTEL_METRIC_EXPORT_INTERVAL="50", OTEL_METRICS_EXPORTER="none")
    line = Line(service, broker, venue.url, **variables)
    await line.start("ingest")
    await venue.send(create("ALONE"))
    await eventually(lambda: bool(collector.spans), "the span")
    await line.stop("ingest")
    assert collector.metric_requests == 0


# Sampling


async def test_every_process_samples_the_same_tokens(
    broker: Broker, bus: Bus, service: Make, venue: Simulator, collector: Collector
) -> None:
    await enrolled(broker, "u1")
    ratio = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    line = Line(service, broker, venue.url, MINTLINE_TRACE_SLOW_S="3600", **otlp(collector, **ratio))
    await line.start(*LINE)
    coins = [f"COIN{number}" for number in range(24)]
    for coin in coins:
        await venue.send(create(coin))
    await eventually(lambda: filled(bus, 5), "some fills")  # a bot holds no more than five

    async def all_signalled() -> bool:
        return (await bus.stream_info("SIGNALS"))["state"]["messages"] == len(coins)

    await eventually(all_signalled, "all signals")
    for name in ("bots", "dispatch", "analyze", "ingest"):
        await line.stop(name)
    events = [json.loads(message.data)["id"] for message in await read(bus, "TOKENS", after_sequence=0)]
    expected = {id_ for id_ in events if Sampling(0.5, True).samples(id_, None)}
    assert 0 < len(expected) < len(coins)
    for name in LINE:
        found = {s.trace for s in collector.spans if s.service == f"mintline-{name}" and not s.name.startswith("fetch")}
        assert found == expected, name
    for stream in ("TOKENS", "DECISIONS", "SIGNALS", "FILLS"):
        contexts = [context_of(message.header_block) for message in await read(bus, stream, after_sequence=0)]
        flags = {c.trace: c.sampled for c in contexts if c is not None}
        assert flags, stream
        assert {trace for trace, sampled in flags.items() if sampled} == expected & flags.keys(), stream


async def test_a_slow_token_is_kept_whole_though_nobody_sampled_it(
    broker: Broker, bus: Bus, service: Make, venue: Simulator, collector: Collector
) -> None:
    await enrolled(broker, "u1")
    line = Line(service, broker, venue.url, **otlp(collector, OTEL_TRACES_SAMPLER="parentbased_always_off"))
    await line.start("analyze", "dispatch", "ingest", MINTLINE_TRACE_SLOW_S="3600")
    await line.start("bots", MINTLINE_TRACE_SLOW_S="0.001")  # slow by then, and bots alone can tell
    await venue.send(create("SLOW"))
    (event,) = await _stored(bus, "TOKENS")
    trace = json.loads(event.data)["id"]
    wanted = {
        "publish tokens.created.{mint}", "process tokens.created.{mint}", "publish decisions.{strategy}.{mint}",
        "process decisions.{strategy}.{mint}", "publish signals.{partition}.{user}",
        "process signals.{partition}.{user}", "publish fills.{partition}.{user}", "ack $JS.ACK",
    }  # fmt: skip
    await eventually(lambda: wanted <= {span.name for span in collector.of(trace)}, "the whole way")
    (acted,) = collector.named("process signals.{partition}.{user}", trace)
    assert acted.attributes["mintline.kept"] == "slow"
    ids = {span.id for span in collector.of(trace)}
    assert [span.name for span in collector.of(trace) if span.parent not in ids] == ["publish tokens.created.{mint}"]


async def test_a_signal_that_came_too_late_is_an_error_that_is_kept_though_nobody_sampled_it(
    broker: Broker, bus: Bus, service: Make, venue: Simulator, collector: Collector
) -> None:
    await enrolled(broker, "u1", "u2")
    line = Line(service, broker, venue.url, **otlp(collector, OTEL_TRACES_SAMPLER="always_off"))
    await line.start("analyze", "dispatch", "ingest", MINTLINE_TRACE_SLOW_S="3600", MINTLINE_DISPATCH_SIGNAL_TTL_S="1")
    await venue.send(create("LATE"))
    told = await _stored(bus, "SIGNALS")
    expires_at_ns = json.loads(told[-1].data)["expires_at_ns"]
    await eventually(lambda: time.time_ns() > expires_at_ns, "the signals to expire")
    assert collector.spans == []
    await line.start("bots", MINTLINE_TRACE_SLOW_S="3600")
    trace = json.loads((await read(bus, "TOKENS", after_sequence=0))[0].data)["id"]
    await eventually(lambda: "publish tokens.created.{mint}" in {s.name for s in collector.of(trace)}, "the whole way")
    await eventually(lambda: len(collector.named("process signals.{partition}.{user}", trace)) == 1, "the refusal")
    (refused,) = collector.named("process signals.{partition}.{user}", trace)
    assert (refused.failed, refused.attributes["error.type"]) == (True, "EXPIRED")
    assert refused.attributes["mintline.kept"] == "EXPIRED"
    assert {link[2]["messaging.message.id"].rpartition(":")[2] for link in refused.links} == {"u1", "u2"}
    assert [span.name for span in collector.of(trace) if span.failed] == [refused.name]
    entries = [
        entry
        for message in await read(bus, "FILLS", after_sequence=0)
        if subjects.about_user(message.subject)
        for entry in json.loads(message.data)["entries"]
    ]
    assert [entry["reason"] for entry in entries] == ["EXPIRED"] * 2


async def _stored(bus: Bus, stream: str) -> list[Any]:
    async def some() -> bool:
        return bool((await bus.stream_info(stream))["state"]["messages"])

    await eventually(some, f"something in {stream}")
    return await read(bus, stream, after_sequence=0)


async def test_a_dead_letter_is_an_error_that_is_kept_with_its_creation_context(
    broker: Broker, bus: Bus, service: Make, venue: Simulator, collector: Collector
) -> None:
    line = Line(service, broker, venue.url, **otlp(collector, OTEL_TRACES_SAMPLER="parentbased_always_off"))
    await line.start("analyze")
    context = b"traceparent: 00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-00\r\n"
    await bus.publish("tokens.created.m", b"no event", headers=context)
    (letter,) = await _stored(bus, "DEAD")
    assert letter.headers["traceparent"] == f"00-{'ab' * 16}-{'cd' * 8}-00"
    await eventually(lambda: len(collector.of("ab" * 16)) >= 3, "its spans")
    (processed,) = collector.named("process tokens.created.{mint}")
    (buried,) = collector.named("publish dead.{stream}.{consumer}")
    assert (processed.failed, processed.attributes["error.type"]) == (True, "MalformedEvent")
    assert processed.attributes["mintline.kept"] == "MalformedEvent"
    assert (processed.parent, processed.links[0][:2]) == ("cd" * 8, ("ab" * 16, "cd" * 8))
    assert (buried.kind, buried.parent) == (Kind.SPAN_KIND_CLIENT, processed.id), "nothing was injected"


# Off, and a collector that fails


async def test_off_exports_nothing_and_loads_nothing_of_opentelemetry(
    broker: Broker, bus: Bus, service: Make, venue: Simulator, collector: Collector
) -> None:
    await enrolled(broker, "u1")
    line = Line(service, broker, venue.url, OTEL_TRACES_EXPORTER="none", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    await line.start(*LINE)
    await venue.send(create("OFF"))
    await eventually(lambda: filled(bus, 1), "the fill")
    for name in LINE:
        assert not _has_protobuf(line.services[name].pid), f"{name} has loaded what opentelemetry needs"
    assert collector.requests == collector.metric_requests == 0
    for message in await read(bus, "SIGNALS", after_sequence=0):
        context = context_of(message.header_block)
        assert context is not None
        assert not context.sampled
    await line.start("observer", OTEL_TRACES_EXPORTER="otlp")
    assert _has_protobuf(line.services["observer"].pid), "where it is on, it would have been seen"


def _has_protobuf(pid: int) -> bool:
    return "_upb" in Path(f"/proc/{pid}/maps").read_text()


def test_no_service_imports_opentelemetry_by_itself() -> None:
    services = ("ingest", "analyze", "dispatch", "bots", "observer", "portal")
    code = f"import sys, {', '.join(f'{name}.__main__' for name in services)}, runtime.commands\n"
    code += "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONSAFEPATH": "1"}
    )
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("fault", ["hangs", "is not there"])
async def test_a_collector_that_fails_holds_up_neither_the_line_nor_its_end(
    fault: str, broker: Broker, bus: Bus, service: Make, venue: Simulator, collector: Collector
) -> None:
    await enrolled(broker, "u1")
    collector.hanging = fault == "hangs"
    variables = otlp(collector, OTEL_BSP_MAX_QUEUE_SIZE="4", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="1")
    if fault == "is not there":
        variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"
    line = Line(service, broker, venue.url, **variables)
    await line.start(*LINE)
    for number in range(8):
        await venue.send(create(f"LOST{number}"))
    await eventually(lambda: filled(bus, 5), "the fills")  # a bot holds no more than five

    async def dropped() -> bool:
        return (await line.figures("analyze"))['trace_spans_total{outcome="dropped"}'] > 0

    await eventually(dropped, "the bounded queue to be full")
    for name in LINE:
        await line.stop(name)
        assert "close_timeout" not in line.services[name].text()
        assert "Traceback" not in line.services[name].text()


async def test_what_waits_is_exported_at_a_clean_stop(
    broker: Broker, bus: Bus, service: Make, venue: Simulator, collector: Collector
) -> None:
    line = Line(service, broker, venue.url, **{**otlp(collector), "OTEL_BSP_SCHEDULE_DELAY": "3600000"})
    await line.start("ingest")
    await venue.send(create("LAST"))
    await _stored(bus, "TOKENS")
    assert collector.spans == []
    await line.stop("ingest")
    assert [span.name for span in collector.spans] == ["publish tokens.created.{mint}"]


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_TRACES_SAMPLER": "sometimes"}, "OTEL_TRACES_SAMPLER"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_BSP_MAX_QUEUE_SIZE": "many"}, "OTEL_BSP_MAX_QUEUE_SIZE"),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, "OTEL_METRICS_EXPORTER"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRIC_EXPORT_INTERVAL": "0"}, "OTEL_METRIC_EXPORT_INTERVAL"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT: an address"),
    ],
)
def test_a_variable_that_cannot_be_used_ends_the_process_by_its_name(
    environ: dict[str, str], name: str, service: Make
) -> None:
    started = service("dispatch", **environ)
    started.start()
    assert started.wait() == 2
    assert name in started.text()


# mintline trace


async def test_the_command_tells_a_tokens_way_without_any_tracing(
    broker: Broker, bus: Bus, service: Make, venue: Simulator, tmp_path: Path
) -> None:
    await enrolled(broker, "u1", "u2")
    line = Line(service, broker, venue.url)
    await line.start(*LINE)
    await venue.send(create("TOLD"))
    await eventually(lambda: filled(bus, 2), "the fills")
    (event,) = await read(bus, "TOKENS", after_sequence=0)
    mint, trace = json.loads(event.data)["mint"], json.loads(event.data)["id"]
    whole = json.loads(_command(broker, mint, "--json"))
    (decision,) = whole["decisions"]
    assert (whole["mint"], decision["trace"], decision["event"]) == (mint, trace, "TokenCreated")
    assert decision["outcomes"] == {"bought": 2}
    assert decision["event_stored_at_ns"] == event.at_ns
    stages = [delay["stage"] for delay in decision["delays"]]
    assert stages == [
        "frame to TOKENS", "TOKENS to DECISIONS", "DECISIONS to SIGNALS", "SIGNALS to FILLS", "frame to FILLS",
        "order to fill",
    ]  # fmt: skip
    for id_ in (f"{trace}:SNIPER:u2:buy", f"{trace}:SNIPER", trace):
        (found,) = json.loads(_command(broker, id_, "--json"))["decisions"]
        assert [user["user"] for user in found["users"]] == (["u2"] if ":u2" in id_ else ["u1", "u2"]) or len(
            found["users"]
        ) == 2
    shown = _command(broker, mint)
    print(f"\n{shown}")
    assert f"trace {trace}" in shown
    assert "2 users: bought 2" in shown
    done = _run(broker, "So11111111111111111111111111111111111111112")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "mintline trace: the streams hold nothing of So11111111111111111111111111111111111111112\n"


def _run(broker: Broker, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "MINTLINE_NATS_URL": broker.url, "MINTLINE_PARTITIONS": str(PARTITIONS)}
    return subprocess.run(
        [sys.executable, "-m", "runtime.commands", "trace", *arguments],
        capture_output=True, text=True, env={**environ, "PYTHONSAFEPATH": "1"},
    )  # fmt: skip


def _command(broker: Broker, *arguments: str) -> str:
    done = _run(broker, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout
