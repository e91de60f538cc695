"""observer: `status.>`, streams and the host -> facts -> answers on `observer.stats` and `observer.health`."""

from __future__ import annotations

from observer import advisories, backups, figures, notify, scheduler
from observer.findings import findings, job_alert
from observer.jobs import schedule
from observer.notify import Notifier
from observer.poll import ObserverSettings, Poll
from runtime.process import Process, run

FIGURES = {**figures.OWN, **notify.FIGURES, **scheduler.FIGURES, **backups.FIGURES, **advisories.FIGURES}


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
