"""The vocabulary of figures: declared, bounded, there from the start, the same in code, exposition and documents."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from bots.telling import EXITS, REFUSALS
from ingest.cost import DailyCost
from observer.broker_metrics import LAG_THRESHOLD, SERIES, behind, series
from observer.business import DAY_NS, SLOT_NS, Business, mean_bps, top_bps
from runtime import process, vocabulary
from runtime.settings import SERVICES
from runtime.telemetry import Figures, Metrics
from runtime.vocabulary import Figure, Kind, Vocabulary
from runtime.wire import trace_headers, trace_of
from schemas.events import Decision, Fill, Origin, Reason, Side
from schemas.subjects import Consumer

ROOT = Path(__file__).resolve().parent.parent
TRACE = "ab" * 16
SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND


def vocabulary_of(service: str) -> Vocabulary:
    return {**process.FIGURES, **importlib.import_module(f"{service}.__main__").FIGURES}


def samples(figures: Figures) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = Metrics(figures).text()[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in plain(text)
        for sample in family.samples
    }


def values(figures: Figures, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    return {labels: value for (found, labels), value in samples(figures).items() if found == name}


# The declaration


@pytest.mark.parametrize("service", SERVICES)
def test_every_label_set_that_is_known_is_there_from_the_start_at_zero(service: str) -> None:
    known = vocabulary_of(service)
    there = samples(Figures(known))
    for name, figure in known.items():
        figure = vocabulary.declared(figure)
        if figure.later or figure.buckets or name.endswith("_at_ns"):
            continue
        for labels in vocabulary.known_sets(figure):
            assert there[vocabulary.shown(name)[0], tuple(sorted(labels.items()))] == 0, (name, labels)


@pytest.mark.parametrize("service", SERVICES)
def test_histograms_are_there_from_the_start_with_all_their_buckets(service: str) -> None:
    known = vocabulary_of(service)
    there = samples(Figures(known))
    for name, declared in known.items():
        figure = vocabulary.declared(declared)
        if figure.buckets:
            buckets = [value for (found, _), value in there.items() if found == f"mintline_{name}_bucket"]
            assert buckets == [0] * (len(figure.buckets) + 1) * len(vocabulary.known_sets(figure))


@pytest.mark.parametrize("service", SERVICES)
def test_names_say_what_they_are(service: str) -> None:
    for name, declared in vocabulary_of(service).items():
        figure, shown = vocabulary.declared(declared), vocabulary.shown(name)[0]
        assert re.fullmatch(r"mintline_[a-z][a-z0-9_]*", shown)
        assert not shown.endswith(("_ns", "_ms", "_microseconds", "_bps", "_percent")), f"{shown}: no base unit"
        is_age = vocabulary.kind(name, figure) is Kind.GAUGE and shown.endswith(("_lag_seconds", "_age_seconds"))
        assert not is_age or shown == "mintline_stream_max_age_seconds", f"{shown}: export the time, an age freezes"
        assert figure.help[0].isupper(), name
        assert not figure.help.endswith("."), name
        forbidden = {"user", "bot", "mint", "subject", "id"} & figure.labels.keys()
        assert not forbidden, f"{name} has a label without bounds: {forbidden}"


def test_a_figure_that_is_not_declared_is_refused() -> None:
    figures = Figures({"known": "Known", "labelled_total": Figure("Labelled", {"kind": ("a",)})})
    with pytest.raises(KeyError, match="not among the declared figures"):
        figures.add("unknown")
    with pytest.raises(KeyError, match="labels"):
        figures.add("known", kind="a")
    with pytest.raises(KeyError, match="labels"):
        figures.add("labelled_total")


def test_a_label_value_that_is_not_declared_is_other_or_refused() -> None:
    figures = Figures({
        "bounded_total": Figure("Bounded", {"kind": ("a", "other")}),
        "closed_total": Figure("Closed", {"kind": ("a",)}),
    })  # fmt: skip
    for kind in ("a", "b", "c"):
        figures.add("bounded_total", kind=kind)
    assert values(figures, "mintline_bounded_total") == {(("kind", "a"),): 1, (("kind", "other"),): 2}
    with pytest.raises(KeyError, match="declare it"):
        figures.add("closed_total", kind="b")


def test_integers_are_shown_in_base_units() -> None:
    figures = Figures(dict.fromkeys(("seen_at_ns", "skew_ns", "usage_bps", "lamports"), "Some"))
    figures.put("seen_at_ns", 1_800_000_000_250_000_000)
    figures.put("skew_ns", -1_500_000)
    figures.put("usage_bps", 1234)
    figures.put("lamports", -7)
    there = {name: value for (name, _), value in samples(figures).items()}
    assert there["mintline_seen_timestamp_seconds"] == 1_800_000_000.25
    assert there["mintline_skew_seconds"] == -0.0015
    assert there["mintline_usage_ratio"] == 0.1234
    assert there["mintline_lamports"] == -7


def test_a_time_that_never_was_is_absent() -> None:
    figures = Figures({"seen_at_ns": "Seen"})
    assert not values(figures, "mintline_seen_timestamp_seconds")
    figures.put("seen_at_ns", NOW)
    assert values(figures, "mintline_seen_timestamp_seconds") == {(): NOW / SECOND}
    figures.put("seen_at_ns", 0)
    assert not values(figures, "mintline_seen_timestamp_seconds")


def test_replacing_a_figures_series_removes_those_that_are_not_mentioned() -> None:
    figures = Figures({"behind": Figure("Behind", {"durable": ()}), "one": Figure("One", later=True)})
    figures.replace("behind", [({"durable": "a"}, 1), ({"durable": "b"}, 2)])
    figures.replace("one", [({}, 5)])
    assert len(values(figures, "mintline_behind")) == 2
    figures.replace("behind", [({"durable": "b"}, 3)])
    assert values(figures, "mintline_behind") == {(("durable", "b"),): 3}
    assert values(figures, "mintline_one") == {(): 5}
    figures.replace("behind", [])
    figures.replace("one", [])
    assert not values(figures, "mintline_behind")
    assert not values(figures, "mintline_one")


def test_what_is_not_told_is_on_the_page_and_not_in_the_status() -> None:
    figures = Figures({"told": "Told", "many": Figure("Many", {"durable": ()}, told=False)})
    figures.put("many", 7, durable="p0")
    assert figures.told() == {"told": 0}
    assert values(figures, "mintline_many") == {(("durable", "p0"),): 7}


# Every use of a figure in the code


def uses() -> Iterator[tuple[str, str, frozenset[str]]]:
    """Where, which figure, which labels: calls of add, put and observe with a figure's name as a text."""
    for service in (*SERVICES, "runtime"):
        for path in sorted((ROOT / service).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                    continue
                on, name = ast.unparse(node.func.value), node.args[0]
                if (
                    node.func.attr in ("add", "put", "observe")
                    and on.endswith("figures")
                    and isinstance(name, ast.Constant)
                ):
                    labels = frozenset(word.arg for word in node.keywords if word.arg) - {
                        "amount",
                        "count",
                        "trace",
                        "value",
                    }
                    yield path.relative_to(ROOT).as_posix(), name.value, labels


@pytest.mark.parametrize(("where", "name", "labels"), sorted(set(uses()), key=str))
def test_every_figure_is_used_as_it_is_declared(where: str, name: str, labels: frozenset[str]) -> None:
    service = where.split("/")[0]
    known = [vocabulary_of(one) for one in (SERVICES if service == "runtime" else [service])]
    declared = [vocabulary.declared(each[name]) for each in known if name in each]
    assert declared, f"{where}: {name} is not in the vocabulary"
    assert any(figure.labels.keys() == labels for figure in declared), f"{where}: {name} has other labels"


def test_every_reason_of_the_ledger_is_a_label_value() -> None:
    assert {*EXITS, *REFUSALS} - {vocabulary.OTHER} == {*Reason} - {Reason.SIGNAL}


def test_the_documentation_has_every_metric() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    for service in SERVICES:
        for name in vocabulary_of(service):
            assert f"| `{vocabulary.shown(name)[0]}` |" in text, f"{name}: run ./dev docs"


# Histograms and the two formats


def latency() -> Figures:
    return Figures({"took_seconds": Figure("Took", {"stage": ("a",)}, (0.1, 0.5, 1.0))})


def test_a_histogram_counts_what_lay_below_each_bound() -> None:
    figures = latency()
    figures.observe("took_seconds", 0.1, stage="a")
    figures.observe("took_seconds", 0.3, 4, stage="a")
    figures.observe("took_seconds", 9.0, stage="a")
    there = {dict(labels)["le"]: value for labels, value in values(figures, "mintline_took_seconds_bucket").items()}
    assert there == {"0.1": 1, "0.5": 5, "1.0": 5, "+Inf": 6}
    assert values(figures, "mintline_took_seconds_count") == {(("stage", "a"),): 6}
    assert values(figures, "mintline_took_seconds_sum")[("stage", "a"),] == pytest.approx(10.3)


def test_openmetrics_has_the_trace_of_an_example_and_the_plain_format_has_none() -> None:
    figures = latency()
    figures.observe("took_seconds", 0.3, 4, trace=TRACE, stage="a")
    body, kind = Metrics(figures).text("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert body.decode().endswith("# EOF\n")
    found = [
        (sample.labels["le"], sample.exemplar.labels["trace_id"], sample.exemplar.value)
        for family in openmetrics(body.decode())
        for sample in family.samples
        if sample.exemplar
    ]
    assert found == [("0.5", TRACE, 0.3)]
    body, kind = Metrics(figures).text("text/plain;version=0.0.4")
    assert kind.startswith("text/plain; version=0.0.4")
    assert TRACE not in body.decode()


def test_a_message_tells_its_trace() -> None:
    assert trace_of(b"NATS/1.0\r\nNats-Msg-Id: x\r\n" + trace_headers(TRACE) + b"\r\n") == TRACE
    assert trace_of(b"NATS/1.0\r\nNats-Msg-Id: x\r\n\r\n") == ""


# What the broker says


def stream_info(**state: object) -> dict[str, object]:
    whole = {"messages": 3, "bytes": 300, "first_seq": 5, "last_seq": 7, "first_ts": "2027-01-15T08:00:00Z",
             "last_ts": "2027-01-15T08:00:01.5Z", **state}  # fmt: skip
    return {"config": {"discard": "old", "max_bytes": -1, "max_age": 3600 * SECOND}, "state": whole}


def consumer_info(pending: int, unacked: int) -> dict[str, object]:
    return {
        "config": {"max_ack_pending": 1000, "metadata": {LAG_THRESHOLD: "10", "_nats.level": "5"}},
        "num_pending": pending, "num_ack_pending": unacked, "num_waiting": 1, "num_redelivered": 2,
        "delivered": {"stream_seq": 40, "consumer_seq": 41}, "ack_floor": {"stream_seq": 30, "consumer_seq": 31},
    }  # fmt: skip


P3 = Consumer(stream="SIGNALS", name="p3", subject="signals.3.*")
P4 = Consumer(stream="SIGNALS", name="p4", subject="signals.4.*")


def test_a_consumer_that_has_caught_up_has_no_oldest_message() -> None:
    consumers = {P3: consumer_info(5, 7), P4: consumer_info(0, 0)}
    assert behind(consumers.items()) == [(P3, 30)]
    found = series({}, consumers, {P3: NOW}, frozenset())
    p3 = {"stream": "SIGNALS", "durable": "p3"}
    assert found["consumer_oldest_unprocessed_at_ns"] == [(p3, NOW)]
    assert dict(_of(found["consumer_unprocessed"])) == {"p3": 12, "p4": 0}
    assert dict(_of(found["consumer_ack_pending_limit"])) == {"p3": 1000, "p4": 1000}
    assert dict(_of(found["consumer_delivered_sequence"])) == {"p3": 40, "p4": 40}
    assert dict(_of(found["consumer_lag_threshold_ns"])) == {"p3": 10 * SECOND, "p4": 10 * SECOND}


def _of(found: list[tuple[object, int]]) -> Iterator[tuple[str, int]]:
    for labels, value in found:
        yield labels["durable"], value  # type: ignore[index]


def test_what_is_missing_or_otherwise_is_told_and_what_did_not_answer_is_absent() -> None:
    streams = {"TOKENS": stream_info(), "FILLS": {}, "DECISIONS": stream_info(), "DEAD": None}
    found = series(streams, {P3: {}, P4: None}, {}, frozenset({("DECISIONS", "")}))
    states = {(labels["stream"], labels["durable"]): labels["state"] for labels, one in found["asset_state"] if one}
    assert states == {
        ("TOKENS", ""): "ok", ("FILLS", ""): "missing", ("DECISIONS", ""): "drifted", ("SIGNALS", "p3"): "missing",
    }  # fmt: skip
    assert len(found["asset_state"]) == 4 * 3
    assert {labels["stream"] for labels, _ in found["stream_bytes"]} == {"TOKENS", "DECISIONS"}


def test_an_empty_streams_oldest_message_is_absent_and_no_limit_is_zero() -> None:
    found = series({"TOKENS": stream_info(messages=0, first_ts="0001-01-01T00:00:00Z")}, {}, {}, frozenset())
    assert found["stream_oldest_message_at_ns"] == []
    assert found["stream_max_bytes"] == [({"stream": "TOKENS", "discard": "old"}, 0)]
    assert found.keys() == SERIES.keys()


# The last 24 hours


def fill(mint: str, lamports: int, at_ns: int, strategy: str = "SNIPER") -> Fill:
    return Fill(
        id="f", order_id="o", signal_id=f"{TRACE}:{strategy}:u", mint=mint, side=Side.SELL, tokens=1, lamports=lamports,
        curve_lamports=0, protocol_fee_lamports=0, creator_fee_lamports=0, network_fee_lamports=0,
        reason=Reason.TAKE_PROFIT, price_at_ns=at_ns, at_ns=at_ns,
    )  # fmt: skip


def decision(mint: str, at_ns: int, side: Side = Side.BUY) -> Decision:
    return Decision(
        id="d", strategy=Origin.SNIPER, side=side, mint=mint, creator="c", score=50, previous_score=-1, risk=None,
        reasons=(), features={}, arithmetic_known=True, market=None, decided_at_ns=at_ns,
    )  # fmt: skip


def test_returns_are_counted_by_opportunity_and_ranked() -> None:
    business = Business()
    for mint, received in (("a", 150), ("b", 50), ("a", 250)):
        business.sold(fill(mint, received, NOW), 100)
    business.sold(fill("a", 100, NOW, "MOMENTUM"), 100)
    returns = business.figures(NOW)[2]
    assert sorted(returns) == [-5_000, 0, 10_000]
    assert mean_bps(returns) == 1_666
    assert top_bps([*returns, 1, 2, 3, 4]) == {"1": 10_000, "2": 4, "3": 3, "4": 2, "5": 1}
    assert mean_bps([]) is None


def test_what_is_older_than_a_day_is_forgotten_and_its_sums_with_it() -> None:
    business = Business()
    business.decided(decision("a", NOW))
    business.decided(decision("a", NOW + 1))
    business.decided(decision("c", NOW, Side.SELL))
    business.created("pump", NOW)
    business.sold(fill("a", 300, NOW), 100)
    business.sold(fill("a", 100, NOW + DAY_NS // 2), 100)
    assert business.figures(NOW + DAY_NS // 2) == (1, 1, [10_000])
    assert business.figures(NOW + DAY_NS + SLOT_NS) == (0, 0, [0])
    assert business.figures(NOW + 2 * DAY_NS) == (0, 0, [])


def test_the_cost_of_a_day_follows_the_rate_of_the_last_minute() -> None:
    cost = DailyCost()
    assert cost.lamports(0, 0) == 0
    # domain: one hot coin, 3.5 trades a second, is 302,400 trades and 0.3024 SOL a day
    assert cost.lamports(60 * SECOND, 210) == 302_400_000
    assert cost.lamports(120 * SECOND, 210) == 0
