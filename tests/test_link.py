"""ingest/link.py: what is known about the connection, and what to do about it."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ingest.link import (
    ACKNOWLEDGE_NS,
    DELAY_NS_MAX,
    DELAY_START_NS,
    REFUSED_DELAY_NS_MAX,
    REFUSED_DELAY_START_NS,
    SILENCE_NS,
    STABLE_NS,
    Gap,
    Link,
    Reconnect,
    Send,
    State,
)
from ingest.subscriptions import FREE_FRAMES, TRADES_RETRY_NS
from ingest.venues.pumpportal import ErrorKind, NoticeKind

S = 1_000_000_000
ACK = b'{"message":"Successfully subscribed to token creation events."}'
KEYS_ACK = b'{"message":"Successfully subscribed to keys."}'
UNFUNDED = (
    b"{\"message\":\"'subscribeTokenTrade' and 'subscribeAccountTrade' methods are only available when connecting "
    b'with an API key funded with at least 0.02 SOL."}'
)
BAD_KEY = b'{"errors":"Invalid API key. PumpSwap data will not be streamed."}'
EVENT = (
    b'{"signature":"52MoTgakx7Jdup1kTpZncNy99YmHLxTNEoS4FeZE8fQ3SKtHgWhsS9iYhvW5pKPDhMKkGAjvBGkzEqdETWN15inJ",'
    b'"mint":"BzqYzBGydDrwjnYVtWfupr8GFoSxpCQdTkjRppBKpump","txType":"migrate","pool":"pump-amm"}'
)


def link(*, has_key: bool = False, heard_at_ns: int | None = None) -> Link:
    return Link("pumpportal", Random(1), has_key=has_key, heard_at_ns=heard_at_ns)


def subscribed(at_ns: int = 0, *, has_key: bool = False) -> Link:
    one = link(has_key=has_key)
    one.connecting(at_ns)
    one.opened(at_ns)
    one.frame(ACK, at_ns)
    assert one.state is State.SUBSCRIBED
    return one


def test_an_open_connection_is_told_what_we_want() -> None:
    one = link()
    one.connecting(0)
    assert one.state is State.CONNECTING
    assert one.opened(1) == Send(frames=FREE_FRAMES)
    assert (one.state, one.since_ns) == (State.OPENING, 1)


@pytest.mark.parametrize(
    ("frame", "state"),
    [
        (ACK, State.SUBSCRIBED),
        (EVENT, State.SUBSCRIBED),  # an event may overtake the acknowledgement
        (UNFUNDED, State.OPENING),  # a refusal proves no subscription
        (BAD_KEY, State.OPENING),
        (b"<html>", State.OPENING),
        (b'{"message":"Hello."}', State.OPENING),
    ],
)
def test_only_what_a_subscriber_gets_proves_a_subscription(frame: bytes, state: State) -> None:
    one = link()
    one.connecting(0)
    one.opened(0)
    one.frame(frame, 1)
    assert one.state is state
    assert one.heard_at_ns == 1


def test_a_connection_that_never_acknowledges_is_given_up() -> None:
    one = link()
    one.connecting(0)
    one.opened(0)
    assert one.tick(ACKNOWLEDGE_NS - 1) is None
    action = one.tick(ACKNOWLEDGE_NS)
    assert isinstance(action, Reconnect)
    assert (action.reason, one.state) == ("no_acknowledgement", State.STALE)


def test_silence_over_the_limit_is_stale_and_each_frame_starts_it_anew() -> None:
    one = subscribed()
    one.frame(EVENT, 20 * S)
    assert one.tick(20 * S + SILENCE_NS - 1) is None
    action = one.tick(20 * S + SILENCE_NS)
    assert isinstance(action, Reconnect)
    assert (action.reason, one.state, one.reconnects) == ("silence", State.STALE, 1)


def test_a_silence_of_our_own_making_is_not_the_venues() -> None:
    one = subscribed()
    one.resumed(2 * SILENCE_NS)
    assert one.tick(2 * SILENCE_NS + 1) is None
    assert one.state is State.SUBSCRIBED


def test_a_gap_reaches_from_the_last_frame_to_the_new_subscription() -> None:
    one = subscribed()
    one.frame(EVENT, 5 * S)
    one.lost("connection_lost", 6 * S)
    one.connecting(7 * S)
    one.refused("timeout", 8 * S, looks_banned=False)  # a failure on the way does not change the reason
    one.connecting(9 * S)
    one.opened(9 * S)
    assert one.frame(BAD_KEY, 9 * S) is None  # nor does an error begin or end it
    gap = one.frame(ACK, 10 * S)
    assert isinstance(gap, Gap)
    event = gap.event
    assert (event.feed, event.reason, event.from_at_ns, event.seen_at_ns) == (
        "pumpportal",
        "connection_lost",
        5 * S,
        10 * S,
    )
    assert one.frame(EVENT, 11 * S) is None


def test_the_first_subscription_ends_a_gap_only_if_somebody_heard_before() -> None:
    for heard_at_ns, reason in ((None, None), (3, "restart")):
        one = link(heard_at_ns=heard_at_ns)
        one.connecting(4)
        one.opened(5)
        gap = one.frame(ACK, 6)
        assert (gap.event.reason if gap else None) == reason


def test_delays_double_with_jitter_up_to_the_limit() -> None:
    one = link()
    delays = [one.refused("refused", n, looks_banned=False).delay_ns for n in range(12)]
    for n, delay_ns in enumerate(delays):
        full = min(DELAY_START_NS << n, DELAY_NS_MAX)
        assert full // 2 <= delay_ns <= full
    other = Link("pumpportal", Random(2), has_key=False)
    assert delays != [other.refused("refused", n, looks_banned=False).delay_ns for n in range(12)]


def test_a_ban_is_waited_out_in_minutes() -> None:
    one = link()
    delays = [one.refused("429", n, looks_banned=True).delay_ns for n in range(20)]
    assert REFUSED_DELAY_START_NS // 2 <= delays[0] <= REFUSED_DELAY_START_NS
    assert all(delay_ns >= REFUSED_DELAY_NS_MAX // 2 for delay_ns in delays[4:])
    assert max(delays) <= REFUSED_DELAY_NS_MAX


@pytest.mark.parametrize(
    ("held_ns", "first_again"),
    [
        (STABLE_NS, True),
        (STABLE_NS - 1, False),  # a connection that drops at once again is no reason for hope
    ],
)
def test_a_connection_that_held_starts_the_delays_over(held_ns: int, first_again: bool) -> None:
    one = link()
    for n in range(8):
        one.refused("refused", n, looks_banned=False)
    one.connecting(0)
    one.opened(0)
    one.frame(ACK, 0)
    one.frame(EVENT, held_ns)
    assert (one.lost("connection_lost", held_ns).delay_ns <= DELAY_START_NS) is first_again


def test_watched_mints_are_asked_for_with_a_key_and_again_after_a_reconnect() -> None:
    one = link(has_key=True)
    one.want({"A": 10**18})
    one.connecting(0)
    assert len(one.opened(0).frames) == 3
    one.frame(ACK, 1)
    one.want({"A": 10**18, "B": 10**18})
    assert one.tick(2) == Send(frames=('{"method":"subscribeTokenTrade","keys":["B"]}',))
    assert one.tick(3) is None
    assert one.subscriptions == 2
    one.lost("closed", 4)
    one.connecting(5)
    assert one.opened(5).frames[2] == '{"method":"subscribeTokenTrade","keys":["A","B"]}'


@pytest.mark.parametrize(("refusal", "kind"), [(UNFUNDED, NoticeKind.UNFUNDED), (BAD_KEY, ErrorKind.BAD_KEY)])
def test_a_refusal_of_trades_is_known_and_tried_again_later(refusal: bytes, kind: NoticeKind | ErrorKind) -> None:
    one = subscribed(has_key=True)
    one.want({"A": 10**18})
    assert one.tick(1) is not None
    one.frame(refusal, 2)
    assert (one.trades_refused, one.subscriptions, one.state) == (kind, 0, State.SUBSCRIBED)
    one.frame(EVENT, TRADES_RETRY_NS)
    assert isinstance(one.tick(TRADES_RETRY_NS + 2), Send)
    one.frame(KEYS_ACK, TRADES_RETRY_NS + 3)
    assert one.trades_refused is None


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order, delays are bounded and gaps neither overlap nor run backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 0
        self.link = link(has_key=True)
        self.gaps: list[Gap] = []
        self.delays: list[int] = []

    @rule(step_ns=st.integers(0, 2 * SILENCE_NS))
    def wait(self, step_ns: int) -> None:
        self.now_ns += step_ns

    @rule(frame=st.sampled_from([ACK, EVENT, UNFUNDED, BAD_KEY, b"{"]))
    def hear(self, frame: bytes) -> None:
        gap = self.link.frame(frame, self.now_ns)
        self.gaps += [gap] if gap else []

    @rule(mints=st.dictionaries(st.sampled_from("ABC"), st.integers(0, 10**13)))
    def want(self, mints: dict[str, int]) -> None:
        self.link.want(mints)

    @rule()
    def tick(self) -> None:
        if self.link.state in (State.OPENING, State.SUBSCRIBED):
            self.took(self.link.tick(self.now_ns))

    @rule(banned=st.booleans())
    def reconnect(self, banned: bool) -> None:
        self.took(self.link.lost("connection_lost", self.now_ns, looks_banned=banned))
        self.link.connecting(self.now_ns)
        self.took(self.link.opened(self.now_ns))

    def took(self, action: object) -> None:
        if isinstance(action, Reconnect):
            self.delays.append(action.delay_ns)
            self.link.connecting(self.now_ns)
            self.link.opened(self.now_ns)

    @invariant()
    def holds(self) -> None:
        assert all(DELAY_START_NS // 2 <= delay_ns <= REFUSED_DELAY_NS_MAX for delay_ns in self.delays)
        assert all(gap.event.from_at_ns <= gap.event.seen_at_ns for gap in self.gaps)
        assert all(a.event.seen_at_ns <= b.event.from_at_ns for a, b in pairwise(self.gaps))


TestAnyOrder = AnyOrder.TestCase
