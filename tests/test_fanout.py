"""dispatch/fanout.py: spliced bytes are exactly what encoding each signal by itself would give."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from dispatch.fanout import SIGNAL_TTL_NS, fanout, signal
from schemas.codec import Decoder, encode
from schemas.events import Decision, Market, Origin, RiskLevel, Side, Signal, signal_id
from schemas.subjects import valid_user

decode: Decoder[Signal] = Decoder(Signal)

users = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z", fullmatch=True)
amounts = st.integers(0, 2**63 - 1)
# Ids and mints come from derived digests, but nothing here relies on that.
texts = st.text(max_size=40) | st.just('","user":"') | st.just("\\") | st.just('x","user":"y')
decisions = st.builds(
    Decision,
    id=texts,
    strategy=st.sampled_from(list(Origin)),
    side=st.sampled_from(list(Side)),
    mint=texts,
    creator=texts,
    score=st.integers(0, 100),
    previous_score=st.integers(-1, 99),
    risk=st.none() | st.sampled_from(list(RiskLevel)),
    reasons=st.lists(texts, max_size=4).map(tuple),
    features=st.dictionaries(st.sampled_from(["age_ms", "buys"]), amounts),
    arithmetic_known=st.booleans(),
    market=st.none() | st.builds(Market, virtual_lamports=amounts, virtual_tokens=amounts, seen_at_ns=amounts),
    decided_at_ns=st.integers(0, 2**62),
)

PLAIN = Decision(
    id="ab12:SNIPER", strategy=Origin.SNIPER, side=Side.BUY, mint="M", creator="dev", score=70, previous_score=-1,
    risk=RiskLevel.MEDIUM, reasons=("name_new:+10",), features={"age_ms": 0}, arithmetic_known=True,
    market=Market(virtual_lamports=1, virtual_tokens=2, seen_at_ns=3), decided_at_ns=1_000,
)  # fmt: skip


@given(decisions, st.lists(users, max_size=5), st.integers(0, 2**53), st.integers(0, 2**40))
def test_every_message_is_byte_for_byte_the_signal_encoded_the_slow_way(
    decision: Decision, to: list[str], revision: int, ttl_ns: int
) -> None:
    assert all(map(valid_user, to))
    made = fanout(decision, to, revision, ttl_ns)
    slow = [signal(decision, user, revision, ttl_ns) for user in to]
    assert made == [(f"signals.{each.user}", encode(each)) for each in slow]
    assert [decode(data) for _, data in made] == slow


def test_the_signal_carries_the_decision_the_revision_and_its_expiry() -> None:
    [(subject, data)] = fanout(PLAIN, ["7"], 42)
    made = decode(data)
    assert subject == "signals.7"
    assert (made.id, made.user, made.decision_id) == (signal_id(PLAIN.id, "7"), "7", PLAIN.id)
    assert (made.config_revision, made.expires_at_ns) == (42, 1_000 + SIGNAL_TTL_NS)
    same = [name for name in Signal.__struct_fields__ if name in Decision.__struct_fields__ and name != "id"]
    assert {name: getattr(made, name) for name in same} == {name: getattr(PLAIN, name) for name in same}


def test_users_keep_their_order_and_nobody_gets_nothing() -> None:
    assert [subject for subject, _ in fanout(PLAIN, ["b", "a", "c"], 1)] == ["signals.b", "signals.a", "signals.c"]
    assert fanout(PLAIN, [], 1) == []


def test_a_message_is_the_same_whenever_it_is_made() -> None:
    """After a restart the repetition must be recognisable by its bytes, so nothing in them tells the time."""
    assert fanout(PLAIN, ["a"], 1) == fanout(msgspec.json.decode(encode(PLAIN), type=Decision), ["a"], 1)
