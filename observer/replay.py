"""`mintline replay FILE`: recorded frames through the same analysis, matching and bots, without a broker.

    frame -> ingest's parser -> the one analysis -> users by index -> their signals -> the book of all accounts

Time is the recording's: a frame happens at its `t_wall` (never earlier than the one before), what is due between two
frames is decided at its own time, and nothing takes any. So the output is a function of the file and of the users:
decisions and fills come as one JSON line each, in order, byte for byte the same on every run.

What differs from a live run: every recorded trade is analysed, watched or not; gaps in the feed are not recorded, so
none is known; signals are acted upon at once. What is still held at the end stays open and is valued at its last price.

Without --users there is one user for each strategy and risk level (`sniper-low`), and one for each strategy that takes
every token (`sniper-all`, min_score 0), the other fields being the defaults.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from analyze.analysis import Analysis
from analyze.memory import EventIds
from bots.book import Arrived, Book, Group
from bots.paper import proceeds_lamports
from dispatch.fanout import fanout
from dispatch.preferences import Preferences
from ingest.recording import LINE_BYTES_MAX, MalformedLine, Recorded, parse_line
from ingest.venues.pumpportal import MalformedFrame, Notice, VenueError, parse
from observer.cohort import default_users
from observer.summary import Result, Summary, UserFill, count, lines
from runtime.bots_file import BotsFileError, read_bots
from runtime.standalone import fail
from schemas.codec import Decoder, encode
from schemas.config import BotConfig, BotWanted, Wanted
from schemas.events import Decision, Fill, Refusal, Side, Signal, Strategy, TokenEvent
from schemas.money import format_sol
from schemas.subjects import TOKENS

PROGRESS_AFTER_S: Final = 2.0
_SECOND_NS: Final = 1_000_000_000

_signal: Decoder[Signal] = Decoder(Signal)


class ReplayError(ValueError):
    """A recording that cannot be taken; the text names the file, the line and what is wrong."""


class Replay:
    """The whole line as one function: `frame` gives the lines that a recorded frame leads to."""

    def __init__(self, users: Iterable[tuple[str, BotConfig]]) -> None:
        self._analysis = Analysis()
        self._preferences = Preferences()
        self._book = Book()
        self._ids = EventIds(TOKENS.dedup_window_s * _SECOND_NS)
        self._now_ns = 0
        self._signals = self._lines = 0
        self._strategies: dict[str, Strategy] = {}
        self._summary = Summary(strategies={str(strategy): Result() for strategy in Strategy})
        for revision, (user, config) in enumerate(users, 1):
            wanted = BotWanted(user=user, wanted=Wanted.RUNNING, config=config, changed_at_ns=0)
            self._preferences.apply(user, wanted, revision)
            self._book.configure(user, wanted, revision)
            self._strategies[user] = config.strategy
            self._result(config.strategy).users += 1

    def frame(self, recorded: Recorded) -> Iterator[bytes]:
        """One frame, in order. Malformed ones are counted, as a live run keeps them apart."""
        try:
            parsed = parse(recorded.raw, recorded.seen_at_ns)
        except MalformedFrame:
            count(self._summary.frames, "malformed")
            return
        count(self._summary.frames, type(parsed).__name__)
        if isinstance(parsed, Notice | VenueError):
            return
        now_ns = max(self._now_ns, parsed.seen_at_ns)
        if self._ids.repeated(parsed.id, parsed.seen_at_ns, now_ns):
            self._summary.repeated += 1
            return
        yield from self._until(now_ns)
        yield from self._event(parsed, now_ns)

    def finish(self) -> Summary:
        """The totals; asked for once, at the end."""
        summary = self._summary
        for (of, outcome), times in self._analysis.counters.items():
            summary.outcomes.setdefault(of, {})[outcome] = times
        for user, strategy in self._strategies.items():
            self._add_account(self._result(strategy), user)
        for result in summary.strategies.values():
            result.profit_lamports = result.realised_lamports + result.open_value_lamports - result.open_cost_lamports
            result.profit_sol = format_sol(result.profit_lamports)
        return summary

    def _until(self, now_ns: int) -> Iterator[bytes]:
        """What falls due before the next event."""
        book = self._book
        while (due_ns := book.next_due_ns()) is not None and due_ns <= now_ns:
            self._now_ns = max(self._now_ns, due_ns)
            yield from self._settle(book.decide((), (), self._now_ns))
        self._now_ns = now_ns

    def _event(self, event: TokenEvent, now_ns: int) -> Iterator[bytes]:
        arrived: list[Arrived] = []
        for decision in self._analysis.feed(event):
            yield encode(decision)
            arrived += self._addressed(decision)
        yield from self._settle(self._book.decide((event,), arrived, now_ns))

    def _addressed(self, decision: Decision) -> Iterator[Arrived]:
        self._summary.decisions += 1
        self._result(decision.strategy).decisions += 1
        users = self._preferences.match(decision)
        for _, data in fanout(decision, users, self._preferences.revision):
            self._signals += 1
            self._summary.signals += 1
            self._result(decision.strategy).signals += 1
            yield Arrived(_signal(data), self._signals)

    def _settle(self, group: Group) -> Iterator[bytes]:
        # The book keeps holders in sets: the order of users is ours to fix.
        group.drafts.sort(key=lambda draft: draft.append.user)
        self._book.settle(group, group.drafts, self._lines + 1)
        self._lines += len(group.drafts)
        for draft in group.drafts:
            user = draft.append.user
            for entry in draft.append.entries:
                if isinstance(entry, Fill):
                    yield self._filled(user, entry)
                elif isinstance(entry, Refusal):
                    count(self._summary.refused, entry.reason)
                    count(self._result(self._strategies[user]).refused, entry.reason)

    def _filled(self, user: str, fill: Fill) -> bytes:
        strategy = self._strategies[user]
        result = self._result(strategy)
        self._summary.fills += 1
        if fill.side is Side.BUY:
            result.buys += 1
        else:
            result.sells += 1
            count(result.exits, fill.reason)
        return encode(UserFill(user=user, strategy=strategy, fill=fill))

    def _add_account(self, result: Result, user: str) -> None:
        account = self._book.account(user)
        if account is None:
            return
        result.paid_lamports += account.paid_lamports
        result.received_lamports += account.received_lamports
        result.realised_lamports += account.realised_lamports
        for mint, position in account.positions.items():
            value = proceeds_lamports(self._book.prices.get(mint), position.tokens)
            result.open_positions += 1
            result.open_unpriced += value is None
            result.open_cost_lamports += position.open_cost_lamports
            result.open_value_lamports += value or 0

    def _result(self, strategy: Strategy) -> Result:
        return self._summary.strategies[strategy]


def read_recording(path: Path) -> Iterator[Recorded]:
    """Its frames in order. Raises ReplayError, OSError."""
    with path.open("rb") as recording:
        number = 0
        while line := recording.readline(LINE_BYTES_MAX + 1):
            number += 1
            if not line.strip():
                continue
            try:
                yield parse_line(line)
            except MalformedLine as error:
                raise ReplayError(f"{path}, line {number}: {error}") from error


def cli(file: Path, *, users: Path | None = None, speed: float = 0, json: bool = False) -> None:
    """Recorded frames through the same analysis and the same bots, without a broker.

    Prints decisions and fills, a JSON line each, then a summary on stderr.

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
        Print the summary as the last JSON line instead.
    """
    if speed < 0:
        fail("replay: --speed: 0 or more", 2)
    for name, path in (("FILE", file), ("--users", users)):
        if path is not None and not path.is_file():
            fail(f"replay: {name}: there is no file {path}", 2)
    try:
        replay = Replay(default_users() if users is None else read_bots(users))
    except BotsFileError as error:
        fail(f"replay: --users: {error}", 2)
    try:
        summary = _run(replay, read_recording(file), speed)
        sys.stdout.buffer.write(encode(summary) + b"\n" if json else b"")
        sys.stdout.flush()
    except (ReplayError, OSError) as error:
        fail(f"replay: {error}", 1)
    if not json:
        sys.stderr.write("\n".join(lines(summary)) + "\n")


def _run(replay: Replay, recording: Iterable[Recorded], speed: float) -> Summary:
    write, wait, progress = sys.stdout.buffer.write, _pace(speed), _progress()
    for number, recorded in enumerate(recording, 1):
        wait(recorded.seen_at_ns)
        for line in replay.frame(recorded):
            write(line + b"\n")
        if speed:
            sys.stdout.flush()
        progress(number)
    progress(0)
    return replay.finish()


def _pace(speed: float) -> Callable[[int], None]:
    """Waits until a frame's turn has come; only the output's pace, never its content, depends on it."""
    first: tuple[int, float] | None = None

    def wait(at_ns: int) -> None:
        nonlocal first
        if not speed:
            return
        if first is None:
            first = (at_ns, time.monotonic())
        time.sleep(max(0.0, first[1] + (at_ns - first[0]) / _SECOND_NS / speed - time.monotonic()))

    return wait


def _progress() -> Callable[[int], None]:
    """A line on the terminal for what takes longer than a moment; 0 clears it."""
    started_s = shown_s = time.monotonic()
    on_terminal = sys.stderr.isatty() and not sys.stdout.isatty()

    def progress(frames: int) -> None:
        nonlocal shown_s
        now_s = time.monotonic()
        if not on_terminal or now_s - started_s < PROGRESS_AFTER_S or (frames and now_s - shown_s < 0.2):
            return
        shown_s = now_s
        sys.stderr.write(f"\r{frames:,} frames" if frames else "\r\x1b[K")
        sys.stderr.flush()

    return progress
