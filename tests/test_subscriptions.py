"""ingest/subscriptions.py: exactly the wanted mints, within the venue's limits."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from ingest.subscriptions import (
    FREE_FRAMES,
    KEYS_PER_MESSAGE_MAX,
    MESSAGES_PER_SECOND_MAX,
    MINTS_MAX,
    TRADES_RETRY_NS,
    Subscriptions,
)

S = 1_000_000_000
FOREVER = 10**18


def connected(*, has_key: bool = True) -> Subscriptions:
    subscriptions = Subscriptions(has_key=has_key)
    subscriptions.reconnected()
    return subscriptions


def told(frames: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    """What a venue hears: method and keys of each frame."""
    return [(frame["method"], frame.get("keys", [])) for frame in map(json.loads, frames)]


def test_creations_and_migrations_are_asked_for_first() -> None:
    subscriptions = connected()
    subscriptions.want({"A": FOREVER})
    frames = subscriptions.take(0)
    assert frames[:2] == FREE_FRAMES
    assert told(frames[2:]) == [("subscribeTokenTrade", ["A"])]


def test_without_a_key_no_trades_are_asked_for() -> None:
    subscriptions = connected(has_key=False)
    subscriptions.want({"A": FOREVER})
    assert subscriptions.take(0) == FREE_FRAMES
    assert subscriptions.take(10**15) == ()
    assert subscriptions.count == 0


def test_only_the_difference_is_sent() -> None:
    subscriptions = connected()
    subscriptions.want({"A": FOREVER, "B": FOREVER})
    subscriptions.take(0)
    subscriptions.want({"B": FOREVER, "C": FOREVER})
    assert told(subscriptions.take(1)) == [("unsubscribeTokenTrade", ["A"]), ("subscribeTokenTrade", ["C"])]
    subscriptions.want({"C": FOREVER, "B": FOREVER + 1})
    assert subscriptions.take(2) == ()


def test_a_mint_is_let_go_when_its_time_is_over() -> None:
    subscriptions = connected()
    subscriptions.want({"A": 10 * S, "B": 20 * S, "past": 0})
    assert told(subscriptions.take(0))[2:] == [("subscribeTokenTrade", ["A", "B"])]
    assert subscriptions.take(10 * S - 1) == ()
    assert told(subscriptions.take(10 * S)) == [("unsubscribeTokenTrade", ["A"])]
    assert told(subscriptions.take(20 * S)) == [("unsubscribeTokenTrade", ["B"])]
    assert subscriptions.take(10**15) == ()


def test_a_new_connection_is_told_everything_again() -> None:
    subscriptions = connected()
    subscriptions.want({"A": FOREVER})
    first = subscriptions.take(0)
    subscriptions.reconnected()
    assert subscriptions.take(1) == first


def test_keys_travel_in_batches_of_the_permitted_size() -> None:
    subscriptions = connected()
    mints = {f"m{n:05}": FOREVER for n in range(KEYS_PER_MESSAGE_MAX * 2 + 1)}
    subscriptions.want(mints)
    batches = [keys for _, keys in told(subscriptions.take(0))[2:]]
    assert [len(keys) for keys in batches] == [KEYS_PER_MESSAGE_MAX, KEYS_PER_MESSAGE_MAX, 1]
    assert [key for keys in batches for key in keys] == sorted(mints)


def test_of_too_many_mints_those_needed_longest_are_kept() -> None:
    subscriptions = connected()
    subscriptions.want({f"m{n:05}": FOREVER + n for n in range(MINTS_MAX + 3)})
    keys = {key for _, keys in told(subscriptions.take(0)) for key in keys}
    assert (len(keys), subscriptions.skipped) == (MINTS_MAX, 3)
    assert keys.isdisjoint({"m00000", "m00001", "m00002"})


def test_a_refusal_of_trades_is_not_argued_with_for_a_while() -> None:
    subscriptions = connected()
    subscriptions.want({"A": FOREVER})
    subscriptions.take(0)
    subscriptions.trades_refused(S)
    assert subscriptions.count == 0
    subscriptions.want({"A": FOREVER, "B": FOREVER})
    assert subscriptions.take(S + TRADES_RETRY_NS - 1) == ()
    assert told(subscriptions.take(S + TRADES_RETRY_NS)) == [("subscribeTokenTrade", ["A", "B"])]


@given(st.lists(st.integers(0, S // 2), min_size=MESSAGES_PER_SECOND_MAX + 1, max_size=3 * MESSAGES_PER_SECOND_MAX))
def test_no_second_ever_carries_more_messages_than_permitted(steps_ns: list[int]) -> None:
    subscriptions = connected()
    now_ns, sent_at_ns = 0, []
    for n, step_ns in enumerate(steps_ns):
        subscriptions.want({f"m{n}": FOREVER})  # two messages each time: one mint goes, one comes
        sent_at_ns += [now_ns] * len(subscriptions.take(now_ns))
        now_ns += step_ns // 64
    for earlier, later in zip(sent_at_ns, sent_at_ns[MESSAGES_PER_SECOND_MAX:], strict=False):
        assert later - earlier >= S


@given(st.lists(st.dictionaries(st.sampled_from("ABCDEF"), st.integers(0, 20).map(lambda s: s * S)), max_size=8))
def test_what_the_venue_was_told_adds_up_to_what_is_wanted(wants: list[dict[str, int]]) -> None:
    subscriptions = connected()
    heard: set[str] = set()
    for n, mints in enumerate(wants):
        now_ns = n * 2 * S
        subscriptions.want(mints)
        for method, keys in told(subscriptions.take(now_ns)):
            heard = heard - set(keys) if method == "unsubscribeTokenTrade" else heard | set(keys)
        assert heard == {mint for mint, until_at_ns in mints.items() if until_at_ns > now_ns}
        assert subscriptions.count == len(heard)
