"""What the notifier counts, and the values that its labels may have."""

from __future__ import annotations

from typing import get_args

from observer.notify.outcomes import Result
from runtime.vocabulary import LATENCY_BUCKETS_S, Figure, Vocabulary
from schemas.alerts import FINAL, Level

KINDS = ("telegram", "apprise", "canary", "nobody")

FIGURES: Vocabulary = {
    "notifications_total": Figure(
        "Notifications that came to an end, by kind of channel and state",
        {"channel": KINDS, "state": tuple(sorted(FINAL))},
    ),
    "notification_tries_total": Figure(
        "Tries to send, by kind of channel and what they came to",
        {"channel": KINDS, "result": tuple(result.__name__.lower() for result in get_args(Result))},
    ),
    "notification_delivery_seconds": Figure(
        "Time from an alert's being found to a channel's having taken all of it, by kind of channel",
        {"channel": KINDS[:-1]},
        LATENCY_BUCKETS_S,
    ),
    "notifications_queued": "Notifications that wait to be sent",
    "notifications_held": "Notifications held back for a digest, or until an alert that flaps is calm",
    "notification_oldest_queued_at_ns": "When the oldest notification that waits was written; 0 when none waits",
    "notification_channels_disabled": "Channels that can be sent to no more, until they are enabled",
    "alert_path_last_arrival_at_ns": "When Alertmanager last sent the canary alert; 0 before",
    "alert_path_last_round_trip_at_ns": "When the canary alert last arrived in its chat, or without one in the outbox",
    "alert_path_delay_ns": "How long that one took from the webhook on",
    "alerts_open": Figure("Alerts that last, by level", {"level": tuple(Level)}),
    "alert_webhooks_total": Figure(
        "What Alertmanager sent, by how it was answered",
        {"outcome": ("stored", "refused", "malformed", "unavailable")},
    ),
}
