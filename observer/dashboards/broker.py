"""Broker: JetStream's streams and durable consumers, as the observer asks about them; pure."""

from __future__ import annotations

from observer.dashboards.board import Board, Choice, Row
from observer.dashboards.limits import ANY_IS_BAD, ANY_IS_FAIR, PERCENT, Limits
from observer.dashboards.panels import (
    BYTES,
    COUNT,
    MESSAGES,
    PLAIN_COUNT,
    RATIO,
    REQUESTS,
    SECONDS,
    UP_OR_DOWN,
    YES_OR_NO,
    Column,
    lines,
    rows,
    tile,
)
from observer.dashboards.promql import SHOWN, most, pace, per_second, risen, share

_STREAM = 'stream=~"$stream"'
_EACH = ("stream", "durable")
_LEGEND = "{{stream}} {{durable}}"
_SATURATION = (
    f"max by (stream, durable) (mintline_consumer_ack_pending{{{_STREAM}}}"
    f" / (mintline_consumer_ack_pending_limit{{{_STREAM}}} > 0))"
)
_LAG = f"time() - max by (stream, durable) (mintline_consumer_oldest_unprocessed_timestamp_seconds{{{_STREAM}}})"


def _of(metric: str) -> str:
    """Of the streams that are chosen."""
    return f"{metric}{{{_STREAM}}}"


def _room(matcher: str = "") -> str:
    chosen = f"{{{_STREAM}{matcher}}}"
    return f"max by (stream, discard) (mintline_stream_bytes{chosen} / (mintline_stream_max_bytes{chosen} > 0))"


def board(limits: Limits) -> Board:
    return Board(
        uid="mintline-broker",
        title="Broker",
        about="Streams and durable consumers, as their leaders have them; asked by the observer.",
        jobs="mintline_broker_rounds_total",
        choices=(Choice("stream", "Stream", "mintline_stream_messages"),),
        rows=(_glance(limits), _rates(limits), _consumers(limits), _streams(limits), _saturation(limits), _given_up()),
    )


def _glance(limits: Limits) -> Row:
    def assets(state: str) -> str:
        return f'sum (mintline_asset_state{{state="{state}"}})'

    return Row("At a glance", (
        tile("Broker", "Whether the observer is connected to it.", COUNT, most('broker_up{job="observer"}'),
             means=UP_OR_DOWN, width=2),
        tile("Health", "Whether nats-server calls itself well; not there where its monitoring is not known.", COUNT,
             most("broker_healthy"), means=YES_OR_NO, width=2),
        tile("Worst lag", "Age of the oldest message that any durable consumer has not acknowledged.", SECONDS,
             f"max ({_LAG}) or vector(0)", steps=limits.check("lag_s")),
        tile("Missing", "Streams and consumers that should be there.", COUNT, assets("missing"), steps=ANY_IS_BAD),
        tile("Drifted", "Streams and consumers that are not configured as they should be.", COUNT, assets("drifted"),
             steps=ANY_IS_FAIR),
        tile("Unanswered", "Of the rounds of questions in the time shown: in how many something was not answered.",
             RATIO, share("broker_rounds_failed_total", "broker_rounds_total", over=SHOWN),
             steps=limits.alert("MintlineBrokerRoundsFailing"), trend=False),
        tile("Cut connections", "Connections that the broker cut in the time shown, since they read too slowly.", COUNT,
             risen("broker_slow_consumers_total", over=SHOWN), steps=ANY_IS_FAIR, trend=False),
        tile("Clock skew", "By how much the clocks of observer and broker differ.", SECONDS,
             "max (abs(mintline_clock_skew_seconds))", steps=limits.alert("MintlineClockSkew")),
        tile("Dead letters", "Letters in DEAD.", COUNT, "sum (mintline_dead_letters) or vector(0)", width=2),
    ))  # fmt: skip


def _rates(limits: Limits) -> Row:
    failed = share("jetstream_api_errors_total", "jetstream_api_requests_total")
    return Row("Rate and errors", (
        lines("Stored", "Messages that each stream stores.", MESSAGES,
              {"{{stream}}": pace(_of("stream_last_sequence"), "stream")}),
        lines("Requests", "To JetStream's interface.", REQUESTS,
              {"requests": per_second("jetstream_api_requests_total"),
               "errors": per_second("jetstream_api_errors_total")}),
        lines("Errors", "Of the requests. Looking for a key that is not there is one, and usual. The line is where "
              "MintlineApiErrors begins.", RATIO, {"errors": failed}, steps=limits.alert("MintlineApiErrors")),
    ))  # fmt: skip


