"""Everything observer knows at one moment, as one struct: statuses, broker infos, host numbers and folds.

What was not learned is None or absent, never a zero that looks like a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from observer import figures
from observer.creations import Creations
from observer.tally import Tally, Totals, UserTally
from observer.times import SECOND_NS, parse_iso
from schemas import subjects
from schemas.events import ProcessStatus
from schemas.subjects import Consumer

# A process reports once a second; after this it counts as gone, and much later it is forgotten.
ALIVE_S_MAX = 5
REMEMBERED_S = 300
PROCESSES_MAX = 256

Info = Mapping[str, Any]
NOTHING: Mapping[str, int] = {}


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Percent, 0 to 100; None: not known (CPU needs two readings).

    stalled_percent: by resource, of the last minute, the time in which nothing could go on for want of it; a resource
    of which the kernel does not tell is absent.
    """

    cpu_percent: float | None = None
    memory_percent: float | None = None
    disk_percent: float | None = None
    stalled_percent: Mapping[str, float] = {}


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A process' newest status. seen_at_ns: by observer's clock, so that another machine's clock does no harm."""

    status: ProcessStatus
    seen_at_ns: int


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """The canaries in a stream: how many it keeps, how many it ever stored. last_at_ns: when it stored the newest
    message that is none; None where it holds no other."""

    kept: int = 0
    stored: int = 0
    last_at_ns: int | None = None


class CanaryFacts(msgspec.Struct, frozen=True, kw_only=True):
    """received_at_ns: when the newest canary was sent that has come through the whole line; None: none has yet."""

    interval_s: float
    received_at_ns: int | None


class StreamFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A stream's state, without its canaries, except for bytes and sequences. messages: kept now; stored: ever.
    last_at_ns: None while empty."""

    name: str
    messages: int
    bytes: int
    first_sequence: int
    last_sequence: int
    last_at_ns: int | None
    canaries: int = 0

    @property
    def stored(self) -> int:
        return max(0, self.last_sequence - self.canaries)


class ConsumerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How far behind one consumer is: in messages, and by the age of the first one that it has not acknowledged.

    waiting: standing pulls (0: nobody asks).
    """

    name: str
    lag: int
    lag_seconds: int
    waiting: int


class StageFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How far behind a stage is, over all its consumers.

    pending: messages not yet delivered; unacked: delivered, not acknowledged; waiting: standing pulls (0: nobody asks).
    acked_sequence: everything in the stream up to here is done, by every one of its consumers.
    consumers: each of them, in the stage's order.
    """

    service: str
    stream: str
    pending: int
    unacked: int
    waiting: int
    acked_sequence: int
    consumers: tuple[ConsumerFacts, ...] = ()

    @property
    def lag(self) -> int:
        return self.pending + self.unacked

    @property
    def lag_seconds(self) -> int:
        return max((consumer.lag_seconds for consumer in self.consumers), default=0)


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """Which consumers make up a service's place in the line. each_hears_all: or else a part of the stream each."""

    service: str
    stream: str
    consumers: tuple[Consumer, ...]
    each_hears_all: bool = False


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """One moment. running, users, totals: live views of the tally, for reading at once, not for keeping.

    streams, stages: by name and by service; absent: not known. tokens_received and the rest: see `creations.py`.
    folded: whether the folds have reached the end of their streams since observer started.
    canary: None where none is sent.
    """

    at_ns: int
    broker_up: bool
    folded: bool
    host: HostFacts
    processes: tuple[Seen, ...]
    streams: Mapping[str, StreamFacts]
    stages: Mapping[str, StageFacts]
    tokens_received: int
    tokens_per_minute: int
    tokens_analyzed: int
    running: Mapping[str, int]
    users: Mapping[str, UserTally]
    totals: Totals
    canary: CanaryFacts | None = None


def stages(partitions: int, mint_partitions: int = 1) -> tuple[Stage, ...]:
    """The line's stages in order."""
    signal_consumers = tuple(subjects.partition_consumer(p) for p in range(partitions))
    return (
        Stage(
            service=figures.ANALYZE,
            stream="TOKENS",
            consumers=subjects.analyze_consumers(mint_partitions),
            each_hears_all=True,
        ),
        Stage(service=figures.DISPATCH, stream="DECISIONS", consumers=(subjects.DISPATCH,)),
        Stage(service=figures.BOTS, stream="SIGNALS", consumers=signal_consumers),
    )


