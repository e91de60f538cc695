"""`mintline replay FILE`: recorded frames through the live line's analysis, matching and bots, without a broker.

Without --users there is one user for each strategy and risk level (`sniper-low`), and one for each strategy that takes
every token (`sniper-all`, min_score 0), the other fields being the defaults. docs/backtest.md tells how to read what
comes out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from analyze.features import FEATURE_NAMES, Predictor
from analyze.model import MODEL_FILE_BYTES_MAX, MalformedModel, decode_model
from bots.paper import LANDING_NS_DEFAULT
from ingest.recording import LINE_BYTES_MAX, MalformedLine, Recorded, parse_line
from observer.replay import playing, report_page, report_text
from observer.replay import sweep as sweeping
from observer.replay.cohort import default_users
from observer.replay.rerun import Replay
from runtime.bots_file import BotsFileError, read_bots
from runtime.standalone import fail
from schemas.codec import encode
from schemas.config import BotConfig

LANDING_MS_MAX: Final = 60_000


class ReplayError(ValueError):
    """A recording that cannot be taken; the text names the file, the line and what is wrong."""


def read_recording(path: Path, *, on_read: Callable[[int], None] | None = None) -> Iterator[Recorded]:
    """Its frames in order. on_read: told the bytes of each line. Raises ReplayError, OSError."""
    with path.open("rb") as recording:
        number = 0
        while line := recording.readline(LINE_BYTES_MAX + 1):
            number += 1
            if on_read is not None:
                on_read(len(line))
            if not line.strip():
                continue
            try:
                yield parse_line(line)
            except MalformedLine as error:
                raise ReplayError(f"{path}, line {number}: {error}") from error


def cli(
    file: Path,
    *,
    users: Path | None = None,
    speed: float = 0,
    json: bool = False,
    quiet: bool = False,
    html: Path | None = None,
    sweep: Path | None = None,
    model: Path | None = None,
    landing_ms: int = LANDING_NS_DEFAULT // 1_000_000,
) -> None:
    """Recorded frames through the same analysis and the same bots, without a broker.

    Prints decisions and fills, a JSON line each, then a report on stderr.

    Parameters
    ----------
    file
        A recording, a JSON line each: {"t_wall": unix_seconds, "raw": "..."}.
    users
        Users from a file, a JSON line each: {"user": "1", "config": {...}}. Without it, one for each strategy and risk
        level, and one for each strategy that takes every token.
    speed
        How many times faster than it was recorded; 0 as fast as possible.
    json
        Print the report as the last JSON line instead.
    quiet
        No lines for decisions and fills: the report alone, on stdout.
    html
        Write the report as one page into this file, too: equity, profit by strategy, exits, trades.
    sweep
        Compare configurations instead of users: a JSON file {"base": {...}, "grid": {"field": [values], ...}}.
    model
        A model file of `mintline train` for AI_PREDICTIONS, which decides nothing without one.
    landing_ms
        How long a paper order takes from its decision to its effect.
    """
    _check_arguments({"FILE": file, "--users": users, "--sweep": sweep, "--model": model}, speed, landing_ms)
    if sweep is not None and (users is not None or html is not None):
        fail("replay: --sweep: makes its own users and no page; leave --users and --html out", 2)
    try:
        run = _Run(file, speed, json, quiet or sweep is not None, landing_ms * 1_000_000, _predictor(model))
        if sweep is not None:
            _compare(run, sweeping.parse_sweep(sweep.read_bytes()))
        else:
            _report(run, default_users() if users is None else read_bots(users), html)
        sys.stdout.flush()
    except BrokenPipeError:
        playing.hush_stdout()  # who reads (`head`) has had enough
    except BotsFileError as error:
        fail(f"replay: --users: {error}", 2)
    except sweeping.SweepError as error:
        fail(f"replay: --sweep: {sweep}: {error}", 2)
    except (ReplayError, OSError) as error:
        fail(f"replay: {error}", 1)


class _Run(NamedTuple):
    file: Path
    speed: float
    as_json: bool
    quiet: bool
    landing_ns: int
    predictor: Predictor | None


def _predictor(path: Path | None) -> Predictor | None:
    if path is None:
        return None
    if path.stat().st_size > MODEL_FILE_BYTES_MAX:
        fail(f"replay: --model: {path} has more than {MODEL_FILE_BYTES_MAX} bytes", 2)
    try:
        return decode_model(path.read_bytes(), FEATURE_NAMES)
    except MalformedModel as error:
        fail(f"replay: --model: {path}: {error}", 2)


def _check_arguments(files: Mapping[str, Path | None], speed: float, landing_ms: int) -> None:
    if speed < 0:
        fail("replay: --speed: 0 or more", 2)
    if not 0 <= landing_ms <= LANDING_MS_MAX:
        fail(f"replay: --landing-ms: from 0 to {LANDING_MS_MAX}", 2)
    for name, path in files.items():
        if path is not None and not path.is_file():
            fail(f"replay: {name}: there is no file {path}", 2)


def _report(run: _Run, users: Iterable[tuple[str, BotConfig]], html: Path | None) -> None:
    replay = Replay(users, predictor=run.predictor, landing_ns=run.landing_ns, tells=not run.quiet)
    _play(run, replay)
    report = replay.finish()
    if html is not None:
        html.write_text(report_page.render(report, run.file.name), encoding="utf-8")
    if run.as_json:
        sys.stdout.buffer.write(encode(report) + b"\n")
        return
    out = sys.stdout if run.quiet else sys.stderr
    out.write("\n".join(report_text.lines(report)) + "\n")


def _compare(run: _Run, combinations: Sequence[sweeping.Combination]) -> None:
    users = ((each.user, each.config) for each in combinations)
    replay = Replay(
        users, predictor=run.predictor, landing_ns=run.landing_ns, tells=False, points_max=0, trades_max=0, by_user=True
    )
    _play(run, replay)
    result = sweeping.rank(combinations, replay.finish())
    if run.as_json:
        sys.stdout.buffer.write(encode(result) + b"\n")
        return
    sys.stdout.write("\n".join(sweeping.lines(result)) + "\n")


def _play(run: _Run, replay: Replay) -> None:
    """All frames, at the pace asked for; the lines go to stdout. Raises ReplayError, OSError."""
    write, wait = sys.stdout.buffer.write, playing.pace(run.speed)
    with playing.progress(run.file, run.quiet) as on_read:
        for recorded in read_recording(run.file, on_read=on_read):
            wait(recorded.seen_at_ns)
            for line in replay.frame(recorded):
                write(line + b"\n")
            if run.speed:
                sys.stdout.flush()
        for line in replay.end():
            write(line + b"\n")
