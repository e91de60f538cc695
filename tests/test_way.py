"""One token's way from what the streams hold: found by mint or id, with the delay of each stage."""

from __future__ import annotations

import pytest

from observer.trace_command import text
from observer.way import Asked, Stored, asked, way
from schemas.events import (
    Append,
    DeadLetter,
    Decision,
    Entry,
    Fill,
    Intent,
    Origin,
    Quote,
    Reason,
    Refusal,
    Side,
    Signal,
    TokenCreated,
)

MS = 1_000_000
SEEN = 1_700_000_000_000 * MS
MINT = "So11111111111111111111111111111111111111112"
EVENT = "ab" * 16
DECISION = f"{EVENT}:SNIPER"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (MINT, Asked(mint=MINT)),
        (EVENT, Asked(event=EVENT)),
        (DECISION, Asked(event=EVENT, decision=DECISION)),
        (f"{DECISION}:u1", Asked(event=EVENT, decision=DECISION, user="u1")),
        (f"{DECISION}:u1:buy", Asked(event=EVENT, decision=DECISION, user="u1")),
        (f"{DECISION}:u1:buy:exit2", Asked(event=EVENT, decision=DECISION, user="u1")),
    ],
)
def test_a_mint_and_every_id_that_derives_from_an_event_are_understood(given: str, expected: Asked) -> None:
    assert asked(given) == expected


@pytest.mark.parametrize("given", ["", "xx", "tokens.>", "*", f"{EVENT}:", f"{EVENT}::u1", "0" * 44, MINT + ":x"])
def test_anything_else_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="neither a mint nor the id"):
        asked(given)


def at(ms: int) -> int:
    return SEEN + ms * MS


def created(ms: int) -> Stored:
    event = TokenCreated(
        id=EVENT, mint=MINT, signature="s", creator="c", pool="pump", name=None, symbol=None, uri=None,
        dev_buy_tokens=None, dev_buy_lamports=None, market=None, quote=Quote.SOL, mayhem=False, seen_at_ns=SEEN,
    )  # fmt: skip
    return Stored(at(ms), event)


def decided(ms: int, id_: str = DECISION) -> Stored:
    decision = Decision(
        id=id_, strategy=Origin.SNIPER, side=Side.BUY, mint=MINT, creator="c", score=70, previous_score=-1, risk=None,
        reasons=(), features={}, arithmetic_known=True, market=None, decided_at_ns=SEEN,
    )  # fmt: skip
    return Stored(at(ms), decision)


def signal(ms: int, user: str) -> Stored:
    return Stored(
        at(ms),
        Signal(
            id=f"{DECISION}:{user}", user=user, decision_id=DECISION, strategy=Origin.SNIPER, side=Side.BUY, mint=MINT,
            creator="c", score=70, risk=None, reasons=(), arithmetic_known=True, market=None, config_revision=1,
            decided_at_ns=SEEN, expires_at_ns=SEEN + 1,
        ),
    )  # fmt: skip


def line(ms: int, user: str, *entries: Entry) -> Stored:
    return Stored(at(ms), Append(id=f"{user}:{ms}", user=user, signal_sequence=1, entries=entries, at_ns=at(ms)))


def intent(user: str, mint: str = MINT) -> Intent:
    signal_id = f"{DECISION}:{user}"
    return Intent(
        id=f"{signal_id}:buy", signal_id=signal_id, mint=mint, side=Side.BUY, lamports=1, tokens=1, venue="paper",
        reason=Reason.SIGNAL, at_ns=SEEN,
    )  # fmt: skip


def fill(user: str, side: Side, reason: Reason) -> Fill:
    signal_id = f"{DECISION}:{user}"
    return Fill(
        id=f"{signal_id}:f", order_id=f"{signal_id}:buy", signal_id=signal_id, mint=MINT, side=side, tokens=1,
        lamports=1, curve_lamports=1, protocol_fee_lamports=0, creator_fee_lamports=0, network_fee_lamports=0,
        reason=reason, price_at_ns=SEEN, at_ns=SEEN,
    )  # fmt: skip


def refusal(user: str, reason: Reason) -> Refusal:
    signal_id = f"{DECISION}:{user}"
    return Refusal(
        id=f"{signal_id}:r", signal_id=signal_id, order_id=None, mint=MINT, side=Side.BUY, reason=reason, detail="",
        at_ns=SEEN,
    )  # fmt: skip


