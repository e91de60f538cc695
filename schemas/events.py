"""Every message that crosses the wire, as a frozen, tagged struct.

**The id rule**, stated once: a message's id derives from its parent's, so that a repetition anywhere in the line
produces the same ids again and nothing downstream can be doubled by it.

    token event   digest of what identifies it on the chain    `event_id("create", signature, mint)`
    decision      <token event id>:<strategy>
    signal        <decision id>:<user>
    order         <signal id>:buy, or <opening order id>:exit<n> for the n-th exit of a position
    append        <user>:<ledger sequence it was decided on>

Units: lamports (1e-9 SOL), token base units (1e-6 token), nanoseconds since the epoch. `*_bps` are 1/10,000.
Readers tolerate fields they do not know: yesterday's consumer meets tomorrow's message during a rollout.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b
from typing import Union

import msgspec

# Text by strangers (names, symbols, uris) is cut to this many characters before it travels.
TEXT_CHARS_MAX = 200


class Side(StrEnum):
    BUY = "BUY"
    SELL = "SELL"


class Quote(StrEnum):
    """What a coin is priced in. Only SOL has arithmetic that we know to the lamport."""

    SOL = "SOL"
    USDC = "USDC"
    UNKNOWN = "UNKNOWN"


class Strategy(StrEnum):
    SNIPER = "SNIPER"
    MOMENTUM = "MOMENTUM"
    GRADUATION = "GRADUATION"
    AI_PREDICTIONS = "AI_PREDICTIONS"


class Origin(StrEnum):
    """What a decision comes from: a strategy that users choose, or an alarm that concerns every holder."""

    SNIPER = "SNIPER"
    MOMENTUM = "MOMENTUM"
    GRADUATION = "GRADUATION"
    AI_PREDICTIONS = "AI_PREDICTIONS"
    RUG_ALARM = "RUG_ALARM"


class RiskLevel(StrEnum):
    """How much risk a user takes; as a decision's risk, the most cautious level that takes it."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"


class Reason(StrEnum):
    """Why an order was made, refused or closed: one vocabulary for results, metric labels and log lines."""

    SIGNAL = "SIGNAL"  # an entry: the user's bot took a signal
    # refusals
    EXPIRED = "EXPIRED"
    NOT_RUNNING = "NOT_RUNNING"
    ALREADY_HELD = "ALREADY_HELD"
    NOT_HELD = "NOT_HELD"
    BUDGET = "BUDGET"
    MAX_OPEN_POSITIONS = "MAX_OPEN_POSITIONS"
    MAX_ENTRIES_PER_HOUR = "MAX_ENTRIES_PER_HOUR"
    DAILY_LOSS_LIMIT = "DAILY_LOSS_LIMIT"
    SLIPPAGE = "SLIPPAGE"
    CURVE_COMPLETE = "CURVE_COMPLETE"
    NO_PRICE = "NO_PRICE"
    UNKNOWN_ARITHMETIC = "UNKNOWN_ARITHMETIC"
    TOO_SMALL = "TOO_SMALL"
    BLOCKED_CREATOR = "BLOCKED_CREATOR"
    KILL_SWITCH = "KILL_SWITCH"
    # exits
    TAKE_PROFIT = "TAKE_PROFIT"
    STOP_LOSS = "STOP_LOSS"
    TIME_EXIT = "TIME_EXIT"
    MAX_HOLD = "MAX_HOLD"
    MIGRATED = "MIGRATED"
    SELL_SIGNAL = "SELL_SIGNAL"
    RUG_ALARM = "RUG_ALARM"
    SILENT_PRICE = "SILENT_PRICE"
    BOT_STOPPED = "BOT_STOPPED"


class Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """What all messages have in common: immutable, keyword-only, every field written out."""


class Market(Struct, frozen=True, kw_only=True):
    """A bonding curve's reserves after some event.

    virtual_lamports, virtual_tokens: the virtual reserves (domain: vSolInBondingCurve, vTokensInBondingCurve).
    seen_at_ns: when the event that gave them reached us.
    """

    virtual_lamports: int
    virtual_tokens: int
    seen_at_ns: int


