"""Facts and a verdict -> the two JSON answers of the admin interface, exactly as the contract spells them.

Where each number comes from:

    active_bots, subscribers   users whose newest value in the `bots` bucket is "running"; each hears the one feed
    is_running                 ingest is alive and says that it is connected and subscribed
    tokens_received            `tokens.created` messages in TOKENS (see `creations.py`); trades are not in it
    tokens_per_minute          those that TOKENS stored in the last 60 s
    uptime_seconds             since the feed was connected and subscribed, 0 while it is not
    tokens_analyzed            those of tokens_received that analyze has acknowledged
    signals_sent               last sequence of SIGNALS less its canaries: every signal ever stored, expired ones, too
    signals_received           of a user: signals with an outcome in FILLS
    uptime (of a bot)          seconds since its user wanted it running
    streams[].contents         TOKENS: as above; FILLS: entries by kind over the whole ledger
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from observer import figures
from observer.facts import ConsumerFacts, Facts, Seen, StageFacts, StreamFacts, alive, figure
from observer.health.checks import feed_running
from observer.health.verdict import Check, Status, Verdict
from observer.times import SECOND_NS, age_ms, iso
from schemas.codec import Decoder

ARCHITECTURE = "OPTIMIZED_CENTRALIZED"
PER_PAGE_DEFAULT = 50
PER_PAGE_MAX = 500
PAGE_MAX = 1_000_000

LINE = ("TOKENS", "DECISIONS", "SIGNALS", "FILLS")


class PageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which bots to list. page counts from 1; behind the last page there are none."""

    page: Annotated[int, msgspec.Meta(ge=1, le=PAGE_MAX)] = 1
    per_page: Annotated[int, msgspec.Meta(ge=1, le=PER_PAGE_MAX)] = PER_PAGE_DEFAULT


class FeedStats(msgspec.Struct, frozen=True, kw_only=True):
    is_running: bool
    subscribers: int
    tokens_received: int
    uptime_seconds: int
    tokens_per_minute: int


class BotStats(msgspec.Struct, frozen=True, kw_only=True):
    user_id: str
    signals_received: int
    uptime: int


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    active_bots: int
    tokens_analyzed: int
    signals_sent: int
    bots: list[BotStats]


class StreamStats(msgspec.Struct, frozen=True, kw_only=True):
    """stored: ever; messages, bytes: kept now. last_at: None while empty. Canaries count for bytes only.

    reader: the service that works through it, None for the ledger; lag: messages it has not acknowledged, lag_seconds:
    the age of the first of them, waiting: its standing pulls; None where not known. consumers: the same of each of the
    reader's consumers. contents: what is in it, by kind, where that is counted.
    """

    name: str
    stored: int
    messages: int
    bytes: int
    last_at: str | None
    reader: str | None
    lag: int | None
    lag_seconds: int | None
    waiting: int | None
    consumers: Sequence[ConsumerFacts]
    contents: Mapping[str, int]


class ProcessStats(msgspec.Struct, frozen=True, kw_only=True):
    """silence_ms: since it was last heard. figures: its own, as it names them."""

    service: str
    instance: str
    pid: int
    alive: bool
    ready: bool
    uptime_seconds: int
    silence_ms: int
    figures: Mapping[str, int]


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    active_bots: int
    architecture: str
    max_capacity: int
    feed_stats: FeedStats
    engine_stats: EngineStats
    streams: list[StreamStats]
    processes: list[ProcessStats]


class StatsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    success: bool
    timestamp: str
    stats: Stats


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A request that could not be answered, and why."""

    success: bool
    error: str


class HealthAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """success: whether the line works; the HTTP status is 200 then and 503 otherwise."""

    success: bool
    status: Status
    active_bots: int
    checks: dict[str, Check]


_page_request: Decoder[PageRequest] = Decoder(PageRequest)


def page_request(data: bytes) -> PageRequest:
    """A request's payload; empty asks for the first page. Raises MalformedEvent, which names the field at fault."""
    return _page_request(data or b"{}")


