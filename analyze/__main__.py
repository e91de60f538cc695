"""analyze: `tokens.>` in order -> the one analysis of each token -> `decisions.<strategy>.<mint>`; scores, watches.

Asked on plain subjects: `analyze.models.status` answers with `models.Stats`, `analyze.models.optimize` lets go of the
models that are not in use and answers with {"freed_bytes": …, "stats": …}.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from analyze.analysis import HORIZON_NS, Analysis
from analyze.features import FEATURE_NAMES
from analyze.models import Models
from runtime import buckets, telemetry, wire
from runtime.bus import Unavailable
from runtime.process import Process, run
from runtime.readers import DurableReader, Follower, message_after
from runtime.settings import Settings
from runtime.wire import In, Out
from runtime.worker import FIGURES as WORKER_FIGURES
from runtime.worker import Worker
from schemas import subjects
from schemas.codec import Decoder, MalformedEvent, encode
from schemas.events import TokenCreated, TokenEvent, Watch

WRITE_INTERVAL_S = 0.25
MODELS_POLL_S = 2.0

FIGURES = {
    **WORKER_FIGURES,
    "tokens_analyzed_total": "Tokens whose analysis was opened",
    "decisions_total": "Decisions, by strategy",
    "judged_total": "Times that a strategy was asked, by strategy and what came of it; rug alarms by kind",
    "tokens_open": "Tokens with an open analysis",
    "rebuilt_total": "Messages read back at the start to rebuild the analysis",
    "scores_written_total": "Scores written to the bucket",
    "model_in_use": "Whether a model for AI_PREDICTIONS is in use",
    "models": "Models in memory",
    "models_bytes": "What they take there",
    "models_hits_total": "Looks for the newest model that found it in memory",
    "models_misses_total": "Looks for the newest model that had to load it",
    "models_evictions_total": "Models let go because there were too many",
    "models_refused_total": "Model files that could not be used",
    "models_loaded_at_ns": "When a model was loaded last",
}


class AnalyzeSettings(Settings, frozen=True, kw_only=True):
    """What only analyze needs.

    models_dir: where the models for AI_PREDICTIONS are; without it `models` in the data directory.
    """

    models_dir: str = ""


_event: Decoder[TokenEvent] = Decoder(TokenEvent)


class Analyzing:
    """The stage: token events in, decisions out."""

    output = "DECISIONS"

    def __init__(self, process: Process, models: Models) -> None:
        self._process = process
        self._models = models
        self._analysis = Analysis()
        self._scores: dict[str, bytes] = {}  # newest only, until written
        self._watches: dict[str, int] = {}

    async def rebuild(self, floor: int) -> None:
        """Feed the last horizon before the floor again and drop its decisions: they were published."""
        bus = self._process.bus
        last = await message_after(bus, "TOKENS", floor - 1) if floor else None
        if last is None:
            return
        # Events are stored after they were seen, by hours if they had to wait in ingest's spool.
        since_ns = min(last.at_ns, _seen_at_ns(last)) - HORIZON_NS
        follower = Follower(bus, "TOKENS", "tokens.>", since_ns=since_ns)
        try:
            while not follower.caught_up:
                for message in await follower.wait():
                    if message.sequence > floor:
                        return
                    self._feed_again(message)
        finally:
            await follower.close()
            self._analysis.take_scores()
            self._note_watches()
            self._analysis.forget_counts()  # of what was counted before the restart

    def _feed_again(self, message: In) -> None:
        self._process.figures.add("rebuilt_total")
        try:
            self._analysis.feed(_event(message.data))
        except Exception as error:  # it was buried when it came first
            self._process.log.debug("rebuild_skipped", sequence=message.sequence, reason=str(error))

    def decide(self, message: In) -> Sequence[Out]:
        event = _event(message.data)
        figures = self._process.figures
        if isinstance(event, TokenCreated):
            figures.add("tokens_analyzed_total")
        outputs = []
        for decision in self._analysis.feed(event):
            figures.add("decisions_total", strategy=decision.strategy)
            self._process.log.info(
                "decision", strategy=str(decision.strategy), mint=decision.mint, score=decision.score,
                risk=decision.risk, reasons=decision.reasons[:4], trace=decision.id[:32],
            )  # fmt: skip
            subject = subjects.decision_subject(decision.strategy, decision.mint)
            outputs.append(Out(subject, encode(decision), wire.trace_headers(decision.id), None, decision.id))
        return outputs

    async def settled(self) -> None:
        for score in self._analysis.take_scores():
            self._scores[score.mint] = encode(score)
        self._note_watches()
        figures = self._process.figures
        figures.put("tokens_open", self._analysis.open_count)
        for (strategy, outcome), count in self._analysis.counters.items():
            figures.put("judged_total", count, strategy=strategy, outcome=outcome)

    async def look_for_models(self) -> None:
        """Use the newest model of the directory from the next event on, and tell how the models stand."""
        if await self._models.poll():
            self._analysis.predictor = self._models.current
        figures, models = self._process.figures, self._models
        figures.put("model_in_use", int(models.current is not None))
        figures.put("models", len(models))
        figures.put("models_bytes", models.bytes)
        figures.put("models_hits_total", models.hits)
        figures.put("models_misses_total", models.misses)
        figures.put("models_evictions_total", models.evictions)
        figures.put("models_refused_total", models.refused)
        figures.put("models_loaded_at_ns", models.loaded_at_ns)

    async def follow_models(self) -> None:
        while True:
            await asyncio.sleep(MODELS_POLL_S)
            await self.look_for_models()

    async def answer_status(self, _: bytes) -> bytes:
        return msgspec.json.encode(self._models.stats())

    async def answer_optimize(self, _: bytes) -> bytes:
        freed_bytes = self._models.optimize()
        return msgspec.json.encode({"freed_bytes": freed_bytes, "stats": self._models.stats()})

    def _note_watches(self) -> None:
        self._watches.update(self._analysis.take_watch_changes())

    async def write(self) -> None:
        """Keep the `scores` and `watch` buckets up to date, the newest of each only; behind the decisions' way."""
        while True:
            await asyncio.sleep(WRITE_INTERVAL_S)
            scores, self._scores = self._scores, {}
            watches, self._watches = self._watches, {}
            try:
                await buckets.put_many(self._process.bus, "scores", scores.items())
                self._process.figures.add("scores_written_total", len(scores))
                scores = {}
                await buckets.put_many(self._process.bus, "watch", _entries(watches))
            except Unavailable:
                self._scores = {**scores, **self._scores}
                self._watches = {**watches, **self._watches}


