"""observer.admin: the two JSON answers, key by key as the contract spells them."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from observer import admin
from observer.creations import Creations
from observer.facts import Facts, HostFacts, Seen, gather, stages
from observer.health.limits import Thresholds
from observer.health.verdict import Status, judge
from observer.tally import Tally
from schemas.codec import MalformedEvent, encode
from schemas.config import BotConfig, BotWanted, Wanted
from schemas.events import Append, ProcessStatus, Reason, Refusal, Side, Strategy

S = 1_000_000_000
NOW = 1_795_000_000 * S
PAGE = admin.PageRequest()


def status(service: str, **figures: int) -> Seen:
    process = ProcessStatus(
        service=service, instance="0", pid=7, started_at_ns=NOW - 90 * S, at_ns=NOW, ready=True, figures=figures
    )
    return Seen(status=process, seen_at_ns=NOW - S)


def folds(users: int) -> Tally:
    tally = Tally()
    config = BotConfig(strategy=Strategy.SNIPER)
    for number in range(1, users + 1):
        bot = BotWanted(user=str(number), wanted=Wanted.RUNNING, config=config, changed_at_ns=NOW - number * S)
        tally.wanted(str(number), bot, number)
    refused = Refusal(
        id="r", signal_id="s", order_id=None, mint="M", side=Side.BUY, reason=Reason.EXPIRED, detail="", at_ns=1
    )
    tally.append(Append(id="a", user="2", signal_sequence=1, entries=(refused, refused), at_ns=1), 1)
    return tally


def facts(users: int = 3, **changes: Any) -> Facts:
    creations = Creations()
    for sequence in (2, 5, 6):
        creations.add(sequence, NOW - S)
    creations.acknowledge(5)
    state = {"messages": 4, "bytes": 400, "first_seq": 6, "last_seq": 9, "last_ts": "2026-11-20T20:14:20Z"}
    info = {"num_pending": 3, "num_ack_pending": 2, "num_waiting": 1, "ack_floor": {"stream_seq": 5}}
    given: dict[str, Any] = {
        "broker_up": True,
        "folded": True,
        "host": HostFacts(),
        "processes": {
            ("ingest", "0"): status("ingest", feed_running=1, feed_since_at_ns=NOW - 80 * S),
            ("bots", "0"): status("bots"),
        },
        "streams": {name: {"state": state} for name in ("FILLS", "SIGNALS", "DEAD", "TOKENS", "DECISIONS")},
        "stages": [(stage, [info] * len(stage.consumers)) for stage in stages(4)],
        "creations": creations,
        "tally": folds(users),
    }
    return gather(NOW, **{**given, **changes})


def as_json(answer: msgspec.Struct) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(encode(answer))
    return decoded


def test_stats_have_exactly_the_contracts_keys() -> None:
    answer = as_json(admin.stats(facts(), PAGE, 10_000))
    assert list(answer) == ["success", "timestamp", "stats"]
    assert answer["success"] is True
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", answer["timestamp"])
    stats = answer["stats"]
    assert list(stats) == [
        "active_bots",
        "architecture",
        "max_capacity",
        "feed_stats",
        "engine_stats",
        "streams",
        "processes",
    ]
    assert stats["architecture"] == "OPTIMIZED_CENTRALIZED"
    assert list(stats["feed_stats"]) == [
        "is_running",
        "subscribers",
        "tokens_received",
        "uptime_seconds",
        "tokens_per_minute",
    ]
    assert list(stats["engine_stats"]) == ["active_bots", "tokens_analyzed", "signals_sent", "bots"]
    assert all(list(bot) == ["user_id", "signals_received", "uptime"] for bot in stats["engine_stats"]["bots"])


def test_stats_hold_the_numbers_of_the_facts() -> None:
    stats = as_json(admin.stats(facts(), PAGE, 500))["stats"]
    assert (stats["active_bots"], stats["max_capacity"]) == (3, 500)
    assert stats["feed_stats"] == {
        "is_running": True,
        "subscribers": 3,
        "tokens_received": 3,
        "uptime_seconds": 80,
        "tokens_per_minute": 3,
    }
    assert stats["engine_stats"]["tokens_analyzed"] == 2
    assert stats["engine_stats"]["signals_sent"] == 9
    assert stats["engine_stats"]["bots"] == [
        {"user_id": "1", "signals_received": 0, "uptime": 1},
        {"user_id": "2", "signals_received": 2, "uptime": 2},
        {"user_id": "3", "signals_received": 0, "uptime": 3},
    ]


def test_streams_come_in_the_order_of_the_line_with_their_readers_lag() -> None:
    streams = as_json(admin.stats(facts(), PAGE, 1))["stats"]["streams"]
    assert [(s["name"], s["reader"], s["lag"]) for s in streams] == [
        ("TOKENS", "analyze", 5),
        ("DECISIONS", "dispatch", 5),
        ("SIGNALS", "bots", 20),  # four partitions
        ("FILLS", None, None),  # the end of the line
        ("DEAD", None, None),
    ]
    assert streams[0]["contents"] == {"created": 3}
    assert streams[3]["contents"]["refused"] == 2
    assert (streams[0]["stored"], streams[0]["messages"]) == (9, 4)


def test_what_is_not_known_is_zero_false_or_absent_and_the_keys_stay() -> None:
    unknown = facts(processes={}, streams={}, stages=[], broker_up=False)
    stats = as_json(admin.stats(unknown, PAGE, 1))["stats"]
    assert stats["feed_stats"]["is_running"] is False
    assert stats["feed_stats"]["uptime_seconds"] == 0
    assert stats["engine_stats"]["signals_sent"] == 0
    assert (stats["streams"], stats["processes"]) == ([], [])


def test_a_feed_whose_process_is_silent_is_not_running() -> None:
    silent = status("ingest", feed_running=1, feed_since_at_ns=NOW - 80 * S)
    silent = msgspec.structs.replace(silent, seen_at_ns=NOW - 6 * S)
    stats = as_json(admin.stats(facts(processes={("ingest", "0"): silent}), PAGE, 1))["stats"]
    assert stats["feed_stats"]["is_running"] is False
    assert stats["feed_stats"]["uptime_seconds"] == 0
    assert stats["processes"][0]["alive"] is False


def test_a_feed_that_is_not_connected_has_no_uptime() -> None:
    away = status("ingest", feed_running=0, feed_since_at_ns=NOW - 80 * S)
    stats = as_json(admin.stats(facts(processes={("ingest", "0"): away}), PAGE, 1))["stats"]
    assert stats["feed_stats"]["uptime_seconds"] == 0


@pytest.mark.parametrize(
    ("page", "per_page", "users"),
    [
        (1, 2, ["1", "2"]),
        (2, 2, ["3", "4"]),
        (6, 2, ["11"]),  # the last page is not full; numbers in the order of numbers
        (7, 2, []),  # behind the last page
        (1, 500, [str(n) for n in range(1, 12)]),
    ],
)
def test_bots_are_paged(page: int, per_page: int, users: list[str]) -> None:
    stats = as_json(admin.stats(facts(11), admin.PageRequest(page=page, per_page=per_page), 1))["stats"]
    assert [bot["user_id"] for bot in stats["engine_stats"]["bots"]] == users
    assert stats["engine_stats"]["active_bots"] == 11


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (b'{"page": 0}', "page"),
        (b'{"per_page": 501}', "per_page"),
        (b'{"per_page": 0}', "per_page"),
        (b'{"page": "1"}', "page"),
        (b"[]", "object"),
    ],
)
def test_a_page_out_of_bounds_is_refused_by_name(payload: bytes, named: str) -> None:
    with pytest.raises(MalformedEvent, match=named):
        admin.page_request(payload)


def test_an_empty_request_asks_for_the_first_page() -> None:
    assert admin.page_request(b"") == admin.PageRequest(page=1, per_page=50)


def test_health_has_exactly_the_contracts_keys() -> None:
    now = facts()
    answer = as_json(admin.health(now, judge(now, Thresholds())))
    assert list(answer) == ["success", "status", "active_bots", "checks"]
    assert answer["active_bots"] == 3
    contract = ["ok", "value", "limit", "unit", "since"]
    beyond = ["level", "critical", "reason", "names"]
    assert all(list(check) == [*contract, *beyond] for check in answer["checks"].values())
    assert all(check["ok"] == (check["level"] == "good") for check in answer["checks"].values())
    assert {check["level"] for check in answer["checks"].values()} <= {"good", "warning", "critical", "unknown"}


def test_a_degraded_line_still_works_and_an_unhealthy_one_does_not() -> None:
    now = facts()
    verdict = judge(now, Thresholds())
    assert [
        admin.health(now, msgspec.structs.replace(verdict, status=word)).success
        for word in (Status.HEALTHY, Status.DEGRADED, Status.UNHEALTHY)
    ] == [True, True, False]
