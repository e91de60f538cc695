"""How many frames a second a replay takes, and how much memory over a long one: `python bench replay`.

Speed: a generated market's frames as recorded lines, with 1, 200 and 10,000 demo users, three runs each; the median and
the spread. A frame is parsed, analysed, and acted on by every user that it concerns; lines for decisions and fills are
not written (`--quiet`). Memory: a million frames with 200 users, generated as they are used; the process's resident
memory every 100,000. Some five minutes on two busy cores; `python bench replay speed` or `memory` does one of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from harness.show import heading, machine
from ingest.market import Market
from ingest.recording import Recorded, format_line, parse_line
from observer.replay.rerun import Replay
from portal.demo import demo_users

SECOND_NS = 1_000_000_000
START_NS = 1_790_000_000 * SECOND_NS
STEP_NS = 60 * SECOND_NS
RUNS = 3
# Fewer frames where a frame costs more: each run takes seconds, and the market is in its stride after two minutes.
CASES = ((1, 60_000), (200, 60_000), (10_000, 12_000))
MEMORY_FRAMES, MEMORY_USERS, MEMORY_STEP = 1_000_000, 200, 100_000
# Coins live for an hour, and prices of 20,000 are kept: memory has settled long before half of the frames.
GROWTH_PERCENT_MAX = 10


def frames(seed: int) -> Iterator[Recorded]:
    market, until_ns = Market(seed), 0
    while True:
        until_ns += STEP_NS
        for frame in market.until(until_ns):
            yield Recorded(seen_at_ns=START_NS + frame.at_ns, raw=frame.text)


def recorded_lines(count: int) -> list[bytes]:
    source = frames(seed=1)
    return [format_line(each.raw, each.seen_at_ns) for each, _ in zip(source, range(count), strict=False)]


def timed(lines: list[bytes], users: int) -> tuple[float, Replay]:
    replay = Replay(demo_users(users), tells=False)
    started_s = time.perf_counter()
    for line in lines:
        for _ in replay.frame(parse_line(line)):
            pass
    return len(lines) / (time.perf_counter() - started_s), replay


def speed() -> None:
    lines = recorded_lines(max(count for _, count in CASES))
    print("users   frames  signals   fills  frames/s (median of 3; lowest to highest)")
    for users, count in CASES:
        speeds = []
        for _ in range(RUNS):
            per_second, replay = timed(lines[:count], users)
            speeds.append(per_second)
        total = replay.finish().total
        fills = total.entries + sum(total.exits.values())
        print(
            f"{users:>6,} {count:>7,} {replay.signals:>8,} {fills:>7,}  {statistics.median(speeds):>8,.0f}"
            f"  ({min(speeds):,.0f} to {max(speeds):,.0f})",
            flush=True,
        )


def memory() -> bool:
    """Whether the second half needed hardly more than the first."""
    replay, seen = Replay(demo_users(MEMORY_USERS), tells=False), []
    started_s = time.perf_counter()
    print("frames      resident MB")
    for number, recorded in enumerate(frames(seed=2), 1):
        for _ in replay.frame(recorded):
            pass
        if number % MEMORY_STEP == 0:
            seen.append(resident_mb())
            print(f"{number:>9,}  {seen[-1]:>10,}", flush=True)
        if number == MEMORY_FRAMES:
            break
    hours = frames_hours(replay)
    half, end = max(seen[: len(seen) // 2]), max(seen)
    print(f"{MEMORY_FRAMES:,} frames, {hours:.1f} h of the market, in {time.perf_counter() - started_s:.0f} s")
    print(f"highest in the first half {half:,} MB, in all {end:,} MB")
    return end * 100 <= half * (100 + GROWTH_PERCENT_MAX)


def frames_hours(replay: Replay) -> float:
    report = replay.finish()
    return ((report.to_at_ns or 0) - (report.from_at_ns or 0)) / 3600 / SECOND_NS


def resident_mb() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench replay", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("all", "speed", "memory"), default="all")
    what = parser.parse_args().what
    heading(Console(), machine())
    steady = what == "speed" or memory()  # first: memory that other runs have left behind would hide a growth
    if what in ("all", "speed"):
        speed()
    if not steady:
        sys.exit(f"memory grew by more than {GROWTH_PERCENT_MAX} % in the second half")


if __name__ == "__main__":
    main()
