"""analyze: `tokens.>` in order -> the one analysis of each token -> `decisions.<strategy>.<mint>`; scores, watches.

Several processes share the partitions of the mints (`runtime/parts.py`); with one partition one of them works and
another stands by.

Asked on plain subjects: `analyze.models.status` answers with `models.Stats`, `analyze.models.optimize` lets go of the
models that are not in use and answers with {"freed_bytes": …, "stats": …}.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from analyze.division import carry_over
from analyze.features import FEATURE_NAMES
from analyze.models import Models
from analyze.stage import FIGURES as ANALYSIS_FIGURES
from analyze.stage import Analyzing, Told
from runtime.bus import Unavailable
from runtime.fences import OwnerRecord
from runtime.members import Members
from runtime.parts import FIGURES as PARTS_FIGURES
from runtime.parts import Parts
from runtime.process import Process, run
from runtime.settings import Settings
from runtime.telemetry import Figures
from runtime.vocabulary import Vocabulary, stage_duration
from runtime.worker import Worker
from schemas import subjects
from schemas.subjects import Consumer

MODELS_POLL_S = 2.0
RETRY_S = 0.25

FIGURES: Vocabulary = {
    **PARTS_FIGURES,
    **stage_duration("analyze"),
    "tokens_analyzed_total": "Tokens whose analysis was opened",
    **ANALYSIS_FIGURES,
    "rebuilt_total": "Messages fed to the analysis though others worked on them: to rebuild it, or to stand by",
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
    stand_by: whether to follow what another process works on, so that taking over takes seconds; it costs as much CPU
        as the work itself.
    """

    models_dir: str = ""
    stand_by: bool = True


class Shelf:
    """The models of this process: looked for on an interval, asked about on plain subjects."""

    def __init__(self, models: Models, figures: Figures) -> None:
        self._models = models
        self._figures = figures

    async def look(self) -> None:
        """Use the newest model of the directory from the next event on, and tell how the models stand."""
        figures, models = self._figures, self._models
        await models.poll()
        figures.put("model_in_use", int(models.current is not None))
        figures.put("models", len(models))
        figures.put("models_bytes", models.bytes)
        figures.put("models_hits_total", models.hits)
        figures.put("models_misses_total", models.misses)
        figures.put("models_evictions_total", models.evictions)
        figures.put("models_refused_total", models.refused)
        figures.put("models_loaded_at_ns", models.loaded_at_ns)

    async def follow(self) -> None:
        while True:
            await asyncio.sleep(MODELS_POLL_S)
            await self.look()

    async def answer_status(self, _: bytes) -> bytes:
        return msgspec.json.encode(self._models.stats())

    async def answer_optimize(self, _: bytes) -> bytes:
        freed_bytes = self._models.optimize()
        return msgspec.json.encode({"freed_bytes": freed_bytes, "stats": self._models.stats()})


async def _know_place(process: Process, consumers: Sequence[Consumer]) -> None:
    while not process.stop.is_set():
        try:
            if await carry_over(process.bus, consumers):
                process.log.warning("divided_otherwise", partitions=len(consumers))
            return
        except Unavailable as error:
            process.log.warning("interrupted", reason=f"{type(error).__name__}: {error}")
            await process.pause(RETRY_S)


async def main(process: Process, settings: AnalyzeSettings) -> None:
    bus, ready = process.bus, asyncio.Event()
    directory = Path(settings.models_dir or Path(process.common.data_dir) / "models")
    models = Models(directory, process.log, FEATURE_NAMES)
    shelf, told = Shelf(models, process.figures), Told(bus, process.figures)
    await shelf.look()
    process.spawn(shelf.follow(), "follow-models")
    process.spawn(told.write(), "write-buckets")
    await bus.answer("analyze.models.status", shelf.answer_status)
    await bus.answer("analyze.models.optimize", shelf.answer_optimize)
    members = Members(process, ready)
    consumers = subjects.analyze_consumers(process.common.mint_partitions)
    await _know_place(process, consumers)

    def worker(part: int) -> Worker:
        stage = Analyzing(process, models, told, part, len(consumers))
        fence = OwnerRecord(bus, stage.output, subjects.decisions_owner_subject(part), part, members.me)
        return Worker(process, consumers[part], stage, fence, ready)

    await Parts(process, members, ready, len(consumers), worker, stands_by=settings.stand_by).run()


def cli() -> None:
    """Run the analyze process. Settings come from MINTLINE_… and MINTLINE_ANALYZE_… variables."""
    run("analyze", main, AnalyzeSettings, FIGURES)


if __name__ == "__main__":
    cli()