def _seen_at_ns(message: In) -> int:
    try:
        return _event(message.data).seen_at_ns
    except MalformedEvent:
        return message.at_ns


def _entries(watches: dict[str, int]) -> list[tuple[str, bytes | None]]:
    now_ns = telemetry.now_ns()
    return [
        (f"analyze.{mint}", encode(Watch(until_at_ns=until_ns)) if until_ns > now_ns else None)
        for mint, until_ns in watches.items()
    ]


async def main(process: Process, settings: AnalyzeSettings) -> None:
    directory = Path(settings.models_dir or Path(process.common.data_dir) / "models")
    stage = Analyzing(process, Models(directory, process.log, FEATURE_NAMES))
    await stage.look_for_models()
    process.spawn(stage.follow_models(), "follow-models")
    process.spawn(stage.write(), "write-buckets")
    await process.bus.answer("analyze.models.status", stage.answer_status)
    await process.bus.answer("analyze.models.optimize", stage.answer_optimize)
    await Worker(process, DurableReader(process.bus, subjects.ANALYZE), stage).run()


def cli() -> None:
    """Run the analyze process. Settings come from MINTLINE_… and MINTLINE_ANALYZE_… variables."""
    run("analyze", main, AnalyzeSettings, FIGURES)


if __name__ == "__main__":
    cli()
