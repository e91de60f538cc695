"""dispatch/preferences.py: a decision addresses exactly the users whose threshold it crosses, found by index."""

import random
import time
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.preferences import Preferences
from schemas.config import RISK_THRESHOLDS, BotConfig, BotWanted, TakeProfit, Wanted
from schemas.events import Decision, Market, Origin, RiskLevel, Side, Strategy

MARKET = Market(virtual_lamports=30_000_000_000, virtual_tokens=1_073_000_000_000_000, seen_at_ns=1)


def wanted(
    user: str,
    strategy: Strategy = Strategy.SNIPER,
    min_score: int | None = None,
    risk: RiskLevel = RiskLevel.MEDIUM,
    state: Wanted = Wanted.RUNNING,
) -> BotWanted:
    config = BotConfig(strategy=strategy, risk_level=risk, min_score=min_score)
    return BotWanted(user=user, wanted=state, config=config, changed_at_ns=1)


def decision(
    score: int, previous: int = -1, strategy: Strategy | Origin = Strategy.SNIPER, side: Side = Side.BUY
) -> Decision:
    return Decision(
        id="e:S", strategy=Origin(strategy), side=side, mint="M", creator="dev", score=score, previous_score=previous,
        risk=None, reasons=(), features={}, arithmetic_known=True, market=MARKET, decided_at_ns=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("threshold", "previous", "score", "addressed"),
    [
        (65, -1, 65, True),  # reached exactly
        (65, -1, 64, False),  # one short
        (65, 64, 65, True),  # crossed now
        (65, 65, 80, False),  # crossed before: heard already
        (65, 70, 80, False),
        (0, -1, 0, True),  # min_score 0 takes whatever is scored
        (0, 0, 100, False),  # and hears of it once
        (100, 99, 100, True),
        (100, -1, 99, False),
    ],
)
def test_a_threshold_in_the_open_interval_is_addressed(
    threshold: int, previous: int, score: int, addressed: bool
) -> None:
    preferences = Preferences()
    preferences.apply("u", wanted("u", min_score=threshold), 1)
    assert preferences.match(decision(score, previous)) == (["u"] if addressed else [])


def test_the_risk_level_gives_the_threshold_unless_min_score_does() -> None:
    preferences = Preferences()
    for revision, level in enumerate(RiskLevel, 1):
        preferences.apply(str(level), wanted(str(level), risk=level), revision)
    preferences.apply("own", wanted("own", risk=RiskLevel.LOW, min_score=10), 9)
    assert preferences.match(decision(10)) == ["own"]
    for level, threshold in RISK_THRESHOLDS.items():
        assert preferences.match(decision(threshold, threshold - 1)) == [str(level)]


def test_users_come_sorted_whatever_their_thresholds_and_order_of_arrival() -> None:
    preferences = Preferences()
    for revision, (user, threshold) in enumerate([("b", 3), ("Z", 50), ("a", 90), ("10", 0), ("9", 50)], 1):
        preferences.apply(user, wanted(user, min_score=threshold), revision)
    assert preferences.match(decision(100)) == ["10", "9", "Z", "a", "b"]


def test_only_the_decisions_strategy_is_addressed() -> None:
    preferences = Preferences()
    preferences.apply("s", wanted("s", Strategy.SNIPER), 1)
    preferences.apply("m", wanted("m", Strategy.MOMENTUM), 2)
    assert preferences.match(decision(100, strategy=Strategy.MOMENTUM)) == ["m"]


@pytest.mark.parametrize("side", list(Side))
def test_a_rug_alarm_addresses_nobody_here(side: Side) -> None:
    """Who holds the coin is known to the bots, which follow the alarms themselves."""
    preferences = Preferences()
    for revision, strategy in enumerate(Strategy, 1):
        preferences.apply(str(strategy), wanted(str(strategy), strategy, min_score=0), revision)
    assert preferences.match(decision(100, strategy=Origin.RUG_ALARM, side=side)) == []


def test_a_sell_addresses_nobody() -> None:
    preferences = Preferences()
    preferences.apply("u", wanted("u", min_score=0), 1)
    assert preferences.match(decision(100, side=Side.SELL)) == []


@pytest.mark.parametrize("change", [wanted("u", state=Wanted.STOPPED), None], ids=["stopped", "deleted"])
def test_a_user_who_is_not_running_is_not_addressed(change: BotWanted | None) -> None:
    preferences = Preferences()
    preferences.apply("u", wanted("u", min_score=0), 1)
    preferences.apply("u", change, 2)
    assert preferences.match(decision(100)) == []
    assert (len(preferences), preferences.revision) == (0, 2)


