"""Names of OpenTelemetry's messaging conventions (1.44, status Development) and our own, in one place: they may change.

NATS is no registered system there, so what is particular to it is named `messaging.nats.*`.
"""

from __future__ import annotations

from typing import Final

SYSTEM: Final = "messaging.system"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION_NAME: Final = "messaging.destination.name"
DESTINATION_TEMPLATE: Final = "messaging.destination.template"
CONSUMER_GROUP: Final = "messaging.consumer.group.name"
CLIENT_ID: Final = "messaging.client.id"
MESSAGE_ID: Final = "messaging.message.id"
BATCH_COUNT: Final = "messaging.batch.message_count"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"

# Metrics.
OPERATION_DURATION: Final = "messaging.client.operation.duration"
PROCESS_DURATION: Final = "messaging.process.duration"
SENT_MESSAGES: Final = "messaging.client.sent.messages"
CONSUMED_MESSAGES: Final = "messaging.client.consumed.messages"

# Ours.
STREAM_SEQUENCE: Final = "messaging.nats.stream.sequence"
KEPT: Final = "mintline.kept"  # a trace that the sampler had dropped: why it was kept

NATS: Final = "nats"
ACK_DESTINATION: Final = "$JS.ACK"  # never the raw acknowledgement subject: each is another one

_TEMPLATES: Final = {
    "decisions": "decisions.{strategy}.{mint}",
    "signals": "signals.{partition}.{user}",
    "fills": "fills.{partition}.{user}",
    "dead": "dead.{stream}.{consumer}",
    "alerts": "alerts.{level}",
}


def template(subject: str) -> str:
    """What a subject is an instance of, published or stored: `tokens.created.{mint}`. Names of spans are bounded by
    it; a subject of no stream of ours is "other"."""
    head, _, rest = subject.partition(".")
    if head == "tokens":
        kind = rest.partition(".")[0]
        return "tokens.gap.{feed}" if kind == "gap" else f"tokens.{kind}.{{mint}}"
    return _TEMPLATES.get(head, "other")
