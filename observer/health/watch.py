"""What is judged beside the facts: how long something lasts, how full streams are, what dependencies say; pure.

A consumer that cannot go on, a decision that is overdue, the pace of the feed: each needs two looks, so `Watch` folds
the polls. It keeps little, and a restart of observer begins it anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from observer.facts import Facts, Info, Stage, unacknowledged
from observer.health.sync import Sync
from observer.times import SECOND_NS, parse_iso

SATURATED: Final = 0.9  # of what may be unacknowledged: the broker delivers no more at 1
CPU_WINDOW_S: Final = 30
PACE_STEP_S, PACE_STEPS_MAX = 60, 61  # an hour
LAMPORTS_PER_TRADE: Final = 1000  # PumpPortal: 0.01 SOL for 10,000 trades streamed
FULL: Final = 0.9  # of its bytes: a stream that lets go of the oldest

Stalls = dict[str, tuple[int, int]]  # by consumer: since when it stands still, and at which sequence


class Lasting(msgspec.Struct, frozen=True):
    """Something has been so for a while. who: names it."""

    seconds: int
    who: str


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """A stream's or bucket's room. age_s_max: 0 for good; held_s: from its first to its last message."""

    name: str
    bytes: int
    bytes_max: int
    refuses: bool
    age_s_max: int
    held_s: int
    created_at_ns: int | None

    @property
    def percent(self) -> float:
        return round(100 * self.bytes / self.bytes_max, 1) if self.bytes_max > 0 else 0.0


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a dependency over HTTP said: its status code, or else why there is none; nats-server's words beside it."""

    status: int | None = None
    why: str = ""


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """listening_s: for how long observer has heard statuses. cpu_percent: mean of a while.

    saturated, idle: the consumer that has stood still longest, full or not fetched from; None where none does.
    decisions_overdue_s, fills_overdue_s: None: not known. rooms: of streams and buckets; None: not known.
    sync: None where it was not compared yet. vault: None where none is set, or not asked yet.
    server: nats-server's health; None where its monitoring is not set. trades_a_day: at the
    pace of the last hour, None where that is not known. backup_at_ns, verified_at_ns: 0 never; None: no figure.
    data_since_ns: since when there is something to back up.
    """

    listening_s: int = 0
    cpu_percent: float | None = None
    saturated: Lasting | None = None
    idle: Lasting | None = None
    decisions_overdue_s: int | None = None
    fills_overdue_s: int | None = None
    rooms: tuple[Room, ...] | None = None
    sync: Sync | None = None
    vault: Asked | None = None
    server: Asked | None = None
    trades_a_day: int | None = None
    backup_at_ns: int | None = None
    verified_at_ns: int | None = None
    data_since_ns: int | None = None


def room(info: Info) -> Room:
    """A STREAM.INFO answer. Raises KeyError where the server left out what it always says."""
    config, state = info["config"], info["state"]
    first, last = parse_iso(state.get("first_ts")), parse_iso(state.get("last_ts"))
    return Room(
        name=config["name"],
        bytes=state["bytes"],
        bytes_max=config["max_bytes"],
        refuses=config.get("discard") == "new",
        age_s_max=config.get("max_age", 0) // SECOND_NS,
        held_s=0 if first is None or last is None else max(0, last - first) // SECOND_NS,
        created_at_ns=parse_iso(info.get("created")),
    )


def tightest(rooms: Iterable[Room]) -> Room | None:
    """Of those that refuse messages when they are full, the fullest."""
    return max((each for each in rooms if each.refuses), key=lambda each: each.percent, default=None)


def shortest(rooms: Iterable[Room]) -> tuple[float, str]:
    """Of its declared age, what a full stream that lets go of the oldest still holds, in percent: the least of all,
    100 where none is full; and which one it is."""
    shares = [(100.0, "")]
    for each in rooms:
        if not each.refuses and each.age_s_max and each.bytes >= FULL * each.bytes_max:
            shares.append((min(100.0, round(100 * each.held_s / each.age_s_max, 1)), each.name))
    return min(shares)


class Overdue:
    """For how long something has been due that does not come. It is due from its cause on; each time that it comes, the
    time starts again."""

    def __init__(self) -> None:
        self._since_ns: int | None = None

    def seconds(self, now_ns: int, cause_at_ns: int | None, came_at_ns: int | None) -> int:
        if cause_at_ns is None or (came_at_ns is not None and came_at_ns >= cause_at_ns):
            self._since_ns = None
            return 0
        since = now_ns if self._since_ns is None else self._since_ns
        self._since_ns = since if came_at_ns is None else max(since, min(came_at_ns, now_ns))
        return max(0, now_ns - self._since_ns) // SECOND_NS