class TokenCreated(Struct, frozen=True, kw_only=True, tag_field="type", tag="token_created"):
    """A coin was launched. The creator's first buy travels here; no trade event repeats it.

    pool: where it trades, as the venue spells it ("pump", "bonk"); "" where the venue did not say (2024 schema).
    dev_buy_lamports: SOL that went into the curve, without fees; None where the venue did not say.
    market: the curve after the creator's buy; None where the frame holds no curve (bonk, some USDC coins).
    """

    id: str
    mint: str
    signature: str
    creator: str
    pool: str
    name: str | None
    symbol: str | None
    uri: str | None
    dev_buy_tokens: int | None
    dev_buy_lamports: int | None
    market: Market | None
    quote: Quote
    mayhem: bool
    seen_at_ns: int


class TokenTraded(Struct, frozen=True, kw_only=True, tag_field="type", tag="token_traded"):
    """Somebody bought or sold a coin.

    lamports: SOL into or out of the reserves, without fees; None where the venue did not say.
    trader_tokens_after: the trader's balance afterwards; 0 means sold out.
    market: the curve afterwards; None after migration.
    pool_lamports, pool_tokens: reserves of an AMM pool, where given.
    """

    id: str
    mint: str
    signature: str
    side: Side
    trader: str
    pool: str
    lamports: int | None
    tokens: int
    trader_tokens_after: int | None
    market: Market | None
    pool_lamports: int | None
    pool_tokens: int | None
    seen_at_ns: int


class TokenMigrated(Struct, frozen=True, kw_only=True, tag_field="type", tag="token_migrated"):
    """A coin left its curve for a pool. May come for coins never seen, or ahead of their creation."""

    id: str
    mint: str
    signature: str
    pool: str
    seen_at_ns: int


class FeedGap(Struct, frozen=True, kw_only=True, tag_field="type", tag="feed_gap"):
    """The feed was not heard between two times: what happened there is unknown, not calm.

    from_at_ns: the last frame before; seen_at_ns: when the feed was subscribed again.
    """

    id: str
    feed: str
    reason: str
    from_at_ns: int
    seen_at_ns: int


TokenEvent = Union[TokenCreated, TokenTraded, TokenMigrated, FeedGap]  # noqa: UP007 - msgspec wants a runtime union


class Decision(Struct, frozen=True, kw_only=True, tag_field="type", tag="decision"):
    """What the one analysis of a token concluded.

    score: 0-100. previous_score: the highest score that this strategy announced for this token before, -1 if none;
        a BUY addresses exactly the users whose threshold lies in (previous_score, score], so each user hears of a
        token once, at the moment its own threshold is crossed.
    risk: the most cautious risk level whose threshold the score reaches; None if it reaches none of them.
    reasons: what moved the score, most important first, e.g. "dev_buy_modest:+12".
    features: what the strategy looked at, integers with the unit in the name.
    arithmetic_known: whether the coin's prices follow formulas that we know; mayhem, USDC-quoted and bonk coins do not.
    market: None where the venue's frames hold no curve (bonk, USDC).
    """

    id: str
    strategy: Origin
    side: Side
    mint: str
    creator: str
    score: int
    previous_score: int
    risk: RiskLevel | None
    reasons: tuple[str, ...]
    features: dict[str, int]
    arithmetic_known: bool
    market: Market | None
    decided_at_ns: int


class Signal(Struct, frozen=True, kw_only=True, tag_field="type", tag="signal"):
    """A decision addressed to one user.

    config_revision: revision of the `bots` bucket that it was matched against; a bot acts only once it knows it.
    expires_at_ns: later than this it must be refused.
    """

    id: str
    user: str
    decision_id: str
    strategy: Origin
    side: Side
    mint: str
    creator: str
    score: int
    risk: RiskLevel | None
    reasons: tuple[str, ...]
    arithmetic_known: bool
    market: Market | None
    config_revision: int
    decided_at_ns: int
    expires_at_ns: int


class Intent(Struct, frozen=True, kw_only=True, tag="intent"):
    """An order, decided and about to be carried out.

    lamports: for a buy the most to spend, fees included; for a sell the least to accept, fees taken off.
    tokens: for a buy the fewest to accept; for a sell how many to sell.
    signal_id: the signal that opened the position, also on its exits.
    """

    id: str
    signal_id: str
    mint: str
    side: Side
    lamports: int
    tokens: int
    venue: str
    reason: Reason
    at_ns: int