def gather(
    now_ns: int,
    *,
    broker_up: bool,
    folded: bool,
    host: HostFacts,
    processes: Mapping[tuple[str, str], Seen],
    streams: Mapping[str, Info | None],
    stages: Sequence[tuple[Stage, Sequence[Info | None]]],
    creations: Creations,
    tally: Tally,
    oldest_at_ns: Mapping[str, int] = NOTHING,
    beside: Mapping[str, Beside] = MappingProxyType({}),
    canary: CanaryFacts | None = None,
) -> Facts:
    """Put it together. What the broker said is ignored while it is away: it would be old.

    streams: STREAM.INFO answers by name; stages: CONSUMER.INFO answers in the order of each stage's consumers; None
    where there was no answer. oldest_at_ns: by consumer, when the first message that it has not acknowledged was
    stored; absent: there is none. beside: the canaries by stream, where it holds any.
    """
    if not broker_up:
        streams, stages = {}, ()
    read = {name: read_stream(name, info, beside.get(name)) for name, info in streams.items() if info is not None}
    behind = {stage.service: read_stage(stage, infos, oldest_at_ns, now_ns) for stage, infos in stages}
    return Facts(
        at_ns=now_ns,
        broker_up=broker_up,
        folded=folded,
        host=host,
        processes=tuple(processes[key] for key in sorted(processes, key=_in_line)),
        streams=read,
        stages={service: facts for service, facts in behind.items() if facts is not None},
        tokens_received=creations.total,
        tokens_per_minute=creations.per_minute(now_ns),
        tokens_analyzed=creations.analyzed,
        running=tally.running,
        users=tally.users,
        totals=tally.totals,
        canary=canary,
    )


def read_stream(name: str, info: Info, beside: Beside | None = None) -> StreamFacts:
    """A STREAM.INFO answer. Raises KeyError where the server left out what it always says."""
    state = info["state"]
    return StreamFacts(
        name=name,
        messages=state["messages"] if beside is None else max(0, state["messages"] - beside.kept),
        bytes=state["bytes"],
        first_sequence=state["first_seq"],
        last_sequence=state["last_seq"],
        last_at_ns=parse_iso(state.get("last_ts")) if beside is None else beside.last_at_ns,
        canaries=0 if beside is None else beside.stored,
    )


def read_stage(
    stage: Stage, infos: Sequence[Info | None], oldest_at_ns: Mapping[str, int] = NOTHING, now_ns: int = 0
) -> StageFacts | None:
    """Over the stage's consumers: the sums, or of those that each hear all the largest; None unless all answered."""
    known = [info for info in infos if info is not None]
    if not known or len(known) != len(stage.consumers):
        return None
    together = max if stage.each_hears_all else sum
    return StageFacts(
        service=stage.service,
        stream=stage.stream,
        pending=together(info["num_pending"] for info in known),
        unacked=together(info["num_ack_pending"] for info in known),
        waiting=sum(info["num_waiting"] for info in known),
        acked_sequence=min(info["ack_floor"]["stream_seq"] for info in known),
        consumers=tuple(
            ConsumerFacts(
                name=consumer.name,
                lag=unacknowledged(info),
                lag_seconds=max(0, now_ns - oldest_at_ns.get(consumer.name, now_ns)) // SECOND_NS,
                waiting=info["num_waiting"],
            )
            for consumer, info in zip(stage.consumers, known, strict=True)
        ),
    )


def unacknowledged(info: Info) -> int:
    """Messages that a consumer has not acknowledged, delivered or not."""
    return int(info["num_pending"]) + int(info["num_ack_pending"])


def hear(processes: dict[tuple[str, str], Seen], status: ProcessStatus, now_ns: int) -> None:
    """Keep a process' newest status and forget those long gone; a full table takes no newcomer."""
    key = (status.service, status.instance)
    if key in processes or len(processes) < PROCESSES_MAX:
        processes[key] = Seen(status=status, seen_at_ns=now_ns)
    for old in [k for k, seen in processes.items() if now_ns - seen.seen_at_ns > REMEMBERED_S * SECOND_NS]:
        del processes[old]


def alive(seen: Seen, now_ns: int) -> bool:
    return now_ns - seen.seen_at_ns <= ALIVE_S_MAX * SECOND_NS


def newest(facts: Facts, service: str) -> Seen | None:
    """The process of a service that was heard last, alive or not."""
    return max((seen for seen in facts.processes if seen.status.service == service), key=_heard, default=None)


def figure(facts: Facts, service: str, name: str) -> int | None:
    """A figure of a service, None unless a process of it is alive and reports it."""
    seen = newest(facts, service)
    return seen.status.figures.get(name) if seen is not None and alive(seen, facts.at_ns) else None


def _heard(seen: Seen) -> int:
    return seen.seen_at_ns


def _in_line(key: tuple[str, str]) -> tuple[int, str, str]:
    """The order of the line, strangers last."""
    service, instance = key
    place = figures.SERVICES.index(service) if service in figures.SERVICES else len(figures.SERVICES)
    return place, service, instance
