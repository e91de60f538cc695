"""The alert path's canary: an alert that always fires and goes the whole way, so that silence is known to be good news.

    Prometheus      MintlineCanary fires, always
    Alertmanager    posts it every 5 minutes, as long as Prometheus says so
    webhook         a CANARY is stored in ALERTS, meant for the canary's channel
    outbox          queued, recorded before and after its try, and paced like any message
    chat            Telegram's answer names the message that people would have seen: the way is open

Without a canary chat the way ends where ALERTS gives the canary back to the outbox. Canaries are never held back, muted
or told in a digest; one that arrived is in no list of notifications. While one waits for its chat no other is stored:
when the chat is back, one tells as much as a hundred.

When the round ended that ended last is known from the bucket `deliveries` or from ALERTS, so no start forgets it.
"""

from __future__ import annotations

from collections.abc import Mapping

from observer.notify.alertmanager import CANARY as NAME
from observer.notify.alerts import ALERTMANAGER
from observer.notify.channels import CANARY, CanaryChat, Channel
from observer.notify.outbox import Outbox
from runtime.telemetry import Figures
from schemas.alerts import Alert, Delivery, Happening, Level, Outcome, alert_id

SUMMARY = "Alerts reach this chat."


class AlertPath:
    """What is known of the way. Tell it of each canary at each place."""

    def __init__(self, figures: Figures, channels: Mapping[str, Channel]) -> None:
        self._figures = figures
        self._chat = channels.get(CANARY)

    def arrived(self, outbox: Outbox, now_ns: int) -> list[Alert]:
        """By the webhook. Returns what is to be stored."""
        self._figures.put("alert_path_last_arrival_at_ns", now_ns)
        if self._chat is not None and outbox.busy(CANARY):
            return []
        return [
            Alert(
                id=alert_id(NAME, now_ns, Happening.CANARY, Level.INFO),
                fingerprint=NAME, name=NAME, level=Level.INFO, state=Happening.CANARY, source=ALERTMANAGER,
                summary=SUMMARY, channel=CANARY, started_at_ns=now_ns, at_ns=now_ns,
            )
        ]  # fmt: skip

    def stored(self, alert: Alert, at_ns: int) -> None:
        """ALERTS has given it back, now or at a start."""
        if alert.state is Happening.CANARY and self._chat is None:
            self._ended(at_ns, at_ns - alert.at_ns)

    def settled(self, record: Delivery) -> bool:
        """A delivery has ended, now or in an earlier life. True: as a canary's should, so nobody need hear of it."""
        if record.state is not Happening.CANARY or record.outcome is not Outcome.SENT:
            return False
        self._ended(record.settled_at_ns, record.settled_at_ns - record.queued_at_ns)
        if isinstance(self._chat, CanaryChat) and record.message_ids:
            self._chat.newest = max(self._chat.newest, record.message_ids[-1])
        return True

    def _ended(self, at_ns: int, took_ns: int) -> None:
        if at_ns > self._figures["alert_path_last_round_trip_at_ns"]:
            self._figures.put("alert_path_last_round_trip_at_ns", at_ns)
            self._figures.put("alert_path_delay_ns", max(0, took_ns))
