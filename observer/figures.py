"""The figures that observer reads from other processes' statuses, by name, and its own vocabulary.

Everything else a process reports is passed on to screens unread. A figure counts since its process started; what must
survive a restart is taken from streams instead (`tally.py`, `creations.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

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

OWN: Mapping[str, str] = {
    "polls_total": "Rounds of questions to the broker",
    "polls_failed_total": "Rounds in which the broker did not answer everything",
    "ledger_lines_total": "Lines of the ledger folded since the start",
    "events_malformed_total": "Messages that could not be read, by the stream or subject they came from",
    "active_bots": "Users whose bot is wanted running",
    "checks_failing": "Health checks that are not good",
    "checks": "Health checks by level",
    "probes_failed_total": "Questions beside the polls that got no answer, by whom they were asked",
    "durable_lag_seconds": "Age of the first message that a consumer has not acknowledged; 0 when there is none",
    "answers_total": "Requests answered on observer's subjects",
}
