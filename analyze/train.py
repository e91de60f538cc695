"""`mintline train`: recordings -> training rows -> a model for AI_PREDICTIONS, with its report.

Exit status 0: an edge was found; DIR holds the model and its report. 1: no edge was found (DIR holds the report, and no
model), too few coins to learn from, or a file that cannot be read. 2: bad arguments.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import msgspec

from analyze.model import Model, Report, encode_model
from analyze.models import SUFFIX
from analyze.rows import Collecting, Row, TooManyRows
from ingest.recording import LINE_BYTES_MAX, MalformedLine, parse_line
from ingest.venues.pumpportal import MalformedFrame, Notice, VenueError, parse
from runtime.standalone import fail
from schemas.events import TokenEvent

PROGRESS_AFTER_S: Final = 2.0
PROGRESS_EVERY_EVENTS: Final = 1_000
REPORT_SUFFIX: Final = ".report.json"


class TrainError(ValueError):
    """A recording that cannot be taken; the text names the file, the line and what is wrong."""


def cli(
    recordings: list[Path], *, out: Path, label: Literal["doubled", "migrated"] = "doubled", json: bool = False
) -> None:
    """A model for AI_PREDICTIONS from recorded streams, with its report.

    Parameters
    ----------
    recordings
        Files of `mintline record`, in any order; they must hold trades.
    out
        Where the model and its report go, e.g. data/models, which analyze watches.
    label
        What to predict: doubled (the price twice that of the decision point within 30 minutes) or migrated.
    json
        Print the report as JSON.
    """
    for path in recordings:
        if not path.is_file():
            fail(f"train: RECORDING: there is no file {path}", 2)
    if out.exists() and not out.is_dir():
        fail(f"train: --out: {out} is no directory", 2)
    try:
        model, report = _train(recordings, label)
        stem = _write(out, model, report)
    except (TrainError, TooManyRows, OSError) as error:
        fail(f"train: {error}", 1)
    if json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        sys.stdout.write("\n".join(lines(report, stem)) + "\n")
    if model is None:
        sys.stdout.flush()
        fail(
            f"train: no edge was found: PR-AUC {report.pr_auc:.3f} on held-out creators, at a base rate of "
            f"{report.base_rate:.3f} and with chance reaching {report.pr_auc_by_chance:.3f}; no model was written",
            1,
        )


def collect(recordings: Sequence[Path], progress: Callable[[str], None] = lambda text: None) -> list[Row]:
    """Rows of recordings, oldest first. Raises TrainError, TooManyRows, OSError."""
    collecting = Collecting()
    for number, event in enumerate(_events(sorted(recordings, key=_began_ns))):
        collecting.feed(event)
        if number % PROGRESS_EVERY_EVENTS == 0:
            progress(f"{number:,} events, {len(collecting.rows):,} coins")
    return collecting.rows


def lines(report: Report, stem: Path) -> Iterator[str]:
    """The report for people."""
    training, held = report.training, report.held_out
    yield f"{report.label}, {report.kind}, trained {report.trained_at}"
    yield f"training   {training.rows} coins of {training.creators} creators, {training.positives} positive"
    yield f"held out   {held.rows} coins of {held.creators} other creators, later; {held.positives} positive"
    yield f"base rate  {report.base_rate:.4f}"
    yield f"PR-AUC     {report.pr_auc:.4f}   (chance reaches {report.pr_auc_by_chance:.4f} once in a hundred)"
    yield f"ROC-AUC    {report.roc_auc:.4f}"
    compared = ", ".join(f"{kind} {score:.4f}" for kind, score in report.cross_validated.items())
    yield f"PR-AUC on training creators, out of fold: {compared}"
    for one in report.calibration:
        yield f"said {one.from_percent:>2} % up: {one.rows} coins, {one.predicted:.3f} said, {one.observed:.3f} came"
    for reach in report.reach:
        yield f"score {reach.score_from} and up: {reach.rows} coins, {reach.positives} positive"
    yield f"written    {stem}{SUFFIX if report.edge else REPORT_SUFFIX}"


def _train(recordings: Sequence[Path], label: str) -> tuple[Model | None, Report]:
    try:
        from analyze import fit
    except ImportError as error:
        fail(f"train: {error.name} is not installed; `./dev train` brings it (requirements/train.txt)", 1)
    trained_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    names, progress = [path.name for path in recordings], _progress()
    try:
        rows = collect(recordings, progress)
        progress(f"training on {len(rows):,} coins")
        return fit.fit(rows, label, recordings=names, trained_at=trained_at)
    except fit.TooFewPositives as error:
        raise TrainError(str(error)) from error
    finally:
        progress("")


def _write(out: Path, model: Model | None, report: Report) -> Path:
    """The files' common path, without the ending. A reader sees a model whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    moment = "".join(c for c in report.trained_at if c.isalnum())
    stem = out / f"{report.label}-{moment}"
    _replace(Path(f"{stem}{REPORT_SUFFIX}"), msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    if model is not None:
        _replace(Path(f"{stem}{SUFFIX}"), encode_model(model))
    return stem


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _began_ns(path: Path) -> int:
    return next((event.seen_at_ns for event in _events([path])), 0)


def _events(recordings: Sequence[Path]) -> Iterator[TokenEvent]:
    """What the frames say; malformed ones and notices are passed over. Raises TrainError."""
    for path in recordings:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX + 1), b""), 1):
                if not line.strip():
                    continue
                try:
                    recorded = parse_line(line)
                    event = parse(recorded.raw, recorded.seen_at_ns)
                except MalformedLine as error:
                    raise TrainError(f"{path}, line {number}: {error}") from error
                except MalformedFrame:
                    continue
                if not isinstance(event, Notice | VenueError):
                    yield event


def _progress() -> Callable[[str], None]:
    """A line on the terminal for what takes longer than a moment; "" clears it."""
    started_s = time.monotonic()
    on_terminal = sys.stderr.isatty()

    def show(text: str) -> None:
        if on_terminal and time.monotonic() - started_s >= PROGRESS_AFTER_S:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    return show
