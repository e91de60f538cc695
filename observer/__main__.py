"""observer: `status.>`, streams and the host -> facts -> answers on `observer.stats` and `observer.health`."""

from __future__ import annotations

from observer import figures
from observer.backup import backups
from observer.letters import advisories
from observer.measure import FIGURES as MEASURED
from observer.measure import Measure
from observer.notify import figures as notify_figures
from observer.notify.findings import findings, job_alert
from observer.notify.notifier import Notifier
from observer.poll import ObserverSettings, Poll
from observer.schedule import scheduler
from observer.schedule.jobs import schedule
from runtime.process import Process, run
from runtime.vocabulary import Vocabulary

FIGURES: Vocabulary = {
    **figures.OWN, **notify_figures.FIGURES, **scheduler.FIGURES, **backups.FIGURES, **advisories.FIGURES, **MEASURED,
}  # fmt: skip


async def main(process: Process, settings: ObserverSettings) -> None:
    poll = Poll(process, settings)
    await poll.serve()
    notifier = Notifier(process, settings)
    process.routes["POST", "/alerts"] = notifier.webhook
    poll.judged = lambda verdict: notifier.found(findings(verdict))
    process.spawn(notifier.run(), "notify")
    process.spawn(poll.poll(), "poll")
    process.spawn(poll.fold(), "fold")
    process.spawn(poll.probes.run(), "probes")
    measure = Measure(process, settings, poll.business)
    process.spawn(measure.run(), "measure")
    process.spawn(measure.follow_decisions(), "follow-decisions")
    process.spawn(backups.run(process, settings), "backups")
    process.spawn(schedule(process, settings, lambda notice: notifier.tell(job_alert(notice))).run(), "schedule")
    advised = advisories.Advisories(process)
    process.spawn(advised.run(), "advisories")
    process.spawn(advised.count_letters(), "dead-letters")
    folded = process.spawn(poll.folded.wait(), "folded")
    folded.add_done_callback(lambda task: process.ready(not task.cancelled()))
    await process.stop.wait()


def cli() -> None:
    run("observer", main, ObserverSettings, FIGURES)


if __name__ == "__main__":
    cli()