FOUND = [
    created(2),
    decided(5),
    *(signal(9 + number, f"u{number}") for number in range(4)),
    line(20, "u0", intent("u0"), intent("u0", "another")),
    line(30, "u1", intent("u1")),
    line(31, "u2", refusal("u2", Reason.BUDGET)),
    line(640, "u0", fill("u0", Side.BUY, Reason.SIGNAL)),
    line(9000, "u0", fill("u0", Side.SELL, Reason.TAKE_PROFIT)),
    Stored(
        at(9),
        DeadLetter(
            id="d", source="TOKENS", subject="tokens.traded.x", sequence=9, reason="odd", payload="", encoding="utf-8",
            at_ns=0,
        ),
    ),
]  # fmt: skip


def test_each_stages_delay_is_told_from_the_times_of_storing() -> None:
    (one,) = way(Asked(mint=MINT), MINT, FOUND).decisions
    assert {delay.stage: (delay.first_us, delay.last_us) for delay in one.delays} == {
        "frame to TOKENS": (2000, 2000),
        "TOKENS to DECISIONS": (3000, 3000),
        "DECISIONS to SIGNALS": (4000, 7000),
        "SIGNALS to FILLS": (11_000, 20_000),
        "frame to FILLS": (20_000, 31_000),
        "order to fill": (620_000, 620_000),
    }
    assert (one.event, one.trace, one.seen_at_ns) == ("TokenCreated", EVENT, SEEN)


def test_every_addressed_user_has_an_outcome_and_the_slowest_come_first() -> None:
    (one,) = way(Asked(mint=MINT), MINT, FOUND).decisions
    assert one.outcomes == {"BUDGET": 1, "bought": 1, "open": 1, "ordered": 1}
    assert one.exits == {"TAKE_PROFIT": 1}
    assert [user.user for user in one.users] == ["u3", "u2", "u1", "u0"]
    assert [entry.what for entry in one.users[-1].lines] == ["order", "fill", "fill"], "of this coin only"
    assert way(Asked(mint=MINT), MINT, FOUND).dead == ("TOKENS: odd",)


def test_the_output_is_bounded_and_says_what_it_leaves_out() -> None:
    found = way(Asked(mint=MINT), MINT, FOUND, users_max=1, incomplete=["FILLS"])
    (one,) = found.decisions
    assert (len(one.users), one.users_total) == (1, 4)
    shown = text(found)
    assert "and 3 more (--users)" in shown
    assert "FILLS: only the first" in shown


def test_an_order_shows_its_own_user_and_decision_only() -> None:
    wanted = asked(f"{DECISION}:u0:buy")
    found = way(wanted, MINT, [*FOUND, decided(6, f"{'cd' * 16}:SNIPER")])
    (one,) = found.decisions
    assert [user.user for user in one.users] == ["u0"]
    assert len(way(Asked(mint=MINT), MINT, [*FOUND, decided(6, f"{'cd' * 16}:SNIPER")]).decisions) == 2
    assert "fill BUY SIGNAL +640.0 ms, fill SELL TAKE_PROFIT +9000.0 ms" in text(found)


def test_what_the_streams_keep_no_longer_is_left_out_not_invented() -> None:
    kept = [stored for stored in FOUND if not isinstance(stored.what, TokenCreated | Signal)]
    found = way(Asked(mint=MINT), MINT, kept)
    (one,) = found.decisions
    assert (found.created_seen_at_ns, one.event_stored_at_ns) == (None, None)
    assert [delay.stage for delay in one.delays] == ["frame to FILLS", "order to fill"]
    assert "signal not kept" in text(found)
    assert "no decision" in text(way(Asked(mint=MINT), MINT, [created(2)]))


def test_names_by_strangers_do_not_reach_the_terminal_as_they_are() -> None:
    letter = DeadLetter(
        id="d", source="TOKENS", subject="", sequence=0, reason="\x1b[2Jgone", payload="", encoding="utf-8", at_ns=0
    )
    assert "\x1b" not in text(way(Asked(mint=MINT), MINT, [created(1), Stored(at(2), letter)]))
