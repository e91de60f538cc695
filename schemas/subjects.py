"""Where each message goes, and the table of streams, consumers and buckets: data, read by `runtime/bus.py`."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from itertools import count
from typing import Any

from schemas.events import FeedGap, Origin, Struct, TokenCreated, TokenEvent, TokenTraded

MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86_400

KEEP_TRACE = "traces.keep"  # a plain subject: ids of traces that every process is to export though none sampled them

# What the venue said: neither records of gaps nor canaries.
OF_THE_FEED = ("tokens.created.*", "tokens.traded.*", "tokens.migrated.*")

# Where a canary enters. TOKENS as it is takes it as a word about a feed; no venue has a name like this one.
CANARY_TOKENS = "tokens.gap.~canary"
CANARY_DECISIONS = "decisions.~canary.*"

MARKER_TTL_S = 1  # the server raises a message's own time to live to this

# In a consumer's metadata: seconds, and messages under the name that nats-server's own tools read.
LAG_THRESHOLD = "mintline.lag-warning-seconds"
UNACKED_THRESHOLD = "io.nats.monitor.outstanding-ack-critical"

PARTITIONS_DEFAULT = 32
PARTITIONS_MAX = 256
MINT_PARTITIONS_MAX = 16  # each of them reads the whole of TOKENS

# One subject token and one key of a bucket; the leading letter or digit leaves `~…` to ourselves.
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")


class Stream(Struct, frozen=True, kw_only=True):
    """A stream as we want it. `refuse_when_full`: publishing fails rather than old messages going."""

    name: str
    subjects: tuple[str, ...]
    description: str
    age_s_max: int = 0
    bytes_max: int
    dedup_window_s: int = 120
    refuse_when_full: bool = False
    partitioned: str = ""  # "signals" stores signals.<user> as signals.<partition>.<user>
    message_ttls: bool = False  # messages may end by themselves, and leave a marker
    history: int = 0  # messages kept for a subject; 0 = all. Buckets have at least 1
    bucket: bool = False


class Consumer(Struct, frozen=True, kw_only=True):
    """A durable, in-order consumer: acknowledges all up to a message, redelivers from the floor when reset."""

    stream: str
    name: str
    subject: str
    unacked_max: int = 5000
    ack_wait_s: int = 30
    lag_s_max: int = 10  # the age of its oldest message without an acknowledgement from which people should know


TOKENS = Stream(
    name="TOKENS",
    subjects=("tokens.created.*", "tokens.traded.*", "tokens.migrated.*", "tokens.gap.*"),
    description="What the venue said, normalised; and when it was not heard",
    age_s_max=DAY_S,
    bytes_max=4 << 30,
    dedup_window_s=10 * MINUTE_S,
)
DECISIONS = Stream(
    name="DECISIONS",
    subjects=("decisions.*.*",),
    description="Outcomes of the one analysis of each token",
    age_s_max=DAY_S,
    bytes_max=1 << 30,
    dedup_window_s=10 * MINUTE_S,
)
SIGNALS = Stream(
    name="SIGNALS",
    subjects=("signals.*",),
    description="Decisions addressed to one user each",
    age_s_max=HOUR_S,
    bytes_max=4 << 30,
    dedup_window_s=10 * MINUTE_S,
    partitioned="signals",
)
FILLS = Stream(
    name="FILLS",
    subjects=("fills.*",),
    description="The ledger: a user's position is the fold of it",
    bytes_max=6 << 30,
    dedup_window_s=10 * MINUTE_S,
    refuse_when_full=True,
    partitioned="fills",
)
ALERTS = Stream(
    name="ALERTS",
    subjects=("alerts.*",),
    description="The notification outbox",
    age_s_max=7 * DAY_S,
    bytes_max=256 << 20,
    refuse_when_full=True,
)
DEAD = Stream(
    name="DEAD",
    subjects=("dead.*.*",),
    description="What could not be processed, whole, with the reason",
    age_s_max=30 * DAY_S,
    bytes_max=512 << 20,
)
# The broker's advisories are plain messages, lost while nobody listens: kept until observer has worked on them.
ADVISORIES = Stream(
    name="ADVISORIES",
    subjects=(
        "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>",
        "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>",
        "$JS.EVENT.ADVISORY.CONSUMER.MSG_NAKED.>",
        "$JS.EVENT.ADVISORY.CONSUMER.QUORUM_LOST.>",
        "$JS.EVENT.ADVISORY.STREAM.QUORUM_LOST.>",
    ),
    description="What the broker says of messages given up, and of lost quorums",
    age_s_max=7 * DAY_S,
    bytes_max=64 << 20,
)


def _bucket(
    name: str,
    description: str,
    *,
    age_s_max: int = 0,
    history: int = 1,
    bytes_max: int = 64 << 20,
    message_ttls: bool = False,
) -> Stream:
    return Stream(
        name=f"KV_{name}",
        subjects=(f"$KV.{name}.>",),
        description=description,
        age_s_max=age_s_max,
        bytes_max=bytes_max,
        refuse_when_full=True,
        history=history,
        message_ttls=message_ttls,
        bucket=True,
    )


# The history lets a reader judge an old decision by the configuration of its time (`mintline audit`).
BOTS = _bucket("bots", "The wanted state of each user's bot", history=16, bytes_max=512 << 20)
ACCOUNTS = _bucket("accounts", "People who may log in")
SESSIONS = _bucket("sessions", "Logins and one-time links, as hashes", age_s_max=DAY_S)
MEMBERS = _bucket("members", "Processes alive", age_s_max=HOUR_S, message_ttls=True)
WATCH = _bucket("watch", "Mints whose trades somebody needs", age_s_max=DAY_S)
SCORES = _bucket("scores", "The newest score of each token", age_s_max=DAY_S, bytes_max=256 << 20)
SCHEDULE = _bucket("schedule", "The newest run of each of observer's jobs", bytes_max=16 << 20)
FOLDS = _bucket("folds", "Accounts folded from FILLS up to some line; may be emptied", bytes_max=512 << 20)
# A day longer than ALERTS keeps the alert, so that none is taken for one that nobody has sent yet.
DELIVERIES = _bucket(
    "deliveries", "What became of each alert in each channel", age_s_max=8 * DAY_S, bytes_max=256 << 20
)
CHANNELS = _bucket("channels", "What is known of notification channels; what is muted", bytes_max=16 << 20)
CHECKS = _bucket("checks", "The newest verdict on the line's health, so that `since` survives", bytes_max=16 << 20)
COUNTS = _bucket("counts", "Counters that outlive the process that counts", bytes_max=1 << 20)
REPLAYS = _bucket(
    "replays", "Who sent which dead letter again, when, and what came of it", age_s_max=90 * DAY_S, history=16
)

STREAMS: tuple[Stream, ...] = (
    TOKENS, DECISIONS, SIGNALS, FILLS, ALERTS, DEAD, ADVISORIES, BOTS, ACCOUNTS, SESSIONS, MEMBERS, WATCH, SCORES,
    FOLDS, CHECKS, SCHEDULE, DELIVERIES, CHANNELS, COUNTS, REPLAYS,
)  # fmt: skip

ANALYZE = Consumer(stream="TOKENS", name="analyze", subject="tokens.>")
DISPATCH = Consumer(stream="DECISIONS", name="dispatch", subject="decisions.>", unacked_max=1000)
ADVISED = Consumer(stream="ADVISORIES", name="observer", subject="$JS.EVENT.ADVISORY.>", unacked_max=1000)


def partition_consumer(partition: int) -> Consumer:
    # The short wait bounds how long a signal is out of reach that was given to an owner who was about to lose it.
    return Consumer(
        stream="SIGNALS", name=f"p{partition}", subject=f"signals.{partition}.*", unacked_max=1000, ack_wait_s=5
    )


def analyze_consumers(mint_partitions: int = 1) -> tuple[Consumer, ...]:
    """One for each partition of the mints. Each hears all of TOKENS: subjects cannot be chosen by a hash."""
    if mint_partitions == 1:
        return (ANALYZE,)
    names = (f"analyze-{part}-of-{mint_partitions}" for part in range(mint_partitions))
    return tuple(Consumer(stream=ANALYZE.stream, name=name, subject=ANALYZE.subject) for name in names)


def consumers(partitions: int, mint_partitions: int = 1) -> tuple[Consumer, ...]:
    """Every durable consumer of the line."""
    return (*analyze_consumers(mint_partitions), DISPATCH, *(partition_consumer(p) for p in range(partitions)))


def token_subject(event: TokenEvent) -> str:
    if isinstance(event, FeedGap):
        return f"tokens.gap.{event.feed}"
    if isinstance(event, TokenCreated):
        return f"tokens.created.{event.mint}"
    if isinstance(event, TokenTraded):
        return f"tokens.traded.{event.mint}"
    return f"tokens.migrated.{event.mint}"


def decision_subject(origin: Origin, mint: str) -> str:
    return f"decisions.{origin}.{mint}"


def decisions_owner_subject(mint_partition: int) -> str:
    """Where it is recorded who works on a partition of the mints. No mint begins like it."""
    return f"decisions.~owner.{mint_partition}"


def about_token(decisions_subject: str) -> bool:
    """Whether a message of DECISIONS is a decision; the others say who owns a partition of the mints."""
    return not decisions_subject.startswith("decisions.~")


def is_canary(subject: str) -> bool:
    """Whether a message of TOKENS, DECISIONS or SIGNALS is a canary (`schemas/canary.py`), and so about nothing."""
    return ".~canary" in subject


def canary_decision_subject(mint_partition: int) -> str:
    return f"decisions.~canary.{mint_partition}"


@cache
def canary_user(of_partition: int, partitions: int) -> str:
    """The pseudo-user whose canaries go to a partition of the users. No user's id can begin like it."""
    return next(name for number in count() if partition(name := f"~canary-{number}", partitions) == of_partition)


