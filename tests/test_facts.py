"""observer.facts and observer.times: what the broker and the processes say, read into one struct."""

from __future__ import annotations

from typing import Any

import pytest

from observer.creations import Creations
from observer.facts import (
    PROCESSES_MAX,
    REMEMBERED_S,
    Facts,
    HostFacts,
    Seen,
    alive,
    figure,
    gather,
    hear,
    newest,
    read_stage,
    read_stream,
    stages,
)
from observer.tally import Tally
from observer.times import age_ms, iso, parse_iso
from schemas.events import ProcessStatus

S = 1_000_000_000
NOW = 1_795_000_000 * S


def status(service: str, instance: str = "0", figures: dict[str, int] | None = None) -> ProcessStatus:
    return ProcessStatus(
        service=service,
        instance=instance,
        pid=7,
        started_at_ns=NOW - 100 * S,
        at_ns=NOW,
        ready=True,
        figures=figures or {},
    )


def stream_info(last: int = 9, last_ts: str = "2026-11-20T20:14:20.123456789Z") -> dict[str, Any]:
    """As nats-server 2.15.1 answers STREAM.INFO, shortened."""
    state = {"messages": 5, "bytes": 900, "first_seq": last - 4, "last_seq": last, "last_ts": last_ts}
    return {"type": "io.nats.jetstream.api.v1.stream_info_response", "config": {}, "state": state}


def consumer_info(pending: int = 3, unacked: int = 2, acked: int = 4) -> dict[str, Any]:
    """As nats-server 2.15.1 answers CONSUMER.INFO, shortened."""
    return {
        "num_pending": pending,
        "num_ack_pending": unacked,
        "num_waiting": 1,
        "ack_floor": {"consumer_seq": acked, "stream_seq": acked},
    }


def facts(**changes: Any) -> Facts:
    given: dict[str, Any] = {
        "broker_up": True,
        "folded": True,
        "host": HostFacts(),
        "processes": {},
        "streams": {},
        "stages": [],
        "creations": Creations(),
        "tally": Tally(),
    }
    return gather(NOW, **{**given, **changes})


@pytest.mark.parametrize(
    ("text", "at_ns"),
    [
        ("1970-01-01T00:00:01Z", S),  # no fraction
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("1970-01-01T00:00:01.000000007Z", 1_000_000_007),  # the nanosecond survives
        ("0001-01-01T00:00:00Z", None),  # the server's "never"
        ("2026-11-20T20:14:20+01:00", None),  # not UTC
        ("soon", None),
        (None, None),
    ],
)
def test_a_servers_time_is_nanoseconds_or_none(text: object, at_ns: int | None) -> None:
    assert parse_iso(text) == at_ns


def test_times_for_people_are_utc_to_the_millisecond() -> None:
    assert iso(1_500_000_000) == "1970-01-01T00:00:01.500Z"
    assert age_ms(5 * S, 3 * S) == 0  # the other machine's clock is ahead


def test_a_stream_is_read_with_what_it_ever_stored_and_what_it_keeps() -> None:
    read = read_stream("TOKENS", stream_info(last=9))
    assert (read.messages, read.last_sequence, read.first_sequence) == (5, 9, 5)
    assert read.last_at_ns is not None
    assert read.last_at_ns % S == 123_456_789
    assert read_stream("DEAD", stream_info(last_ts="0001-01-01T00:00:00Z")).last_at_ns is None


def test_a_stages_lag_is_the_sum_over_its_consumers() -> None:
    bots = stages(2)[2]
    read = read_stage(bots, [consumer_info(3, 2, acked=4), consumer_info(10, 0, acked=9)])
    assert read is not None
    assert (read.pending, read.unacked, read.lag, read.waiting) == (13, 2, 15, 2)
    assert read.acked_sequence == 4  # done by every one of them


def test_a_stages_lag_in_seconds_is_that_of_its_latest_consumer() -> None:
    bots = stages(3)[2]
    names = [consumer.name for consumer in bots.consumers]
    oldest = {names[0]: NOW - 3 * S, names[2]: NOW - 12 * S - 1}
    read = facts(stages=[(bots, [consumer_info()] * 3)], oldest_at_ns=oldest).stages["bots"]
    assert [(c.name, c.lag) for c in read.consumers] == [(name, 5) for name in names]
    assert [c.lag_seconds for c in read.consumers] == [3, 0, 12]
    assert read.lag_seconds == 12


def test_a_stage_of_which_one_consumer_did_not_answer_is_unknown() -> None:
    bots = stages(2)[2]
    assert read_stage(bots, [consumer_info(), None]) is None
    assert facts(stages=[(bots, [consumer_info(), None])]).stages == {}


def test_the_line_has_three_stages_and_a_consumer_a_partition() -> None:
    assert [(stage.service, stage.stream, len(stage.consumers)) for stage in stages(32)] == [
        ("analyze", "TOKENS", 1),
        ("dispatch", "DECISIONS", 1),
        ("bots", "SIGNALS", 32),
    ]


def test_what_the_broker_said_before_it_went_away_is_not_passed_on() -> None:
    stage = stages(1)[0]
    given = {"streams": {"TOKENS": stream_info()}, "stages": [(stage, [consumer_info()])]}
    assert facts(**given).streams.keys() == {"TOKENS"}
    away = facts(**given, broker_up=False)
    assert (away.streams, away.stages) == ({}, {})


def test_processes_come_in_the_order_of_the_line() -> None:
    heard: dict[tuple[str, str], Seen] = {}
    for service, instance in (("portal", "0"), ("bots", "1"), ("bots", "0"), ("ingest", "0"), ("canary", "0")):
        hear(heard, status(service, instance), NOW)
    order = [(seen.status.service, seen.status.instance) for seen in facts(processes=heard).processes]
    assert order == [("ingest", "0"), ("bots", "0"), ("bots", "1"), ("portal", "0"), ("canary", "0")]


def test_a_process_long_gone_is_forgotten() -> None:
    heard: dict[tuple[str, str], Seen] = {}
    hear(heard, status("bots", "0"), NOW)
    hear(heard, status("bots", "1"), NOW + REMEMBERED_S * S)
    assert len(heard) == 2
    hear(heard, status("bots", "1"), NOW + REMEMBERED_S * S + 1)
    assert list(heard) == [("bots", "1")]


def test_the_table_of_processes_is_bounded() -> None:
    heard: dict[tuple[str, str], Seen] = {}
    for number in range(PROCESSES_MAX + 10):
        hear(heard, status("bots", str(number)), NOW)
    assert len(heard) == PROCESSES_MAX


def test_a_figure_of_a_silent_process_is_not_known() -> None:
    heard: dict[tuple[str, str], Seen] = {}
    hear(heard, status("ingest", figures={"feed_running": 1}), NOW - 5 * S)
    assert figure(facts(processes=heard), "ingest", "feed_running") == 1
    assert figure(facts(processes=heard), "ingest", "frames") is None
    hear(heard, status("ingest", figures={"feed_running": 1}), NOW - 6 * S)
    assert figure(facts(processes=heard), "ingest", "feed_running") is None
    seen = newest(facts(processes=heard), "ingest")
    assert seen is not None
    assert not alive(seen, NOW)
