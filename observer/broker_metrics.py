"""What the broker says of its streams and consumers -> figures; pure.

Durable consumers only, and as the leader has them: the broker's interface is answered by nobody else. What it did not
say is absent; what it says is not there is `asset_state{state="missing"}`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from observer.times import SECOND_NS, parse_iso
from runtime.vocabulary import Figure, Vocabulary
from schemas.subjects import LAG_THRESHOLD, STREAMS, Consumer

Answer = Mapping[str, Any] | None  # None: no answer; an empty one: it is not there
Labels = Mapping[str, str]
Series = Mapping[str, list[tuple[Labels, int]]]  # by figure

STREAM_NAMES: Final = tuple(stream.name for stream in STREAMS)
OF_STREAM: Final = {"stream": STREAM_NAMES, "discard": ("new", "old")}
OF_DURABLE: Final[Mapping[str, tuple[str, ...]]] = {"stream": STREAM_NAMES, "durable": ()}
OF_ASSET: Final[Mapping[str, tuple[str, ...]]] = {
    "kind": ("stream", "consumer"), "stream": STREAM_NAMES, "durable": (), "state": ("ok", "missing", "drifted"),
}  # fmt: skip


def _stream(help_: str) -> Figure:
    return Figure(help_, OF_STREAM, later=True, told=False)


def _durable(help_: str) -> Figure:
    return Figure(help_, OF_DURABLE, later=True, told=False)


SERIES: Final[Vocabulary] = {
    "stream_messages": _stream("Messages that a stream holds"),
    "stream_bytes": _stream("Bytes that a stream holds"),
    "stream_max_bytes": _stream("Bytes that a stream may hold; 0 for no limit"),
    "stream_max_age_ns": _stream("Age at which a stream forgets a message; 0 for never"),
    "stream_first_sequence": _stream("Sequence of the oldest message that a stream holds"),
    "stream_last_sequence": _stream("Sequence of the newest message, that is how many were ever stored"),
    "stream_oldest_message_at_ns": _stream("When the oldest message in a stream was stored; absent while empty"),
    "stream_last_message_at_ns": _stream("When a stream stored its newest message: how fresh the stage before it is"),
    "consumer_pending": _durable("Messages that a durable consumer has not been given yet"),
    "consumer_ack_pending": _durable("Messages that a durable consumer was given and has not acknowledged"),
    "consumer_ack_pending_limit": _durable("How many those may be before delivery stops; 0 for no limit"),
    "consumer_unprocessed": _durable("Messages that a durable consumer has not acknowledged, given or not"),
    "consumer_waiting": _durable("Standing requests for messages; 0: nobody asks"),
    "consumer_delivered_sequence": _durable("Stream sequence of the last message given"),
    "consumer_ack_floor": _durable("Stream sequence up to which everything is acknowledged"),
    "consumer_redelivered": _durable("Messages given more than once and not acknowledged"),
    "consumer_oldest_unprocessed_at_ns": _durable(
        "When the first message that a durable consumer has not acknowledged was stored; absent when there is none"
    ),
    "consumer_lag_threshold_ns": _durable("How old that one may be: what the consumer's own metadata says"),
    "asset_state": Figure(
        "Whether a stream or a durable consumer is as wanted; durable is empty for a stream", OF_ASSET, later=True,
        told=False,
    ),
}  # fmt: skip

FIGURES: Final[Vocabulary] = {
    **SERIES,
    "feed_last_message_at_ns": "When TOKENS stored its newest creation, trade or migration, not a record of a gap",
    "tokens_created_last_at_ns": "When TOKENS stored its newest creation",
    "jetstream_api_requests_total": Figure("Requests to JetStream's interface since the broker's start", later=True),
    "jetstream_api_errors_total": Figure("Those that it answered with an error", later=True),
    "broker_slow_consumers_total": Figure(
        "Connections that the broker cut since its start because they read too slowly", later=True
    ),
    "clock_skew_ns": Figure("Our clock less the broker's", later=True),
    "broker_rounds_total": "Rounds of questions about streams and consumers",
    "broker_rounds_failed_total": "Rounds in which something was not answered",
}  # fmt: skip


def series(
    streams: Mapping[str, Answer],
    consumers: Mapping[Consumer, Answer],
    oldest_at_ns: Mapping[Consumer, int],
    drifted: frozenset[tuple[str, str]],
) -> Series:
    """All series of one round, by figure; a figure without any is there, empty.

    oldest_at_ns: of those that are behind. drifted: (stream, durable or ""), whose configuration is another one.
    """
    found: dict[str, list[tuple[Labels, int]]] = defaultdict(list, {name: [] for name in SERIES})
    for name, info in streams.items():
        _asset(found, "stream", name, "", info, (name, "") in drifted)
        for figure, labels, value in _of_stream(name, info) if info else ():
            found[figure].append((labels, value))
    for consumer, info in consumers.items():
        place = (consumer.stream, consumer.name)
        _asset(found, "consumer", *place, info, place in drifted)
        for figure, value in _of_consumer(info, oldest_at_ns.get(consumer)) if info else ():
            found[figure].append(({"stream": consumer.stream, "durable": consumer.name}, value))
    return found


def _asset(
    found: Mapping[str, list[tuple[Labels, int]]], kind: str, stream: str, durable: str, info: Answer, drifted: bool
) -> None:
    if info is None:
        return
    actual = "missing" if not info else "drifted" if drifted else "ok"
    for state in OF_ASSET["state"]:
        labels = {"kind": kind, "stream": stream, "durable": durable, "state": state}
        found["asset_state"].append((labels, int(state == actual)))


def _of_stream(name: str, info: Mapping[str, Any]) -> Iterator[tuple[str, Labels, int]]:
    config, state = info["config"], info["state"]
    labels = {"stream": name, "discard": config["discard"]}
    yield "stream_messages", labels, state["messages"]
    yield "stream_bytes", labels, state["bytes"]
    yield "stream_max_bytes", labels, max(0, config["max_bytes"])
    yield "stream_max_age_ns", labels, config["max_age"]
    yield "stream_first_sequence", labels, state["first_seq"]
    yield "stream_last_sequence", labels, state["last_seq"]
    oldest_at_ns, last_at_ns = parse_iso(state.get("first_ts")), parse_iso(state.get("last_ts"))
    if state["messages"] and oldest_at_ns:
        yield "stream_oldest_message_at_ns", labels, oldest_at_ns
    if last_at_ns:
        yield "stream_last_message_at_ns", labels, last_at_ns


def _of_consumer(info: Mapping[str, Any], oldest_at_ns: int | None) -> Iterator[tuple[str, int]]:
    config = info["config"]
    pending, unacked = info["num_pending"], info["num_ack_pending"]
    yield "consumer_pending", pending
    yield "consumer_ack_pending", unacked
    yield "consumer_ack_pending_limit", max(0, config.get("max_ack_pending", 0))
    yield "consumer_unprocessed", pending + unacked
    yield "consumer_waiting", info["num_waiting"]
    yield "consumer_delivered_sequence", info["delivered"]["stream_seq"]
    yield "consumer_ack_floor", info["ack_floor"]["stream_seq"]
    yield "consumer_redelivered", info["num_redelivered"]
    if oldest_at_ns is not None:
        yield "consumer_oldest_unprocessed_at_ns", oldest_at_ns
    threshold = config.get("metadata", {}).get(LAG_THRESHOLD, "")
    if threshold.isascii() and threshold.isdigit():
        yield "consumer_lag_threshold_ns", int(threshold) * SECOND_NS


def behind(consumers: Iterable[tuple[Consumer, Answer]]) -> list[tuple[Consumer, int]]:
    """Those that have not acknowledged everything, and up to where they have."""
    return [
        (consumer, info["ack_floor"]["stream_seq"])
        for consumer, info in consumers
        if info and info["num_pending"] + info["num_ack_pending"]
    ]
