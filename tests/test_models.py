"""analyze/models.py: the newest model is used, at most five are kept, and none of it takes a restart."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from analyze.features import FEATURE_NAMES
from analyze.model import FORMAT, Calibration, Linear, Model, Part, Report, encode_model
from analyze.models import MODELS_BYTES_MAX, MODELS_MAX, SUFFIX, Models, Stats
from runtime import telemetry, testing
from runtime.bus import Bus
from runtime.readers import read
from schemas import curve
from schemas.codec import Decoder, encode
from schemas.events import Decision, Market, Origin, Quote, Side, TokenCreated, TokenTraded
from schemas.subjects import about_token, token_subject

PART = Part(rows=1, positives=1, creators=1, from_at_ns=0, until_at_ns=0)
SECOND_NS = 1_000_000_000


def a_model(log_odds: float = 0.0, trained_at: str = "2026-11-20T00:00:00Z", **changes: Any) -> Model:
    """One that says the same of every coin."""
    report = Report(
        label="doubled", kind="logistic", edge=True, trained_at=trained_at, recordings=(), decision_age_ms=30_000,
        outcome_s=1_800, features=("buys",), training=PART, held_out=PART, base_rate=0.1, pr_auc=0.5,
        pr_auc_by_chance=0.2, roc_auc=0.8, cross_validated={}, calibration=(), reach=(),
    )  # fmt: skip
    fields: dict[str, Any] = {
        "format": FORMAT, "label": "doubled", "decision_age_ms": 30_000, "features": ("buys",),
        "raw": Linear(means=(0.0,), scales=(1.0,), coefficients=(0.0,), intercept=log_odds),
        "calibration": Calibration(slope=1.0, intercept=0.0), "report": report,
    }  # fmt: skip
    return Model(**{**fields, **changes})


class Shelf:
    """A directory of models, and what was logged about them."""

    def __init__(self, directory: Path, **limits: int) -> None:
        self.directory = directory
        self.out = io.StringIO()
        self.models = Models(directory, telemetry.Logger("analyze", "json", "debug", self.out), FEATURE_NAMES, **limits)
        self._clock_ns = 1_790_000_000 * SECOND_NS

    def put(self, name: str, data: bytes | Model) -> None:
        """As `mintline train` does: whole or not at all; each newer than the last."""
        self.directory.mkdir(exist_ok=True)
        self._clock_ns += SECOND_NS
        partial = self.directory / "partial"
        partial.write_bytes(encode_model(data) if isinstance(data, Model) else data)
        os.utime(partial, ns=(self._clock_ns, self._clock_ns))
        partial.replace(self.directory / f"{name}{SUFFIX}")

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, self.out.getvalue().splitlines()) if line["event"] == event]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "models")


async def test_without_a_model_it_says_so_once(shelf: Shelf) -> None:
    assert await shelf.models.poll() is True
    assert await shelf.models.poll() is await shelf.models.poll() is False
    assert shelf.models.current is None
    [line] = shelf.logged("no_model")
    assert line["reason"] == "NO_MODEL"
    assert line["directory"] == str(shelf.directory)


async def test_a_new_file_is_used_from_the_next_poll_on(shelf: Shelf) -> None:
    await shelf.models.poll()
    for n in range(3):
        shelf.put(f"m{n}", a_model(n))
        assert await shelf.models.poll() is True
        assert shelf.models.current == a_model(n)
        assert await shelf.models.poll() is False
    assert [line["file"] for line in shelf.logged("model_in_use")] == [f"m{n}{SUFFIX}" for n in range(3)]


async def test_a_file_replaced_under_its_name_is_a_new_model(shelf: Shelf) -> None:
    shelf.put("m", a_model(1))
    await shelf.models.poll()
    shelf.put("m", a_model(2))
    assert await shelf.models.poll() is True
    assert shelf.models.current == a_model(2)


async def test_deleting_the_newest_goes_back_to_the_one_before_from_memory(shelf: Shelf) -> None:
    shelf.put("a", a_model(1))
    await shelf.models.poll()
    shelf.put("b", a_model(2))
    await shelf.models.poll()
    (shelf.directory / f"b{SUFFIX}").unlink()
    misses = shelf.models.misses
    assert await shelf.models.poll() is True
    assert shelf.models.current == a_model(1)
    assert shelf.models.misses == misses
    (shelf.directory / f"a{SUFFIX}").unlink()
    assert await shelf.models.poll() is True
    assert shelf.models.current is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "truncated"),
        (encode_model(a_model(format=7)), "format 7"),
        (encode_model(a_model(features=("vibes",))), "vibes"),
    ],
)
async def test_a_file_that_cannot_be_used_is_named_once_and_the_old_model_stays(
    shelf: Shelf, data: bytes, reason: str
) -> None:
    shelf.put("good", a_model(1))
    await shelf.models.poll()
    shelf.put("bad", data)
    assert await shelf.models.poll() is await shelf.models.poll() is False
    assert shelf.models.current == a_model(1)
    [line] = shelf.logged("model_refused")
    assert line["file"] == str(shelf.directory / f"bad{SUFFIX}")
    assert reason in line["reason"]
    shelf.put("bad", a_model(2))  # mended
    assert await shelf.models.poll() is True
    assert shelf.models.current == a_model(2)


async def test_other_files_are_none_of_its_business(shelf: Shelf) -> None:
    shelf.put("m", a_model(1))
    (shelf.directory / "doubled.report.json").write_text("{}")
    (shelf.directory / "m.part").write_bytes(b"half of a")
    (shelf.directory / f"folder{SUFFIX}").mkdir()
    os.utime(shelf.directory / f"folder{SUFFIX}", ns=(1, 1))
    assert await shelf.models.poll() is True
    assert shelf.models.current == a_model(1)
    assert shelf.logged("model_refused") == []


async def test_at_most_so_many_are_kept_and_the_least_recently_used_goes(shelf: Shelf) -> None:
    for n in range(MODELS_MAX + 2):
        shelf.put(f"m{n}", a_model(n))
        await shelf.models.poll()
    assert len(shelf.models) == MODELS_MAX == 5
    assert shelf.models.evictions == 2
    assert [held.name for held in shelf.models.stats().models] == [f"m{n}{SUFFIX}" for n in (6, 5, 4, 3, 2)]


async def test_at_most_so_many_bytes_are_kept(tmp_path: Path) -> None:
    assert MODELS_BYTES_MAX == 2_048 * 1024 * 1024
    probe = Shelf(tmp_path / "probe")
    probe.put("m", a_model(0))
    await probe.models.poll()
    size = probe.models.bytes
    assert 1_000 < size < 20_000
    shelf = Shelf(tmp_path / "models", bytes_max=2 * size)
    for n in range(3):
        shelf.put(f"m{n}", a_model(n))
        await shelf.models.poll()
    assert len(shelf.models) == 2
    assert shelf.models.bytes <= 2 * size
    assert shelf.models.current == a_model(2)
    tight = Shelf(tmp_path / "probe", bytes_max=size - 1)
    await tight.models.poll()
    assert tight.models.current is None
    assert f"more than {size - 1}" in tight.logged("model_refused")[0]["reason"]


async def test_optimizing_lets_go_of_all_but_the_one_in_use(shelf: Shelf) -> None:
    for n in range(4):
        shelf.put(f"m{n}", a_model(n))
        await shelf.models.poll()
    before = shelf.models.bytes
    freed = shelf.models.optimize()
    assert 0 < freed < before
    assert shelf.models.bytes == before - freed
    assert [held.name for held in shelf.models.stats().models] == [f"m3{SUFFIX}"]
    assert shelf.models.current == a_model(3)
    assert shelf.models.optimize() == 0


async def test_the_figures_add_up(shelf: Shelf) -> None:
    shelf.put("a", a_model(1))
    await shelf.models.poll()
    await shelf.models.poll()
    shelf.put("bad", b"{")
    await shelf.models.poll()
    stats = shelf.models.stats()
    assert (stats.hits, stats.misses, stats.evictions, stats.refused) == (2, 2, 0, 1)
    assert (stats.in_use, stats.models_max, stats.bytes_max) == (f"a{SUFFIX}", 5, 2_048 << 20)
    assert stats.bytes == sum(held.bytes for held in stats.models) == shelf.models.bytes
    assert stats.loaded_at_ns > 1_700_000_000 * SECOND_NS
    assert stats.models[0].pr_auc == 0.5


async def test_a_directory_that_cannot_be_read_leaves_the_model_in_use(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.put("a", a_model(1))
    await shelf.models.poll()

    def denied(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("analyze.models._files", denied)
    assert await shelf.models.poll() is False
    assert shelf.models.current == a_model(1)
    assert shelf.logged("models_unreadable")


# In the process


async def test_analyze_takes_a_new_model_without_a_restart_and_decides_with_it(
    bus: Bus, broker: testing.Broker, service: Callable[..., testing.Service], tmp_path: Path
) -> None:
    shelf = Shelf(tmp_path / "models")
    analyze = service("analyze", MINTLINE_NATS_URL=broker.url, MINTLINE_ANALYZE_MODELS_DIR=str(shelf.directory))
    analyze.start()
    await testing.eventually(lambda: '"event":"no_model"' in analyze.text(), "told that there is no model")
    await testing.eventually(lambda: '"event":"ready"' in analyze.text(), "ready")

    await _coin(bus, "A")

    async def settled() -> bool:
        return bool((await bus.consumer_info("TOKENS", "analyze"))["ack_floor"]["stream_seq"] == 2)

    await testing.eventually(settled, "A analysed without a model")
    shelf.put("m", a_model(2.0))
    await testing.eventually(lambda: '"event":"model_in_use"' in analyze.text(), "the model in use")
    await _coin(bus, "B")

    async def decided() -> bool:
        return bool(await _predictions(bus))

    await testing.eventually(decided, "a decision by the model")
    [decision] = await _predictions(bus)
    assert (decision.mint, decision.score, decision.side) == ("B", 88, Side.BUY)  # 1 / (1 + e^-2), after A had none

    shelf.put("bad", b"{")
    await testing.eventually(lambda: '"event":"model_refused"' in analyze.text(), "the bad file named")
    stats = msgspec.json.decode(await bus.request("analyze.models.status", b""), type=Stats)
    assert (stats.in_use, len(stats.models), stats.refused) == (f"m{SUFFIX}", 1, 1)
    answer = json.loads(await bus.request("analyze.models.optimize", b""))
    assert answer["freed_bytes"] == 0
    assert answer["stats"]["in_use"] == f"m{SUFFIX}"


_decision: Decoder[Decision] = Decoder(Decision)


async def _predictions(bus: Bus) -> list[Decision]:
    stored = [_decision(message.data) for message in await read(bus, "DECISIONS") if about_token(message.subject)]
    return [decision for decision in stored if decision.strategy is Origin.AI_PREDICTIONS]


async def _coin(bus: Bus, mint: str) -> None:
    """A creation, and a trade half a minute later."""
    at_ns = telemetry.now_ns()
    first = curve.quote_buy_sol(curve.FRESH, SECOND_NS)
    swap = curve.quote_buy_sol(first.after, SECOND_NS)

    def market(state: curve.Curve, seen_at_ns: int) -> Market:
        return Market(
            virtual_lamports=state.virtual_lamports, virtual_tokens=state.virtual_tokens, seen_at_ns=seen_at_ns
        )

    created = TokenCreated(
        id=f"create-{mint}", mint=mint, signature="s", creator="dev", pool="pump", name=mint, symbol=mint, uri="x",
        dev_buy_tokens=first.tokens, dev_buy_lamports=first.curve_lamports, market=market(first.after, at_ns),
        quote=Quote.SOL, mayhem=False, seen_at_ns=at_ns,
    )  # fmt: skip
    later_ns = at_ns + 31 * SECOND_NS
    traded = TokenTraded(
        id=f"trade-{mint}", mint=mint, signature="s", side=Side.BUY, trader="t", pool="pump",
        lamports=swap.curve_lamports, tokens=swap.tokens, trader_tokens_after=None,
        market=market(swap.after, later_ns), pool_lamports=None, pool_tokens=None, seen_at_ns=later_ns,
    )  # fmt: skip
    for event in (created, traded):
        await bus.publish(token_subject(event), encode(event), message_id=event.id)