def stored_canary_subjects(partitions: int) -> tuple[str, ...]:
    """Under which subjects SIGNALS stores them, in the order of the partitions."""
    return tuple(f"signals.{part}.{canary_user(part, partitions)}" for part in range(partitions))


def signal_subject(user: str) -> str:
    return f"signals.{user}"


def fills_subject(user: str) -> str:
    return f"fills.{user}"


def stored_fills_subject(user: str, partitions: int) -> str:
    return f"fills.{partition(user, partitions)}.{user}"


def about_user(stored_subject: str) -> bool:
    """Whether a line of FILLS is a user's; the others say who owns a partition."""
    return not user_of(stored_subject).startswith("~")


def dead_subject(stream: str, consumer: str) -> str:
    return f"dead.{stream}.{consumer}"


def user_of(stored_subject: str) -> str:
    """The user of `signals.<user>` and of `signals.<partition>.<user>` alike."""
    return stored_subject.rpartition(".")[2]


def valid_user(user: str) -> bool:
    """Whether a text may be a user id: it becomes one subject token and one bucket key."""
    return bool(_USER.match(user))


@lru_cache(maxsize=1 << 16)
def partition(token: str, partitions: int) -> int:
    """The partition of a user or a mint: what the server's subject transform `{{partition(N,1)}}` gives a token.

    FNV-1a, 32 bits, of its UTF-8 bytes, modulo N (measured equal to nats-server 2.15.1).
    """
    digest = 0x811C9DC5
    for byte in token.encode():
        digest = ((digest ^ byte) * 0x01000193) & 0xFFFFFFFF
    return digest % partitions


