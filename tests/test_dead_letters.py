"""Dead letters without a broker: what one holds, how it is shown, where it is sent again and where not."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observer.letters import advisory, resend
from observer.letters import text as letters
from observer.letters.advisory import Kind
from observer.letters.resend import NotSent
from observer.letters.text import Sent, Stored
from runtime.letters import HEADERS_BYTES_MAX, context_headers, dead_letter, payload_of
from runtime.wire import In, parse_headers
from schemas.codec import MESSAGE_BYTES_MAX, Decoder, MalformedEvent, encode
from schemas.events import DeadLetter, Decision, Origin, Side, Signal, TokenCreated, TokenTraded

MINT = "5VxQ2iT8q8UEvsX8Xx5Dqj6hU3JcVYbX7GZgRyyUpump"
SIGNATURE = "5" * 88
PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
AT_NS = 1_750_000_000_000_000_000


def letter(**changes: Any) -> DeadLetter:
    made: dict[str, Any] = {
        "id": "S:c:7", "source": "S", "subject": "s.x", "sequence": 7, "reason": "no", "payload": "{}",
        "encoding": "utf-8", "at_ns": AT_NS,
    }  # fmt: skip
    return DeadLetter(**{**made, **changes})


def decision(**changes: Any) -> Decision:
    made: dict[str, Any] = {
        "id": "e:SNIPER", "strategy": Origin.SNIPER, "side": Side.BUY, "mint": MINT, "creator": "c", "score": 80,
        "previous_score": -1, "risk": None, "reasons": (), "features": {}, "arithmetic_known": True, "market": None,
        "decided_at_ns": AT_NS,
    }  # fmt: skip
    return Decision(**{**made, **changes})


def signal(user: str) -> Signal:
    return Signal(
        id=f"e:SNIPER:{user}", user=user, decision_id="e:SNIPER", strategy=Origin.SNIPER, side=Side.BUY, mint=MINT,
        creator="c", score=80, risk=None, reasons=(), arithmetic_known=True, market=None, config_revision=1,
        decided_at_ns=AT_NS, expires_at_ns=AT_NS + 1,
    )  # fmt: skip


def frame(kind: str = "create", **changes: Any) -> str:
    made = {
        "signature": SIGNATURE, "mint": MINT, "traderPublicKey": MINT, "txType": kind, "initialBuy": 1.5,
        "tokenAmount": 1.5, "solAmount": 1, "bondingCurveKey": MINT, "vTokensInBondingCurve": 1_000_000_000,
        "vSolInBondingCurve": 31, "marketCapSol": 30, "name": "n", "symbol": "s", "uri": "u", "pool": "pump",
    }  # fmt: skip
    return json.dumps({**made, **changes})


# What a letter holds


@given(
    data=st.binary(max_size=2000) | st.integers(88_000, 130_900).map(lambda n: b'"' * n),
    reason=st.text(max_size=1200),
    headers=st.dictionaries(st.text(max_size=30), st.text(max_size=400), max_size=40),
)
def test_every_letter_fits_into_its_stream_and_gives_its_payload_back(
    data: bytes, reason: str, headers: dict[str, str]
) -> None:
    made = dead_letter("S:c:7", "S", "s.x", 7, data, reason.encode("utf-8", "replace").decode(), 1,
                       headers={k.encode("utf-8", "replace").decode(): v.encode("utf-8", "replace").decode()
                                for k, v in headers.items()})  # fmt: skip
    assert len(encode(made)) + len(context_headers(made.headers)) + 200 <= MESSAGE_BYTES_MAX
    assert (payload_of(made) == data) == made.whole
    assert made.whole == (len(data) <= 90 * 1024)
    assert Decoder[DeadLetter](DeadLetter)(encode(made)) == made


def test_a_letter_of_yesterday_is_read_and_one_of_tomorrow_too() -> None:
    old = json.loads(encode(letter()))
    for name in ("whole", "kind", "headers", "deliveries"):
        del old[name]
    read = Decoder[DeadLetter](DeadLetter)(json.dumps({**old, "unheard_of": 1}).encode())
    assert (read.whole, read.kind, read.headers, read.deliveries) == (True, "rejected", {}, 0)


def test_where_headers_do_not_fit_the_trace_context_goes_first_and_it_is_told() -> None:
    many = {f"h{n}": "x" * 100 for n in range(200)} | {"Traceparent": PARENT}
    made = dead_letter("i", "S", "s", 1, b"x" * 60_000, "why", 1, headers=many)
    assert made.headers["Traceparent"] == PARENT
    assert 0 < len(made.headers) < 20
    assert len(json.dumps(made.headers)) < 2 * HEADERS_BYTES_MAX
    assert made.reason == f"{201 - len(made.headers)} of 201 headers left out: why"
    assert parse_headers(b"NATS/1.0\r\n" + context_headers(made.headers)) == {"traceparent": PARENT}


@pytest.mark.parametrize("value", ["a\r\nNats-Rollup: all", "\x00", "", "ü"])
def test_a_trace_context_that_is_none_brings_no_header(value: str) -> None:
    assert context_headers({"traceparent": value}) == b""


# Advisories


def said(kind: str, **changes: Any) -> bytes:
    made = {
        "type": f"io.nats.jetstream.advisory.v1.{kind}", "id": "x", "stream": "S", "consumer": "c", "stream_seq": 7,
        "consumer_seq": 1, "deliveries": 3, "timestamp": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    return json.dumps({**made, **changes}).encode()


@pytest.mark.parametrize(
    ("data", "kind", "kept"),
    [
        (said("max_deliver"), Kind.MAX_DELIVERIES, True),
        (said("terminated", reason="bad"), Kind.TERMINATED, True),
        (said("terminated"), Kind.TERMINATED, True),
        (said("terminated", reason="Unacknowledged message was deleted"), Kind.DELETED_UNACKED, True),
        (said("nak"), Kind.NAKED, False),
        (said("stream_quorum_lost"), Kind.QUORUM_LOST, False),
        (said("consumer_quorum_lost"), Kind.QUORUM_LOST, False),
        (said("max_deliver", stream="DEAD"), Kind.MAX_DELIVERIES, False),  # a letter about a letter, without end
    ],
)
def test_each_advisory_has_its_kind_and_those_of_lost_messages_lead_to_a_letter(
    data: bytes, kind: Kind, kept: bool
) -> None:
    found, about = advisory.read(data)
    assert (found, advisory.is_kept(found, about)) == (kind, kept)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", said("api_audit"), said("max_deliver", stream="a.b"), said("max_deliver", consumer="x\r\ny"),
     said("max_deliver", stream_seq=0), said("terminated", consumer="")],
)  # fmt: skip
def test_what_is_no_advisory_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedEvent):
        advisory.read(data)


def test_the_letter_of_an_advisory_holds_the_message_its_headers_and_the_consumers_words() -> None:
    kind, about = advisory.read(said("terminated", reason="no such coin"))
    stored = In("s.x", b"\xff", 7, 5, f"NATS/1.0\r\ntraceparent: {PARENT}\r\n\r\n".encode(), "")
    made = advisory.letter(kind, about, stored, 9)
    assert (made.source, made.subject, made.sequence, made.deliveries, made.at_ns) == ("S", "s.x", 7, 3, 9)
    assert (made.payload, made.encoding, made.whole) == (base64.b64encode(b"\xff").decode(), "base64", True)
    assert made.headers == {"traceparent": PARENT}
    assert made.reason == "terminated by the consumer: no such coin"
    gone = advisory.letter(kind, about, None, 9)
    assert (gone.payload, gone.whole) == ("", False)
    assert "gone before it could be copied" in gone.reason


# Showing


EVIL = "\x1b[2Jwiped\x07\x9b31m\u202egnirts\r\nforged line\x7f"


@pytest.mark.parametrize("payload", [EVIL, json.dumps({"name": EVIL}), f"{{{EVIL}"])
def test_nothing_that_a_terminal_would_obey_is_shown(payload: str) -> None:
    made = letter(payload=payload, reason=EVIL, subject=EVIL, headers={EVIL: EVIL}, source=EVIL)
    found = Stored(3, AT_NS, "S", EVIL, made, encode(made))
    attempt = Sent(letter_id=EVIL, letter_sequence=3, state="refused", by=EVIL, at_ns=1, detail=EVIL)
    shown = letters.text(found, [attempt]) + letters.line(found, attempt)
    document = json.dumps(letters.document(found, [attempt]))
    for told in (shown, document):
        assert all(c.isprintable() or c == "\n" for c in told)
        assert "\nforged" not in told
    assert document.isascii()
    assert "wiped" in shown
    assert letters.payload(found).decode() == payload


def test_a_letter_is_found_by_its_kind_its_reason_and_its_time() -> None:
    made = letter(kind="max_deliveries", reason="MalformedEvent: Bad")
    found = Stored(3, AT_NS, "S", "c", made, b"")
    assert letters.fits(found, reason="malformed", since_ns=AT_NS)
    assert letters.fits(found, reason="MAX_del", since_ns=0)
    assert not letters.fits(found, reason="other", since_ns=0)
    assert not letters.fits(found, reason="", since_ns=AT_NS + 1)


# Sending again


def refused(made: DeadLetter, stream: str, consumer: str) -> str:
    with pytest.raises(NotSent) as caught:
        resend.plan(made, stream, consumer)
    return str(caught.value)


@pytest.mark.parametrize(
    ("made", "stream", "consumer", "why"),
    [
        (letter(), "FILLS", "bots", "line 7 of the ledger stays"),
        (letter(), "TOKENS", "analyze", "event 7 is in TOKENS"),
        (letter(), "TOKENS", "analyze-0-of-2", "event 7 is in TOKENS"),
        (letter(subject="$KV.bots.1"), "KV_bots", "x", "state of something"),
        (letter(), "ADVISORIES", "observer", "a word about messages"),
        (letter(whole=False, payload=""), "S", "c", "gone before"),
        (letter(whole=False), "S", "c", "not all there"),
        (letter(reason="the first 92160 of 130000 bytes: x"), "S", "c", "not all there"),  # written before `whole` was
        (letter(encoding="base64", payload="$$"), "S", "c", "no base64"),
        (letter(subject=""), "S", "c", "names no subject"),
        (letter(subject="a b"), "S", "c", "names no subject"),
        (letter(subject="a.*"), "S", "c", "names no subject"),
        (letter(subject="decisions.SNIPER.M"), "DECISIONS", "dispatch", "still cannot be read"),
        (letter(subject="decisions.~owner.0", payload=encode(decision()).decode()), "DECISIONS", "dispatch", "owns"),
        (letter(subject="signals.1.a"), "SIGNALS", "bots", "still cannot be read"),
        (letter(subject="signals.1.a", payload=encode(signal("b")).decode()), "SIGNALS", "bots", "about user 'b'"),
        (letter(payload="{nonsense"), "FEED", "ingest", "still does not take it"),
        (letter(payload='{"message": "Successfully subscribed."}'), "FEED", "ingest", "no event but a word"),
    ],
)
def test_what_must_not_be_sent_again_is_refused_with_the_reason(
    made: DeadLetter, stream: str, consumer: str, why: str
) -> None:
    assert why in refused(made, stream, consumer)


def test_a_decision_goes_to_its_subject_again_in_the_trace_that_it_came_in() -> None:
    headers = {"traceparent": PARENT, "Nats-Msg-Id": "old", "Nats-Expected-Last-Sequence": "5", "x-own": "1"}
    made = letter(subject="decisions.SNIPER.M", payload=encode(decision()).decode(), headers=headers)
    plan = resend.plan(made, "DECISIONS", "dispatch")
    assert (plan.stream, plan.subject, plan.data) == ("DECISIONS", "decisions.SNIPER.M", encode(decision()))
    assert parse_headers(b"NATS/1.0\r\n" + plan.headers) == {
        "traceparent": PARENT, "x-own": "1", "Mintline-Replay": resend.key_of(made),
        "Nats-Expected-Stream": "DECISIONS",
    }  # fmt: skip
    assert plan.message_id == f"replay:{resend.key_of(made)}"


def test_a_signal_goes_to_its_user_and_is_the_consumers_of_its_partition() -> None:
    made = letter(subject="signals.3.a", payload=encode(signal("a")).decode())
    for consumer in ("bots", "p3"):
        plan = resend.plan(made, "SIGNALS", consumer)
        assert (plan.subject, plan.stored, plan.consumer) == ("signals.a", "signals.3.a", "p3")


def test_a_header_that_would_end_the_header_block_is_left_out() -> None:
    made = letter(headers={"a": "x\r\nNats-Rollup: all", "b:c": "1", "d": "2"})
    assert parse_headers(b"NATS/1.0\r\n" + resend.plan(made, "S", "c").headers).keys() == {
        "d", "Mintline-Replay", "Nats-Expected-Stream",
    }  # fmt: skip


def test_a_frame_becomes_the_event_that_it_would_have_been_then() -> None:
    plan = resend.plan(letter(payload=frame()), "FEED", "ingest")
    assert isinstance(plan.event, TokenCreated)
    assert (plan.subject, plan.stream, plan.event.seen_at_ns) == (f"tokens.created.{MINT}", "TOKENS", AT_NS)
    assert plan.message_id == plan.event.id
    assert plan.event.id in parse_headers(b"NATS/1.0\r\n" + plan.headers)["traceparent"]


def test_an_event_comes_behind_no_newer_ones_of_its_coin_but_a_creation_may() -> None:
    trade, creation = (resend.plan(letter(payload=frame(kind)), "FEED", "ingest").event for kind in ("buy", "create"))
    assert isinstance(trade, TokenTraded)
    assert isinstance(creation, TokenCreated)
    newer = resend.plan(letter(payload=frame("sell"), at_ns=AT_NS + 1), "FEED", "ingest").event
    assert newer is not None

    def there(*events: Any) -> list[In]:
        return [In("s", encode(event), sequence, 1, b"", "") for sequence, event in enumerate(events, 1)]

    assert resend.known(trade, there(creation)) == 0
    assert resend.known(trade, there(creation, trade, newer)) == 2  # it is there: nothing to do
    assert resend.known(creation, there(newer)) == 0
    with pytest.raises(NotSent, match="newer events"):
        resend.known(trade, there(creation, newer))


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        (">", "a", True), ("a.>", "a.b.c", True), ("a.>", "a", False), ("a.*", "a.b", True), ("a.*", "a.b.c", False),
        ("a.b", "a.b", True), ("a.b", "a.c", False), ("*.b", "a.b", True), ("a.b.c", "a.b", False),
    ],
)  # fmt: skip
def test_a_pattern_matches_as_the_broker_matches(pattern: str, subject: str, expected: bool) -> None:
    assert resend.matches(pattern, subject) is expected


def test_a_message_goes_back_only_where_nobody_else_would_work_on_it_twice() -> None:
    def consumer(name: str, policy: str = "explicit", **config: Any) -> dict[str, object]:
        return {"name": name, "config": {"ack_policy": policy, **config}}

    plan = resend.plan(letter(), "S", "c")
    mine = consumer("c", filter_subject="s.>")
    resend.alone(plan, [mine, consumer("o", filter_subject="t.>"), consumer("f", "none"),
                        consumer("m", filter_subjects=["t.x", "u.*"])])  # fmt: skip
    for other in (consumer("o"), consumer("o", "all", filter_subject="s.*"), consumer("o", filter_subjects=["s.x"])):
        with pytest.raises(NotSent, match=r"other consumers .* again: o"):
            resend.alone(plan, [mine, other])
    for gone in ([], [consumer("c", filter_subject="t.>")]):
        with pytest.raises(NotSent, match="no consumer c any more"):
            resend.alone(plan, gone)