def _consumers(limits: Limits) -> Row:
    def of(metric: str) -> str:
        return most(_of(f"consumer_{metric}"), *_EACH)

    columns = (
        Column("Lag", _LAG, SECONDS, limits.check("lag_s")),
        Column("Lag allowed", of("lag_threshold_seconds"), SECONDS),
        Column("Not acknowledged", of("unprocessed")),
        Column("Not given", of("pending")),
        Column("Given, open", of("ack_pending")),
        Column("Of limit", _SATURATION, RATIO, limits.alert("MintlineConsumerAckSaturated")),
        Column("Requests waiting", of("waiting")),
        Column("Given again", of("redelivered"), COUNT, ANY_IS_FAIR),
        Column("Delivered up to", of("delivered_sequence"), PLAIN_COUNT),
        Column("Acknowledged up to", of("ack_floor"), PLAIN_COUNT),
    )
    return Row("Durable consumers", (
        lines("Lag", "Age of the oldest message that a consumer has not acknowledged, the ten latest; nothing where "
              "there is none. The lines are the health check's limits; each consumer's own is in the table.",
              SECONDS, {_LEGEND: f"topk(10, {_LAG})"}, steps=limits.check("lag_s")),
        lines("Not acknowledged", "Messages that a consumer has not acknowledged, given or not; the ten that have "
              "most.", COUNT, {_LEGEND: f"topk(10, {of('unprocessed')})"}),
        lines("Delivered", "Messages that a consumer is given; the ten that get most.", MESSAGES,
              {_LEGEND: f"topk(10, {pace(_of('consumer_delivered_sequence'), *_EACH)})"}),
        rows("Durable consumers", "Each by its stream and its durable name.",
             {"stream": "Stream", "durable": "Durable"}, columns, first="Lag", height=11),
    ))  # fmt: skip


def _streams(limits: Limits) -> Row:
    each = ("stream", "discard")

    def of(metric: str) -> str:
        return most(_of(f"stream_{metric}"), *each)

    def since(metric: str) -> str:
        return f"time() - {of(f'{metric}_message_timestamp_seconds')}"

    columns = (
        Column("Messages", of("messages")),
        Column("Bytes", of("bytes"), BYTES),
        Column("May hold", f"{of('max_bytes')} > 0", BYTES),
        Column("Of that", _room(), RATIO),
        Column("Newest", since("last"), SECONDS),
        Column("Oldest", since("oldest"), SECONDS),
        Column("Forgets after", f"{of('max_age_seconds')} > 0", SECONDS),
        Column("First", of("first_sequence"), PLAIN_COUNT),
        Column("Last", of("last_sequence"), PLAIN_COUNT),
    )
    return Row("Streams and buckets", (
        rows("Streams and buckets", "When it is full, one that discards the old forgets, and one that discards the new "
             "refuses.", {"stream": "Stream", "discard": "Discards"}, columns, first="Bytes", height=12),
        lines("Bytes", "What each holds.", BYTES, {"{{stream}}": of("bytes")}, width=12, stacked=True),
        lines("Of what may be held", "Of those that refuse when they are full. The lines are the health check's "
              "limits.", RATIO, {"{{stream}}": _room(', discard="new"')}, steps=limits.check("stream_percent", PERCENT),
              width=12, most=1),
    ))  # fmt: skip


def _saturation(limits: Limits) -> Row:
    def of(metric: str) -> str:
        return f"topk(10, {most(_of(f'consumer_{metric}'), *_EACH)})"

    return Row("Use and saturation", (
        lines("Unacknowledged, of the limit", "At 1 the broker stops delivering, and tells nobody. The line is where "
              "MintlineConsumerAckSaturated begins.", RATIO, {_LEGEND: f"topk(10, {_SATURATION})"},
              steps=limits.alert("MintlineConsumerAckSaturated"), most=1),
        lines("Requests waiting", "Standing requests for messages; 0 where nobody asks, or all are busy.", COUNT,
              {_LEGEND: of("waiting")}),
        lines("Given again", "Messages given more than once and not acknowledged.", COUNT,
              {_LEGEND: of("redelivered")}),
    ))  # fmt: skip


def _given_up() -> Row:
    return Row("Given up", (
        lines("Advisories", "What the broker said of messages given up and of lost quorums, by kind.", COUNT,
              {"{{kind}}": risen("advisories_total", "kind")}, width=12, bars=True, stacked=True),
        lines("Letters in DEAD", "By the stream that the message came from; FEED is a frame. `mintline dead list` "
              "shows them.", COUNT, {"{{stream}}": most("dead_letters", "stream")}, width=12, stacked=True),
    ))  # fmt: skip