def stream_config(stream: Stream, partitions: int) -> dict[str, Any]:
    """A stream as JetStream's `STREAM.CREATE` wants it; every field whose default could move is spelled out."""
    config: dict[str, Any] = {
        "name": stream.name,
        "description": stream.description,
        "subjects": list(stream.subjects),
        "retention": "limits",
        "storage": "file",
        "num_replicas": 1,
        "max_consumers": 400,
        "max_msgs": -1,
        "max_bytes": stream.bytes_max,
        "max_age": stream.age_s_max * 1_000_000_000,
        "max_msg_size": 128 * 1024,
        "max_msgs_per_subject": stream.history or -1,
        "discard": "new" if stream.refuse_when_full else "old",
        "duplicate_window": stream.dedup_window_s * 1_000_000_000,
        "allow_direct": True,
        "allow_atomic": True,
        "deny_delete": stream.bucket or stream.refuse_when_full,
        "deny_purge": False,
        "allow_rollup_hdrs": stream.bucket,
    }
    if stream.message_ttls:
        config["allow_msg_ttl"] = True
        config["subject_delete_marker_ttl"] = MARKER_TTL_S * 1_000_000_000
    if stream.partitioned:
        prefix = stream.partitioned
        transform = f"{prefix}.{{{{partition({partitions},1)}}}}.{{{{wildcard(1)}}}}"
        config["subject_transform"] = {"src": f"{prefix}.*", "dest": transform}
    return config


def consumer_config(consumer: Consumer) -> dict[str, Any]:
    """A consumer as JetStream's `CONSUMER.CREATE` wants it."""
    return {
        "durable_name": consumer.name,
        "name": consumer.name,
        "filter_subject": consumer.subject,
        "deliver_policy": "all",
        "ack_policy": "all",
        "ack_wait": consumer.ack_wait_s * 1_000_000_000,
        "max_deliver": -1,
        "max_ack_pending": consumer.unacked_max,
        "max_waiting": 64,
        "replay_policy": "instant",
        # Thresholds live beside the consumer: checks, alerts and people's tools read the same ones.
        "metadata": {LAG_THRESHOLD: str(consumer.lag_s_max), UNACKED_THRESHOLD: str(consumer.unacked_max * 9 // 10)},
    }