def stats(facts: Facts, page: PageRequest, max_capacity: int) -> StatsAnswer:
    active = len(facts.running)
    signals = facts.streams.get("SIGNALS")
    return StatsAnswer(
        success=True,
        timestamp=iso(facts.at_ns),
        stats=Stats(
            active_bots=active,
            architecture=ARCHITECTURE,
            max_capacity=max_capacity,
            feed_stats=FeedStats(
                is_running=feed_running(facts) is True,
                subscribers=active,
                tokens_received=facts.tokens_received,
                uptime_seconds=_feed_uptime_s(facts),
                tokens_per_minute=facts.tokens_per_minute,
            ),
            engine_stats=EngineStats(
                active_bots=active,
                tokens_analyzed=facts.tokens_analyzed,
                signals_sent=signals.stored if signals is not None else 0,
                bots=_bots(facts, page),
            ),
            streams=_streams(facts),
            processes=[_process(seen, facts.at_ns) for seen in facts.processes],
        ),
    )


def health(facts: Facts, verdict: Verdict) -> HealthAnswer:
    return HealthAnswer(
        success=verdict.status is not Status.UNHEALTHY,
        status=verdict.status,
        active_bots=len(facts.running),
        checks=verdict.checks,
    )


def _bots(facts: Facts, page: PageRequest) -> list[BotStats]:
    running, users = facts.running, facts.users
    first = (page.page - 1) * page.per_page
    # Shorter ids first puts numbered users in the order of their numbers.
    names = sorted(running, key=lambda name: (len(name), name))[first : first + page.per_page]
    return [
        BotStats(
            user_id=name,
            signals_received=users[name].signals_settled if name in users else 0,
            uptime=_whole_s(running[name], facts.at_ns),
        )
        for name in names
    ]


def _streams(facts: Facts) -> list[StreamStats]:
    """The line in its order, then whatever else was asked for."""
    readers = {stage.stream: stage for stage in facts.stages.values()}
    names = [name for name in LINE if name in facts.streams]
    names += [name for name in facts.streams if name not in LINE]
    return [_stream(facts.streams[name], readers.get(name), _contents(facts, name)) for name in names]


def _stream(stream: StreamFacts, reader: StageFacts | None, contents: Mapping[str, int]) -> StreamStats:
    return StreamStats(
        name=stream.name,
        stored=stream.stored,
        messages=stream.messages,
        bytes=stream.bytes,
        last_at=None if stream.last_at_ns is None else iso(stream.last_at_ns),
        reader=reader.service if reader is not None else None,
        lag=reader.lag if reader is not None else None,
        lag_seconds=reader.lag_seconds if reader is not None else None,
        waiting=reader.waiting if reader is not None else None,
        consumers=reader.consumers if reader is not None else (),
        contents=contents,
    )


def _contents(facts: Facts, stream: str) -> Mapping[str, int]:
    if stream == "TOKENS":
        return {"created": facts.tokens_received}
    if stream == "FILLS":
        totals = facts.totals
        return {
            "intents": totals.intents,
            "fills": totals.fills,
            "refused": totals.refused,
            "signals_settled": totals.signals_settled,
            "realised_lamports": totals.realised_lamports,
        }
    return {}


def _process(seen: Seen, now_ns: int) -> ProcessStats:
    status = seen.status
    return ProcessStats(
        service=status.service,
        instance=status.instance,
        pid=status.pid,
        alive=alive(seen, now_ns),
        ready=status.ready,
        uptime_seconds=_whole_s(status.started_at_ns, now_ns),
        silence_ms=age_ms(seen.seen_at_ns, now_ns),
        figures=status.figures,
    )


def _feed_uptime_s(facts: Facts) -> int:
    since_ns = figure(facts, figures.INGEST, figures.FEED_SINCE_AT_NS)
    return _whole_s(since_ns, facts.at_ns) if since_ns and feed_running(facts) else 0


def _whole_s(since_ns: int, now_ns: int) -> int:
    return max(0, now_ns - since_ns) // SECOND_NS