class Fill(Struct, frozen=True, kw_only=True, tag="fill"):
    """An order's execution.

    lamports: paid in all by a buy, received in all by a sell, fees included.
    curve_lamports: what went into or came out of the reserves.
    network_fee_lamports: the transaction's base and priority fee.
    A buy's lamports are curve_lamports and the three fees together, a sell's are curve_lamports less the fees, exactly.
    price_at_ns: when the market state that it was filled against was seen.
    """

    id: str
    order_id: str
    signal_id: str
    mint: str
    side: Side
    tokens: int
    lamports: int
    curve_lamports: int
    protocol_fee_lamports: int
    creator_fee_lamports: int
    network_fee_lamports: int
    reason: Reason
    price_at_ns: int
    at_ns: int


class Refusal(Struct, frozen=True, kw_only=True, tag="refusal"):
    """A signal or an order that was not executed, and why.

    order_id: the order that the venue refused; None where no order was made.
    """

    id: str
    signal_id: str
    order_id: str | None
    mint: str
    side: Side
    reason: Reason
    detail: str
    at_ns: int


Entry = Union[Intent, Fill, Refusal]  # noqa: UP007


class Append(Struct, frozen=True, kw_only=True, tag_field="type", tag="append"):
    """One line of a user's ledger: everything that one commit decided for that user, whole or not at all.

    signal_sequence: the user's signals up to this sequence of the SIGNALS stream are settled by this line and those
        before it; 0 if it settles none. It holds for the stream's present life: a line written before the stream was
        created says nothing about it.
    """

    id: str
    user: str
    signal_sequence: int
    entries: tuple[Entry, ...]
    at_ns: int


class Score(Struct, frozen=True, kw_only=True, tag_field="type", tag="score"):
    """The newest score of a token, by strategy."""

    mint: str
    scores: dict[str, int]
    at_ns: int


class Watch(Struct, frozen=True, kw_only=True, tag_field="type", tag="watch"):
    """Somebody needs the trades of a mint until a time. Key in the bucket: `<watcher>.<mint>`."""

    until_at_ns: int


class DeadLetter(Struct, frozen=True, kw_only=True, tag_field="type", tag="dead_letter"):
    """What could not be processed, whole, and why.

    payload: the bytes as text where they are UTF-8, else base64 (encoding says which).
    sequence: in its stream; 0 for what never reached one (a frame).
    whole: whether the payload is all of it; where it is not, the reason says what is missing.
    kind: "rejected" by one of our processes, or the kind of the broker's advisory (`observer/letters/advisory.py`).
    headers: those that the message came with, its trace context among them.
    deliveries: how often the broker delivered it to the consumer that failed; 0 where nobody knows.
    """

    id: str
    source: str
    subject: str
    sequence: int
    reason: str
    payload: str
    encoding: str
    at_ns: int
    whole: bool = True
    kind: str = "rejected"
    headers: dict[str, str] = {}
    deliveries: int = 0


class ProcessStatus(Struct, frozen=True, kw_only=True, tag_field="type", tag="process_status"):
    """What a process says of itself once a second, on a plain subject: a hint for screens, never the truth."""

    service: str
    instance: str
    pid: int
    started_at_ns: int
    at_ns: int
    ready: bool
    figures: dict[str, int]


def event_id(*identity: str) -> str:
    """Derive a token event's id: 128 bits over what identifies it on the chain (one signature can hold several
    trades, so a signature alone does not).

    identity: e.g. ("buy", signature, mint, trader, tokens as decimal text).
    """
    return blake2b("\x00".join(identity).encode(), digest_size=16).hexdigest()


def decision_id(token_event_id: str, strategy: Strategy) -> str:
    return f"{token_event_id}:{strategy}"


def signal_id(decision: str, user: str) -> str:
    return f"{decision}:{user}"


def origin_of(signal_id: str) -> Origin | None:
    """What the decision behind a signal comes from; None where the id is none of ours."""
    parts = signal_id.split(":")
    return Origin.__members__.get(parts[1]) if len(parts) == 3 else None
