"""`mintline train`: an edge that is there is found, one that is not is not, and nothing of the future is looked at.

scikit-learn warns of its own deprecations now and then; those are not ours to fail on, so only errors count here.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from analyze.features import FEATURE_NAMES
from analyze.model import Model, Report, decode_model, encode_model
from analyze.models import SUFFIX
from analyze.rows import (
    GAIN_TIMES,
    LABELS,
    OUTCOME_NS,
    Collecting,
    Row,
    TooManyRows,
    outcome,
    positives,
    split,
)
from analyze.strategies.predictions import DECISION_AGE_NS
from analyze.train import REPORT_SUFFIX, TrainError, collect
from analyze.windows import SECOND_NS
from ingest import market_frames as frames
from ingest.recording import format_line
from ingest.venues.pumpportal import Notice, VenueError, parse
from schemas import amm, curve
from schemas.events import TokenCreated, TokenEvent, TokenTraded

fit = pytest.importorskip("analyze.fit", reason="scikit-learn is not installed: requirements/train.txt")

START = 1_790_000_000 * SECOND_NS
SOL = 1_000_000_000
COINS = 1_200
EVERY_S = 20


class Frame(NamedTuple):
    at_ns: int
    text: str


class Generator:
    """A seeded market of short lives. Every creator launches three coins.

    edge: whether what happens in the first half minute tells what comes later. With it, the crowds of every fifth
    creator are larger and four in five of its coins double; without it, the crowds are the same, and as many coins
    double, whoever made them.
    """

    def __init__(self, seed: int, *, edge: bool, coins: int = COINS, migrate: bool = False) -> None:
        self._rng = random.Random(seed)
        self._edge = edge
        self._coins = coins
        self._migrate = migrate
        self._frames: list[Frame] = []

    def frames(self) -> list[Frame]:
        rng, creator, good = self._rng, "", False
        for n in range(self._coins):
            if n % 3 == 0:
                creator, good = frames.pubkey(rng), rng.random() < 0.2
            self._coin(START + n * EVERY_S * SECOND_NS, creator, good)
        # The recording goes on for as long as the last outcome takes.
        self._coin(START + self._coins * EVERY_S * SECOND_NS + 2 * OUTCOME_NS, frames.pubkey(rng), False)
        return sorted(self._frames)

    def _coin(self, at_ns: int, creator: str, good: bool) -> None:
        rng = self._rng
        good = good if self._edge else rng.random() < 0.2
        doubles = rng.random() < (0.8 if good else 0.03)
        first = curve.quote_buy_sol(curve.FRESH, rng.randrange(SOL // 10, SOL))
        mint, key = frames.pubkey(rng, "pump"), frames.pubkey(rng)
        self._say(
            at_ns,
            frames.create(
                rng, mint, creator, key, first.tokens, first.curve_lamports, first.after, frames.text(rng), False,
                frames.signature(rng),
            ),
        )  # fmt: skip
        crowd = rng.randrange(5, 12) if good and self._edge else rng.randrange(2, 9)
        state = first.after
        for n in range(crowd):
            state = self._buy(
                at_ns + (n + 1) * 28 * SECOND_NS // crowd, mint, key, state, rng.randrange(10**7, 3 * 10**8)
            )
        state = self._buy(at_ns + 31 * SECOND_NS, mint, key, state, SOL // 10)  # the decision point
        later_ns = at_ns + rng.randrange(40, 1_700) * SECOND_NS
        if doubles:
            state = self._buy(later_ns, mint, key, state, 25 * SOL)
            if self._migrate:
                self._say(later_ns + SECOND_NS, frames.migrate(rng, mint))
        else:
            self._buy(later_ns, mint, key, state, SOL // 100)

    def _buy(self, at_ns: int, mint: str, key: str, state: curve.Curve, paid: int) -> curve.Curve:
        rng, swap = self._rng, curve.quote_buy_sol(state, paid)
        trader = frames.pubkey(rng)
        text = frames.trade(
            rng, mint, trader, True, swap.tokens, swap.curve_lamports, swap.tokens, key, swap.after,
            frames.signature(rng),
        )  # fmt: skip
        self._say(at_ns, text)
        return swap.after

    def _say(self, at_ns: int, text: str) -> None:
        self._frames.append(Frame(at_ns, text))


def events(made: list[Frame]) -> Iterator[TokenEvent]:
    for frame in made:
        event = parse(frame.text, frame.at_ns)
        assert not isinstance(event, Notice | VenueError)
        yield event


@cache
def rows_of(edge: bool, migrate: bool = False) -> list[Row]:
    collecting = Collecting()
    for event in events(Generator(8, edge=edge, migrate=migrate).frames()):
        collecting.feed(event)
    return collecting.rows


@cache
def trained(edge: bool) -> tuple[Model | None, Report]:
    result: tuple[Model | None, Report] = fit.fit(
        rows_of(edge), "doubled", recordings=["made.jsonl"], trained_at="2026-11-20T00:00:00Z"
    )
    return result


# What is learnt


def test_a_known_edge_is_found_on_creators_that_were_held_out() -> None:
    model, report = trained(edge=True)
    assert model is not None
    assert report.edge
    assert report.pr_auc > 2 * report.base_rate > 0
    assert report.pr_auc > report.pr_auc_by_chance > report.base_rate
    assert report.roc_auc > 0.75
    assert report.held_out.positives >= fit.HELD_OUT_POSITIVES_MIN
    # What it says is what comes: in the bins with rows enough to tell, within a quarter.
    assert all(abs(one.predicted - one.observed) < 0.25 for one in report.calibration if one.rows >= 30)
    assert sum(one.rows for one in report.calibration) == report.held_out.rows
    assert [reach.score_from for reach in report.reach] == [50, 65, 80]
    assert report.reach[0].positives > report.reach[0].rows / 2


def test_where_there_is_no_edge_none_is_reported_and_no_model_comes() -> None:
    model, report = trained(edge=False)
    assert model is None
    assert not report.edge
    assert report.base_rate > 0.1  # as many coins double as in the other market


def test_the_same_rows_give_the_same_model_to_the_byte() -> None:
    model, report = trained(edge=True)
    again, _ = fit.fit(rows_of(True), "doubled", recordings=report.recordings, trained_at=report.trained_at)
    assert model is not None
    assert encode_model(again) == encode_model(model)


@pytest.mark.parametrize("kind", ["logistic", "boosting"])
def test_a_model_says_what_scikit_learn_says(kind: str) -> None:
    """Also after it was written and read; the trees are read through private names, so this is a contract test."""
    training, held_out = split(rows_of(True))
    x, y = fit.table(training, "doubled")
    fitted = fit.fitted_by(kind, x, y, fit.folds_of(x, y, training))
    assert 0.3 < fitted.out_of_fold <= 1
    _, report = trained(edge=True)
    model = decode_model(encode_model(fit.as_model(fitted, report)), FEATURE_NAMES)
    raw = fitted.estimator.decision_function(fit.table(held_out, "doubled")[0])
    expected = fitted.calibrator.predict_proba(raw.reshape(-1, 1))[:, 1]
    said = [model.probability([int(value) for value in row.values]) for row in held_out]
    assert max(abs(a - b) for a, b in zip(said, expected, strict=True)) < 1e-9
    assert max(said) - min(said) > 0.3  # it tells coins apart at all


def test_too_few_positives_are_refused_with_a_sentence() -> None:
    few = [row for row in rows_of(True) if not row.doubled] + [row for row in rows_of(True) if row.doubled][:20]
    with pytest.raises(fit.TooFewPositives, match="too few coins that doubled"):
        fit.fit(sorted(few, key=lambda row: row.at_ns), "doubled", recordings=[], trained_at="")
    with pytest.raises(fit.TooFewPositives):
        fit.fit([], "doubled", recordings=[], trained_at="")


# Rows


def test_a_row_is_what_was_known_at_the_first_trade_after_half_a_minute() -> None:
    made = Generator(3, edge=True, coins=4).frames()
    rows = _rows(made)
    assert len(rows) == 4
    for row in rows:
        features = dict(zip(FEATURE_NAMES, row.values, strict=True))
        assert features["age_ms"] == 31_000
        assert features["age_ms"] * 1_000_000 >= DECISION_AGE_NS
        assert features["unique_buyers"] == features["buys"] >= 3


def test_nothing_that_comes_later_changes_a_row() -> None:
    """No look-ahead: the stream cut right after the decision point gives the same features."""
    made = Generator(3, edge=True, coins=1).frames()
    [row] = _rows(made)
    end = Frame(made[-1].at_ns, made[-1].text)
    [cut] = _rows([frame for frame in made if frame.at_ns <= row.at_ns] + [end])
    assert cut.values == row.values
    assert cut.at_ns == row.at_ns


def test_a_coin_counts_only_when_its_outcome_had_time_to_happen() -> None:
    made = Generator(3, edge=True, coins=1).frames()
    [row] = _rows(made)
    early = [frame for frame in made if frame.at_ns <= row.at_ns]
    for after_ns, complete in ((OUTCOME_NS, False), (OUTCOME_NS + 1, True)):
        end = Frame(row.at_ns + after_ns, made[-1].text)
        assert len(_rows([*early, end])) == complete


@pytest.mark.parametrize(
    ("times", "after_s", "doubled"),
    [
        (2.01, 1, True),
        (2.01, 1_799, True),
        (2.01, 1_801, False),  # later than the half hour
        (1.99, 60, False),
    ],
)
def test_doubled_is_twice_the_price_of_the_decision_point_within_half_an_hour(
    times: float, after_s: int, doubled: bool
) -> None:
    [row] = _rows(_one_coin(times, after_s))
    assert GAIN_TIMES == 2
    assert row.doubled is doubled
    assert not row.migrated


def test_a_migration_is_one_and_its_price_counts() -> None:
    [row] = _rows(_one_coin(1.0, 60, migrate=True))
    assert (row.doubled, row.migrated) == (True, True)  # a complete curve is worth fourteen times a fresh one
    assert {label: outcome(row, label) for label in LABELS} == {"doubled": True, "migrated": True}


def test_migrated_can_be_learnt_as_well() -> None:
    rows = rows_of(True, migrate=True)
    assert positives(rows, "migrated") == positives(rows, "doubled") > 100
    model, report = fit.fit(rows, "migrated", recordings=[], trained_at="", kinds=("logistic",))
    assert model is not None
    assert (model.label, report.kind) == ("migrated", "logistic")


def test_rows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analyze.rows.ROWS_MAX", 5)
    with pytest.raises(TooManyRows, match="more than 5 rows"):
        _rows(Generator(3, edge=True, coins=6).frames())


def test_the_split_is_by_time_and_by_creator() -> None:
    training, held_out = split(rows_of(True))
    assert len(training) > 600
    assert len(held_out) > 200
    assert not {row.creator for row in training} & {row.creator for row in held_out}
    # No outcome of a training row lies behind the first held-out row.
    assert max(row.at_ns for row in training) + OUTCOME_NS <= min(row.at_ns for row in held_out)


# The command


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("train") / "made.jsonl"
    path.write_bytes(b"".join(format_line(frame.text, frame.at_ns) for frame in Generator(8, edge=True).frames()))
    return path


def mintline(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = "from runtime.commands import main; main()"
    return subprocess.run(
        [sys.executable, "-c", command, "train", *arguments], capture_output=True, text=True, check=False
    )


def test_the_command_writes_a_model_that_analyze_can_use_and_its_report(recording: Path, tmp_path: Path) -> None:
    done = mintline(str(recording), "--out", str(tmp_path / "models"), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = msgspec.json.decode(done.stdout, type=Report)
    [model_file] = (tmp_path / "models").glob(f"*{SUFFIX}")
    [report_file] = (tmp_path / "models").glob(f"*{REPORT_SUFFIX}")
    model = decode_model(model_file.read_bytes(), FEATURE_NAMES)
    assert model.report == report == msgspec.json.decode(report_file.read_bytes(), type=Report)
    assert report.recordings == ("made.jsonl",)
    assert not list((tmp_path / "models").glob("*.part"))


def test_two_recordings_may_come_in_any_order(recording: Path, tmp_path: Path) -> None:
    lines = recording.read_bytes().splitlines(keepends=True)
    halves = [tmp_path / "b.jsonl", tmp_path / "a.jsonl"]
    halves[0].write_bytes(b"".join(lines[: len(lines) // 2]))
    halves[1].write_bytes(b"".join(lines[len(lines) // 2 :]))
    together = [(row.mint, row.values, row.doubled) for row in collect([recording])]
    assert [(row.mint, row.values, row.doubled) for row in collect(halves)] == together
    assert [(row.mint, row.values, row.doubled) for row in collect(halves[::-1])] == together


def test_without_an_edge_the_command_fails_and_leaves_its_report(tmp_path: Path) -> None:
    path = tmp_path / "made.jsonl"
    path.write_bytes(b"".join(format_line(frame.text, frame.at_ns) for frame in Generator(8, edge=False).frames()))
    done = mintline(str(path), "--out", str(tmp_path / "models"))
    assert done.returncode == 1
    assert done.stderr.startswith("mintline train: no edge was found: PR-AUC ")
    assert done.stderr.count("\n") == 1
    assert not list((tmp_path / "models").glob(f"*{SUFFIX}"))
    [report_file] = (tmp_path / "models").glob(f"*{REPORT_SUFFIX}")
    assert not msgspec.json.decode(report_file.read_bytes(), type=Report).edge


@pytest.mark.parametrize(
    ("content", "arguments", "status", "sentence"),
    [
        ("", [], 1, "too few coins that doubled"),
        ('{"t_wall": 1, "raw": "{}"}\nnot a line\n', [], 1, "made.jsonl, line 2: "),
        (None, [], 2, "there is no file"),
        ("", ["--label", "mooned"], 2, None),  # the parser of arguments says it in its own words
    ],
)
def test_what_cannot_be_trained_on_is_refused(
    tmp_path: Path, content: str | None, arguments: list[str], status: int, sentence: str | None
) -> None:
    path = tmp_path / "made.jsonl"
    if content is not None:
        path.write_text(content)
    done = mintline(str(path), "--out", str(tmp_path / "models"), *arguments)
    assert done.returncode == status
    assert not (tmp_path / "models").exists()
    if sentence is not None:
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1


def test_no_service_imports_what_only_training_needs() -> None:
    for module in ("analyze.__main__", "analyze.train", "runtime.commands"):
        code = f"import {module}, sys; sys.exit('sklearn' in sys.modules or 'numpy' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, module
    required = Path(__file__).resolve().parent.parent / "requirements"
    assert "scikit-learn" not in (required / "run.txt").read_text()
    assert "scikit-learn" in (required / "train.txt").read_text()


def _rows(made: list[Frame]) -> list[Row]:
    collecting = Collecting()
    for event in events(made):
        collecting.feed(event)
    return collecting.rows


def _one_coin(times: float, after_s: int, migrate: bool = False) -> list[Frame]:
    """A coin whose market cap is so many times that of its decision point, so many seconds after it."""
    made = Generator(3, edge=True, coins=1).frames()
    *early, point = [frame for frame in made[:-1] if frame.at_ns <= START + 31 * SECOND_NS]
    traded = parse(point.text, point.at_ns)
    assert isinstance(traded, TokenTraded)
    assert traded.market is not None
    created = parse(made[0].text, made[0].at_ns)
    assert isinstance(created, TokenCreated)
    state, rng = curve.from_market(traded.market), random.Random(1)
    target = int(curve.market_cap_lamports(state) * times)
    while curve.market_cap_lamports(state) < target:
        state = curve.quote_buy_sol(state, SOL // 100).after
    at_ns = point.at_ns + after_s * SECOND_NS
    key = frames.pubkey(rng)
    later = frames.trade(rng, traded.mint, key, True, 1, 1, 1, key, state, frames.signature(rng))
    frames_later = [Frame(at_ns, later)]
    if migrate:
        frames_later = [Frame(at_ns, frames.migrate(rng, traded.mint))]
    end = frames.create(
        rng, frames.pubkey(rng), key, key, 0, 0, curve.FRESH, frames.text(rng), False, frames.signature(rng)
    )
    return [*early, point, *frames_later, Frame(START + 4 * OUTCOME_NS, end)]


def test_a_pools_trade_tells_a_price_too() -> None:
    made = _one_coin(1.0, 60)
    traded = parse(made[-2].text, made[-2].at_ns)
    assert isinstance(traded, TokenTraded)
    rng = random.Random(2)
    swap = amm.quote_buy_sol(amm.AT_MIGRATION, SOL)
    text = frames.trade_migrated(
        traded.mint, frames.pubkey(rng), True, swap.tokens, swap.curve_lamports, 1, None, frames.signature(rng)
    )
    [row] = _rows([*made[:-2], Frame(made[-2].at_ns, text), made[-1]])
    assert row.doubled


def test_a_broken_line_names_its_file_and_number(tmp_path: Path) -> None:
    path = tmp_path / "torn.jsonl"
    path.write_text('{"t_wall": 1.5, "raw": "{}"}\n{"t_wall"\n')
    with pytest.raises(TrainError, match=r"torn\.jsonl, line 2"):
        collect([path])
