"""The figures that observer reads from other processes' statuses, by name, and its own vocabulary.

Everything else a process reports is passed on to screens unread. A figure counts since its process started; what must
survive a restart is taken from streams instead (`tally.py`, `creations.py`).
"""

from __future__ import annotations

from observer.health.levels import Level
from observer.tally import STRATEGIES
from runtime.vocabulary import LAG_BUCKETS_S, OTHER, Figure, Vocabulary

INGEST, ANALYZE, DISPATCH, BOTS, OBSERVER, PORTAL = SERVICES = (
    "ingest",
    "analyze",
    "dispatch",
    "bots",
    "observer",
    "portal",
)

# Those that work through a stream.
STAGES = (ANALYZE, DISPATCH, BOTS)

# ingest: 1 while the feed is connected and subscribed, else 0; and since when that is so.
FEED_RUNNING = "feed_running"
FEED_SINCE_AT_NS = "feed_since_at_ns"

OWN: Vocabulary = {
    "polls_total": "Rounds of questions to the broker",
    "polls_failed_total": "Rounds in which the broker did not answer everything",
    "ledger_lines_total": "Lines of the ledger folded since the start",
    "events_malformed_total": Figure(
        "Messages that could not be read, by the stream or subject they came from",
        {"source": ("ADVISORIES", "DECISIONS", "FILLS", "KV_bots", "SIGNALS", "TOKENS", "status")},
    ),
    "active_bots": "Users whose bot is wanted running",
    "checks_failing": "Health checks that are not good",
    "checks": Figure("Health checks by level", {"level": tuple(Level)}),
    "probes_failed_total": Figure(
        "Questions beside the polls that got no answer, by whom they were asked",
        {"of": ("broker", DISPATCH, BOTS, "vault", OTHER)},
    ),
    "broker_healthy": Figure(
        "Whether nats-server calls itself well; absent where its monitoring is not known or does not answer",
        later=True,
    ),
    "max_capacity_bots": "Bots that this installation is meant for",
    "tokens_per_minute": "Creations that TOKENS stored in the last minute",
    "realised_lamports": Figure(
        "Profit and loss of all sales, fees included, over the whole ledger, by the strategy that bought",
        {"strategy": STRATEGIES},
        later=True,
    ),
    "process_last_seen_at_ns": Figure("When a process of a service was last heard", {"service": SERVICES}),
    "answers_total": "Requests answered on observer's subjects",
    "canary_last_received_at_ns": Figure(
        "When the newest canary was sent that has come through the whole line; absent where none is sent", later=True
    ),
    "canary_stage_last_at_ns": Figure(
        "When the newest canary was sent that a stage is done with: the first stage that stands still is the one",
        {"stage": (INGEST, *STAGES)},
        later=True,
    ),
    "canary_interval_ns": "Time between two canaries; 0: none is sent",
    "canary_delay_seconds": Figure(
        "Time from the sending of a canary to its storing behind a stage",
        {"stage": (INGEST, ANALYZE, DISPATCH)},
        LAG_BUCKETS_S,
    ),
}
