"""`mintline train`: an edge that is there is found, one that is not is not, and nothing of the future is looked at.

scikit-learn warns of its own deprecations now and then; those are not ours to fail on, so only errors count here.
"""

import subprocess
import sys
from functools import cache
from pathlib import Path

import msgspec
import pytest

from analyze.features import FEATURE_NAMES
from analyze.model import Model, Report, decode_model, encode_model
from analyze.models import SUFFIX
from analyze.rows import (
    positives,
    split,
)
from analyze.testing_train import Generator, rows_of
from analyze.train import REPORT_SUFFIX, TrainError, collect
from ingest.recording import format_line

fit = pytest.importorskip("analyze.fit", reason="scikit-learn is not installed: requirements/train.txt")


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


def test_migrated_can_be_learnt_as_well() -> None:
    rows = rows_of(True, migrate=True)
    assert positives(rows, "migrated") == positives(rows, "doubled") > 100
    model, report = fit.fit(rows, "migrated", recordings=[], trained_at="", kinds=("logistic",))
    assert model is not None
    assert (model.label, report.kind) == ("migrated", "logistic")


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


def test_a_broken_line_names_its_file_and_number(tmp_path: Path) -> None:
    path = tmp_path / "torn.jsonl"
    path.write_text('{"t_wall": 1.5, "raw": "{}"}\n{"t_wall"\n')
    with pytest.raises(TrainError, match=r"torn\.jsonl, line 2"):
        collect([path])
