"""What tracing costs a stage's loop: nothing of it in the code, off, and on with different shares of tokens sampled.

`python bench tracing [MESSAGES] [--runs N] [--json]`: the real worker over messages in memory, with a stage that
decides nothing and gives one output for every tenth message, so that what is measured is the loop alone; 200,000
messages in takes of 100. `bare` is the loop with its tracing checks taken out. The arms take turns in each round; CPU
of the process in microseconds a message, the export's thread with it (spans are encoded for OTLP, and not sent), and
the ratio to `bare` of the same round. Half a minute on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import sys
import time
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace.export import SpanExportResult
from rich.console import Console

from harness.show import Spread, heading, machine
from runtime import wire
from runtime.meter import Meter
from runtime.process import Process
from runtime.settings import Common
from runtime.spans import Sampling
from runtime.telemetry import Logger, now_ns
from runtime.tracer import Tracer, following
from runtime.tracing import Encoder, Export, resource
from runtime.vocabulary import stage_duration
from runtime.wire import In, Out
from runtime.worker import FIGURES, GROUP_OUTPUTS_MAX, Worker
from schemas import subjects
from schemas.events import event_id

MESSAGES = 200_000
RUNS = 5
TAKE = 100
EACH = 10
METRICS = "on, none sampled, metrics"
ARMS = ("bare", "off", "on, none sampled", METRICS, "on, 1 % sampled", "on, all sampled")
RATIO = {"on, none sampled": 0.0, METRICS: 0.0, "on, 1 % sampled": 0.01, "on, all sampled": 1.0}
BODY = b'{"type":"token_traded","id":"' + b"0" * 32 + b'"}' + b" " * 300


class Echo:
    """A stage: one output for every tenth message."""

    output = "DECISIONS"

    def __init__(self, process: Process) -> None:
        self._process = process

    async def rebuild(self, after: int, floor: int) -> None:
        return

    def decide(self, message: In) -> Sequence[Out]:
        if message.sequence % EACH:
            return ()
        headers = following(self._process.tracer, message, message.header_block[26:58].decode())
        return [Out("decisions.SNIPER.m", BODY, headers, None, "x")]

    async def settled(self) -> None:
        return


class Fence:
    async def claim(self) -> None:
        return

    async def append(self, messages: Sequence[Out]) -> None:
        return


class Reader:
    """Takes from memory."""

    def __init__(self, messages: list[In]) -> None:
        self._messages, self._at = messages, 0

    def take(self, messages_max: int) -> list[In]:
        taken = self._messages[self._at : self._at + TAKE]
        self._at += len(taken)
        return taken

    def acknowledge(self, message: In) -> None:
        return


class Bare(Worker):
    """The loop as it would be if nobody had thought of tracing."""

    async def step(self) -> bool:
        messages = self.reader.take(TAKE)
        if not messages:
            return False
        started_s = asyncio.get_running_loop().time()
        for message in messages:
            await self._decide_bare(message)
            if len(self._unstored) >= GROUP_OUTPUTS_MAX:
                await self._store_bare(message)
        await self._store_bare(messages[-1])
        await self._stage.settled()
        figures, took_s = self._process.figures, asyncio.get_running_loop().time() - started_s
        figures.observe("stage_duration_seconds", took_s, stage=self._process.service)
        figures.put("stage_last_processed_at_ns", now_ns())
        return True

    async def _decide_bare(self, message: In) -> None:
        figures = self._process.figures
        figures.add("messages_in_total")
        if message.sequence <= self._through:
            figures.add("messages_repeated_total")
            return
        try:
            outputs = []
            if not message.sequence % EACH:
                headers = wire.trace_headers(message.header_block[26:58].decode())
                outputs = [Out("decisions.SNIPER.m", BODY, headers, None, "x")]
        except Exception as error:
            await self._bury(message, error, None)
            outputs = []
        self._through = message.sequence
        self._unstored.extend(type(self).made(message.sequence, output) for output in outputs)

    async def _store_bare(self, last: In) -> None:
        while self._unstored:
            chunk = [decided.output for decided in self._unstored[: wire.BATCH_MESSAGES_MAX]]
            await self._fence.append(chunk)
            del self._unstored[: len(chunk)]
            self._process.figures.add("messages_out_total", len(chunk))
        self.reader.acknowledge(last)

    from runtime.worker import _Decided as made


class Sink:
    """Encodes as the exporter does, and sends nowhere."""

    def export(self, spans: Sequence[object]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


def traffic(count: int, ratio: float) -> list[In]:
    """Messages as ingest publishes them: with an id, and the sampler's answer."""
    sampling, at_ns, made = Sampling(ratio, True), now_ns(), []
    for number in range(count):
        id_ = event_id("bench", str(number))
        context = wire.trace_headers(id_, sampled=sampling.samples(id_, None))
        block = b"NATS/1.0\r\n" + context + b"Nats-Msg-Id: " + id_.encode() + b"\r\n\r\n"
        made.append(In("tokens.traded.m", BODY, number + 1, at_ns, block, ""))
    return made


async def run(arm: str, count: int) -> float:
    """CPU microseconds a message."""
    process = Process(
        "analyze", Common(), Logger("bench", "json", "error", io.StringIO()), FIGURES | stage_duration("analyze")
    )
    export = None
    if arm in RATIO:
        export = Export(Encoder(resource({}), {}, lambda: ("127.0.0.1", 4222)), {"OTEL_BSP_MAX_QUEUE_SIZE": "1000000"})
        export._exporter = Sink()
        export.start()
        process.tracer = Tracer(Sampling(RATIO[arm], True), 3600.0, export.put)
        if arm == METRICS:
            process.tracer.measure = Meter().measure
    kind = Bare if arm == "bare" else Worker
    worker = kind(process, subjects.ANALYZE, Echo(process), Fence(), asyncio.Event())
    worker.reader = Reader(traffic(count, RATIO.get(arm, 0.0)))
    began_s = time.process_time()
    while await worker.step():
        pass
    if export is not None:
        export.end()
        await asyncio.to_thread(export.done.wait)
        assert not export.failed + export.dropped
    return (time.process_time() - began_s) / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench tracing", description=__doc__)
    parser.add_argument("messages", nargs="?", type=int, default=MESSAGES)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    about, taken = machine(), {arm: [] for arm in ARMS}
    heading(Console(stderr=given.json), about)
    for _ in range(given.runs):
        for arm in ARMS:
            taken[arm].append(asyncio.run(run(arm, given.messages if arm != ARMS[-1] else given.messages // 10)))
    ratios = {arm: [one / bare for one, bare in zip(taken[arm], taken["bare"], strict=True)] for arm in ARMS}
    if given.json:
        print(json.dumps({"machine": about, "cpu_us": taken, "ratio": ratios}))
        return
    print(f"{'':<28}{'CPU us a message':>28}{'ratio to bare':>28}")
    for arm in ARMS:
        print(f"{arm:<28}{Spread.of(taken[arm]).text():>28}{Spread.of(ratios[arm]).text():>28}")


if __name__ == "__main__":
    sys.exit(main())