def test_a_revision_delivered_again_changes_nothing() -> None:
    preferences = Preferences()
    preferences.apply("u", wanted("u", min_score=10), 5)
    preferences.apply("u", wanted("u", min_score=90), 8)
    preferences.apply("u", wanted("u", min_score=10), 5)  # a follower that starts again repeats the past
    assert preferences.match(decision(50)) == []
    assert preferences.revision == 8


@pytest.mark.parametrize(
    ("user", "value", "field"),
    [
        ("u", BotWanted(user="u", wanted=Wanted.RUNNING, config=BotConfig(strategy=Strategy.SNIPER, min_score=101),
                        changed_at_ns=1), "min_score"),
        ("u", BotWanted(user="u", wanted=Wanted.RUNNING, changed_at_ns=1, config=BotConfig(
            strategy=Strategy.SNIPER, tp_strategy=TakeProfit.FIXED, tp_config={"typo": 1})), "tp_config.typo"),
        ("u", BotWanted(user="u", wanted=Wanted.STOPPED, changed_at_ns=1, config=BotConfig(
            strategy=Strategy.SNIPER, buy_sol=Decimal(2), budget_sol=Decimal(1))), "buy_sol"),
        ("u", wanted("someone-else"), "user"),  # another user's value under this key
        ('a","user":"b', wanted('a","user":"b'), "user"),  # would break out of the JSON text
        ("a.b", wanted("a.b"), "user"),  # would be two subject tokens
        ("~all", wanted("~all"), "user"),  # reserved
    ],
)  # fmt: skip
def test_an_entry_that_cannot_be_taken_leaves_its_user_out_and_names_the_field(
    user: str, value: BotWanted, field: str
) -> None:
    preferences = Preferences()
    preferences.apply("good", wanted("good", min_score=0), 1)
    preferences.apply(user, value, 2)
    assert list(preferences.refused) == [user]
    assert preferences.refused[user].startswith(f"{field}:")
    assert preferences.match(decision(100)) == ["good"]
    assert preferences.revision == 2


def test_a_mended_configuration_is_taken_and_no_longer_refused() -> None:
    preferences = Preferences()
    preferences.apply("u", wanted("u", min_score=101), 1)
    preferences.apply("u", wanted("u", min_score=100), 2)
    assert not preferences.refused
    assert preferences.match(decision(100)) == ["u"]


def test_an_entry_that_cannot_be_read_leaves_its_user_out_until_it_is_mended() -> None:
    preferences = Preferences()
    preferences.apply("u", wanted("u", min_score=0), 1)
    preferences.refuse("u", "not JSON", 2)
    preferences.refuse("u", "an old one again", 1)
    assert dict(preferences.refused) == {"u": "not JSON"}
    assert preferences.match(decision(100)) == []
    assert preferences.revision == 2
    preferences.apply("u", wanted("u", min_score=0), 3)
    assert preferences.match(decision(100)) == ["u"]
    assert not preferences.refused


changes = st.lists(
    st.tuples(
        st.sampled_from([f"u{n}" for n in range(8)]),
        st.sampled_from(list(Strategy)),
        st.integers(0, 100),
        st.sampled_from(["run", "stop", "delete", "bad"]),
    ),
    max_size=60,
)


@given(changes, st.integers(-1, 100), st.integers(0, 100), st.sampled_from(list(Strategy)))
@settings(max_examples=200)
def test_the_index_agrees_with_a_loop_over_all_users(
    made: list[tuple[str, Strategy, int, str]], previous: int, score: int, strategy: Strategy
) -> None:
    preferences, plain = Preferences(), {}
    for revision, (user, of, threshold, kind) in enumerate(made, 1):
        value = wanted(user, of, 101 if kind == "bad" else threshold)
        if kind == "stop":
            value = wanted(user, of, threshold, state=Wanted.STOPPED)
        preferences.apply(user, None if kind == "delete" else value, revision)
        plain.pop(user, None)
        if kind == "run":
            plain[user] = (of, threshold)
    expected = sorted(u for u, (of, t) in plain.items() if of is strategy and previous < t <= score)
    assert preferences.match(decision(score, previous, strategy)) == expected
    assert len(preferences) == len(plain)


def test_matching_one_of_ten_thousand_users_does_not_look_at_the_others() -> None:
    rng = random.Random(3)
    preferences = Preferences()
    for n in range(10_000):
        preferences.apply(f"user{n}", wanted(f"user{n}", min_score=rng.randrange(50, 101)), n + 1)
    preferences.apply("early", wanted("early", min_score=7), 10_001)
    started_s = time.perf_counter()
    for _ in range(1000):
        assert preferences.match(decision(20)) == ["early"]
    # A loop over 10,000 users takes about 1 ms; the index a few microseconds. The bound leaves room for a busy machine.
    assert time.perf_counter() - started_s < 0.3
