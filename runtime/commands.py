"""The `mintline` table: name, sentence, entry point as text, resolved when it is called."""

from __future__ import annotations

import cyclopts

app = cyclopts.App(
    name="mintline",
    help="One pump.fun feed, one analysis of each token, a signal to every user's own bot, over NATS JetStream.",
    version="0.1.0",
)

SERVICES = {
    "ingest": "The one WebSocket to the venue -> TOKENS.",
    "analyze": "TOKENS -> DECISIONS: one analysis of each token, whatever the number of users.",
    "dispatch": "DECISIONS -> SIGNALS: one signal for each user whose bot wants it.",
    "bots": "SIGNALS -> FILLS: every user's orders, positions and ledger.",
    "observer": "Watches all of it: figures, health, the admin JSON.",
    "portal": "The one web door for people.",
}

COMMANDS = {
    "up": ("runtime.up:cli", "Everything on this machine, under one supervisor; `--demo` brings a market and users."),
    "simulate": ("ingest.simulator:cli", "The market simulator alone: a WebSocket server in PumpPortal's protocol."),
    "record": ("ingest.recorder:cli", "Keep the raw frames of a feed, a JSON line each."),
    "replay": ("observer.replay.command:cli", "Recorded frames through the same analysis and bots, without a broker."),
    "train": ("analyze.train:cli", "A model for AI_PREDICTIONS from recorded streams, with its report."),
    "quote": ("bots.quote:cli", "The market mathematics on a file of vectors, a JSON line each."),
    "audit": ("observer.readback:cli", "Read the streams back: is any signal lost or doubled?"),
    "trace": ("observer.trace_command:cli", "A token's way with times, from the streams alone, by mint or order."),
    "doctor": (
        "observer.health.doctor:cli",
        "Is the running system well? Every check, and what to do about those that are not.",
    ),
    "lag": ("observer.lag:cli", "How far behind each consumer is, in messages and in seconds."),
    "link": ("portal.link:cli", "A one-time link that logs whoever opens it first in as admin."),
    "enrol": ("portal.enrol:cli", "Put bots into the `bots` bucket: of a file, or demo users."),
    "backup": ("observer.backup.command:app", "Make, list, verify and restore backups of all streams and buckets."),
    "alerts": ("observer.notify.command:app", "What is wrong, what was told to whom; mute, enable, try out."),
    "dead": ("observer.letters.command:app", "What could not be processed: list it, show it, send it again."),
    "report": ("observer.reports.report_command:cli", "The last 24 hours in figures, or an archived day."),
    "stats": ("observer.reports.stats_command:app", "What the admin interface tells, now or from the archive."),
    "logs": ("runtime.logs_command:cli", "What the processes of `mintline up` logged, rotated files included."),
    "schedule": ("observer.schedule.command:app", "The observer's jobs, and the same for another scheduler."),
    "bot": ("portal.bot_command:app", "Start, stop, kill and look at users' bots."),
    "targets": ("runtime.targets:cli", "Where the processes of `mintline up` serve their figures, for Prometheus."),
}

for _name, _sentence in SERVICES.items():
    app.command(f"{_name}.__main__:cli", name=_name, help=_sentence)
for _name, (_entry, _sentence) in COMMANDS.items():
    app.command(_entry, name=_name, help=_sentence)


def main() -> None:
    """Run one command. Exit status 0, 1 (it failed, with a sentence on stderr) or 2 (bad arguments or settings)."""
    app()


if __name__ == "__main__":
    main()
