"""observer: `status.>`, streams and the host -> facts -> answers on `observer.stats` and `observer.health`."""

from __future__ import annotations

from observer import backups, figures, scheduler
from observer.jobs import schedule
from observer.measure import FIGURES as MEASURED
from observer.measure import Measure
from observer.poll import ObserverSettings, Poll
from runtime.process import Process, run
from runtime.vocabulary import Vocabulary

FIGURES: Vocabulary = {**figures.OWN, **scheduler.FIGURES, **backups.FIGURES, **MEASURED}


async def main(process: Process, settings: ObserverSettings) -> None:
    poll = Poll(process, settings)
    await poll.serve()
    process.spawn(poll.poll(), "poll")
    process.spawn(poll.fold(), "fold")
    process.spawn(poll.probes.run(), "probes")
    measure = Measure(process, settings, poll.business)
    process.spawn(measure.run(), "measure")
    process.spawn(measure.follow_decisions(), "follow-decisions")
    process.spawn(schedule(process, settings).run(), "schedule")
    process.spawn(backups.run(process, settings), "backups")
    folded = process.spawn(poll.folded.wait(), "folded")
    folded.add_done_callback(lambda task: process.ready(not task.cancelled()))
    await process.stop.wait()


def cli() -> None:
    run("observer", main, ObserverSettings, FIGURES)


if __name__ == "__main__":
    cli()