class Watch:
    """Tell it of each poll; read `watched` at any time."""

    def __init__(self, now_ns: int) -> None:
        self._begun_ns = now_ns
        self._saturated: Stalls = {}  # by its acknowledged sequence
        self._idle: Stalls = {}  # by its delivered sequence
        self._cpu: deque[tuple[int, float]] = deque()
        self._pace: deque[tuple[int, int, int]] = deque(maxlen=PACE_STEPS_MAX)  # when, stored in TOKENS, creations
        self._decisions, self._fills = Overdue(), Overdue()

    def polled(self, facts: Facts, behind: Sequence[tuple[Stage, Sequence[Info | None]]]) -> None:
        """behind: CONSUMER.INFO answers in the order of each stage's consumers."""
        now_ns = facts.at_ns
        known = {
            f"{consumer.name} of {stage.stream}": info
            for stage, infos in (behind if facts.broker_up else ())
            for consumer, info in zip(stage.consumers, infos, strict=True)
            if info is not None
        }
        full = {name: info["ack_floor"]["stream_seq"] for name, info in known.items() if _saturated(info)}
        idle = {name: info["delivered"]["stream_seq"] for name, info in known.items() if _not_fetched(info)}
        self._saturated, self._idle = _stalls(self._saturated, full, now_ns), _stalls(self._idle, idle, now_ns)
        if facts.host.cpu_percent is not None:
            self._cpu.append((now_ns, facts.host.cpu_percent))
        while self._cpu and now_ns - self._cpu[0][0] > CPU_WINDOW_S * SECOND_NS:
            self._cpu.popleft()
        tokens = facts.streams.get("TOKENS")
        if tokens is not None and facts.folded:
            if self._pace and tokens.stored < self._pace[-1][1]:
                self._pace.clear()  # the stream was made anew
            if not self._pace or now_ns - self._pace[-1][0] >= PACE_STEP_S * SECOND_NS:
                self._pace.append((now_ns, tokens.stored, facts.tokens_received))

    def watched(self, facts: Facts, decided_at_ns: int | None, ledger_at_ns: int | None) -> Watched:
        """decided_at_ns, ledger_at_ns: of the newest decision, and of the newest line of a user's ledger. What others
        say (rooms, sync, vault, backups) is for the caller to add."""
        now_ns = facts.at_ns
        at = {name: stream.last_at_ns for name, stream in facts.streams.items()}
        known = {"TOKENS", "SIGNALS"} <= at.keys()
        return Watched(
            listening_s=max(0, now_ns - self._begun_ns) // SECOND_NS,
            cpu_percent=_mean([percent for _, percent in self._cpu]),
            saturated=_longest(self._saturated, now_ns),
            idle=_longest(self._idle, now_ns),
            decisions_overdue_s=self._decisions.seconds(now_ns, at["TOKENS"], decided_at_ns) if known else None,
            fills_overdue_s=self._fills.seconds(now_ns, at["SIGNALS"], ledger_at_ns) if known else None,
            trades_a_day=self._trades_a_day(facts),
        )

    def _trades_a_day(self, facts: Facts) -> int | None:
        tokens = facts.streams.get("TOKENS")
        if tokens is None or not self._pace:
            return None
        since_ns, stored, creations = self._pace[0]
        elapsed_ns = facts.at_ns - since_ns
        if elapsed_ns < PACE_STEP_S * SECOND_NS:
            return None
        trades = tokens.stored - stored - (facts.tokens_received - creations)
        return max(0, trades) * 86_400 * SECOND_NS // elapsed_ns


def _stalls(before: Stalls, at: Mapping[str, int], now_ns: int) -> Stalls:
    """at: of those that stand still now. One whose sequence has moved since works, and begins anew."""
    found = {}
    for name, sequence in at.items():
        since_ns, then = before.get(name, (now_ns, sequence))
        found[name] = (since_ns if then == sequence else now_ns, sequence)
    return found


def _saturated(info: Info) -> bool:
    """A worker in a long backlog looks the same, but what it acknowledges moves on."""
    most = int(info["config"].get("max_ack_pending", 0))
    return most > 0 and int(info["num_ack_pending"]) >= SATURATED * most


def _not_fetched(info: Info) -> bool:
    """Messages wait, and nobody has a pull standing. A busy worker looks the same, but something is delivered to it."""
    return unacknowledged(info) > 0 and int(info["num_pending"]) > 0 and int(info["num_waiting"]) == 0


def _longest(stalls: Stalls, now_ns: int) -> Lasting | None:
    found = min(((since_ns, name) for name, (since_ns, _) in stalls.items()), default=None)
    return None if found is None else Lasting(max(0, now_ns - found[0]) // SECOND_NS, found[1])


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 1) if values else None
