"""observer/replay/: a recording gives the same decisions and fills on every run, and every signal one outcome."""

import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import pytest

from analyze.features import FEATURE_NAMES, Look
from analyze.score import Row, Scored
from bots.paper import LANDING_NS_DEFAULT
from ingest.market import Market
from ingest.recording import Recorded, format_line
from ingest.venues.pumpportal import parse
from observer.replay import playing
from observer.replay.cohort import default_users
from observer.replay.command import ReplayError, cli, read_recording
from observer.replay.rerun import Replay
from runtime.bots_file import BotsFileError, read_bots
from schemas import curve
from schemas.config import BotConfig, terms
from schemas.events import Entry, Fill, Intent, RiskLevel, Side, Strategy, TokenCreated, TokenTraded

RECORDING = Path(__file__).parents[2] / "shared" / "data" / "pumpportal_session_jouleka_2026-07-03.jsonl"
needs_recording = pytest.mark.skipif(not RECORDING.exists(), reason="the recording is not beside this checkout")

TRADES = RECORDING.with_name("trades_shaped_from_chain_2026-07-04.jsonl")
needs_trades = pytest.mark.skipif(not TRADES.exists(), reason="the recorded trades are not beside this checkout")

START_NS = 1_790_000_000_000_000_000
SECOND_NS = 1_000_000_000

USERS = """\
{"user": "quick", "config": {"strategy": "MOMENTUM", "min_score": 0, "tp_strategy": "TIME_EXIT",
 "tp_config": {"seconds": 20}, "max_open_positions": 50, "max_entries_per_hour": 500}}
{"user": "greedy", "config": {"strategy": "MOMENTUM", "risk_level": "HIGH", "tp_strategy": "FIXED",
 "tp_config": {"percent": 20}}}
{"user": "second", "config": {"strategy": "MOMENTUM", "min_score": 0, "tp_strategy": "TIME_EXIT",
 "tp_config": {"seconds": 20}, "max_open_positions": 50, "max_entries_per_hour": 500}}
{"user": "greedy-2", "config": {"strategy": "MOMENTUM", "risk_level": "HIGH", "tp_strategy": "FIXED",
 "tp_config": {"percent": 20}}}
{"user": "greedy-3", "config": {"strategy": "MOMENTUM", "risk_level": "HIGH", "tp_strategy": "FIXED",
 "tp_config": {"percent": 20}}}
{"user": "idle", "config": {"strategy": "AI_PREDICTIONS", "min_score": 0}}
""".replace(",\n ", ", ")


@pytest.fixture(scope="module")
def market_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five minutes of the simulated market, with trades and repeated frames."""
    path = tmp_path_factory.mktemp("replay") / "market.jsonl"
    frames = Market(seed=5).until(300 * SECOND_NS)
    path.write_bytes(b"".join(format_line(frame.text, START_NS + frame.at_ns) for frame in frames))
    return path


@pytest.fixture(scope="module")
def users_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("users") / "users.jsonl"
    path.write_text(USERS)
    return path


@pytest.fixture(scope="module")
def told(market_file: Path) -> subprocess.CompletedProcess[bytes]:
    """What the command prints of the default users."""
    return run(str(market_file))


@pytest.fixture(scope="module")
def told_as_json(market_file: Path, users_file: Path) -> subprocess.CompletedProcess[bytes]:
    """What the command prints of USERS, the report last."""
    return run(str(market_file), "--users", str(users_file), "--json", hash_seed="1")


def run(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[bytes]:
    """The command as a process of its own, so that nothing is shared between two runs but the files."""
    command = "from runtime.commands import main; main()"
    environ = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        [sys.executable, "-c", command, "replay", *arguments], capture_output=True, env=environ, check=False
    )


def play(replay: Replay, recorded: Iterable[Recorded]) -> list[bytes]:
    return [*chain.from_iterable(map(replay.frame, recorded)), *replay.end()]


def first_coin_with_a_trade(market: Market) -> tuple[str, str]:
    """The frames of an ordinary coin's creation and of its first trade."""
    created: dict[str, str] = {}
    for frame in market.until(120 * SECOND_NS):
        if not frame.is_trade and '"is_mayhem_mode":false' in frame.text:
            created[frame.mint] = frame.text
        elif frame.is_trade and frame.mint in created:
            return created[frame.mint], frame.text
    raise AssertionError("no coin of this market trades")


def lines(data: bytes) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in data.splitlines()]


@needs_recording
def test_the_recording_gives_the_same_bytes_twice() -> None:
    first, second = run(str(RECORDING), hash_seed="1"), run(str(RECORDING), "--json", hash_seed="2")
    assert first.returncode == second.returncode == 0
    *body, report = second.stdout.splitlines(keepends=True)
    assert b"".join(body) == first.stdout
    totals = msgspec.json.decode(report)
    # Every frame of the recording is accounted for: 198 creations, 7 migrations, 3 notices.
    assert totals["frames"] == {"Notice": 3, "TokenCreated": 198, "TokenMigrated": 7}
    assert totals["outcomes"]["SNIPER"]["DECIDED"] == totals["decisions"]["SNIPER"] > 100
    assert totals["total"]["entries"] > 0


def test_a_market_with_trades_gives_the_same_bytes_twice(
    market_file: Path, users_file: Path, told_as_json: subprocess.CompletedProcess[bytes]
) -> None:
    """In processes whose sets and dicts of text are ordered differently."""
    first, second = told_as_json, run(str(market_file), "--users", str(users_file), "--json", hash_seed="2")
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    totals = lines(first.stdout)[-1]
    assert totals["type"] == "report"
    assert totals["repeated"] > 0  # the market repeats some frames
    assert totals["total"]["exits"].keys() >= {"TIME_EXIT", "RUG_ALARM", "TAKE_PROFIT"}


def test_the_speed_changes_nothing_but_the_pace(
    market_file: Path, users_file: Path, told_as_json: subprocess.CompletedProcess[bytes]
) -> None:
    paced = run(str(market_file), "--users", str(users_file), "--json", "--speed", "1000")
    assert paced.stdout == told_as_json.stdout


def test_totals_agree_with_the_lines_and_every_signal_has_one_outcome(
    told_as_json: subprocess.CompletedProcess[bytes],
) -> None:
    *body, totals = lines(told_as_json.stdout)
    decisions = [line for line in body if line["type"] == "decision"]
    fills = [line["fill"] for line in body if line["type"] == "user_fill"]
    assert len(decisions) + len(fills) == len(body)
    assert Counter(line["strategy"] for line in decisions) == totals["decisions"]
    assert len({fill["id"] for fill in fills}) == len(fills)
    total = totals["total"]
    assert total["entries"] == sum(fill["side"] == "BUY" for fill in fills)
    assert total["signals"] == total["entries"] + total["pending_entries"] + sum(total["refused"].values())
    assert total["entries"] == total["closed"] + total["open_positions"]
    paid = sum(fill["lamports"] for fill in fills if fill["side"] == "BUY")
    received = sum(fill["lamports"] for fill in fills if fill["side"] == "SELL")
    assert (total["paid_lamports"], total["received_lamports"]) == (paid, received)
    # Nothing is lost between what was paid and what it became.
    assert total["realised_lamports"] == received - paid + total["open_cost_lamports"]
    assert total["pnl_lamports"] == total["realised_lamports"] + total["unrealised_lamports"]
    assert totals["equity"][-1][1] == total["pnl_lamports"]
    assert sum(trade["pnl_lamports"] for trade in totals["trades"]) == total["pnl_lamports"]
    assert len(totals["trades"]) == totals["trades_total"] == total["entries"]


def test_users_with_the_same_configuration_do_the_same(
    told_as_json: subprocess.CompletedProcess[bytes],
) -> None:
    body = lines(told_as_json.stdout)
    by_user: dict[str, list[Any]] = {}
    for line in body:
        if line["type"] == "user_fill":
            fill = line["fill"]
            by_user.setdefault(line["user"], []).append((fill["mint"], fill["side"], fill["lamports"], fill["at_ns"]))
    assert by_user["quick"] == by_user["second"] != []
    assert "idle" not in by_user


def test_exits_by_time_happen_at_their_own_time_between_the_frames(
    told_as_json: subprocess.CompletedProcess[bytes],
) -> None:
    body = lines(told_as_json.stdout)
    fills = [line["fill"] for line in body if line["type"] == "user_fill" and line["user"] == "quick"]
    bought = {fill["order_id"]: fill["at_ns"] for fill in fills if fill["side"] == "BUY"}
    timed = [fill for fill in fills if fill["reason"] == "TIME_EXIT"]
    waits = [fill["at_ns"] - bought[fill["order_id"].removesuffix(":exit1")] for fill in timed]
    assert waits
    # To the nanosecond, where a price was known: decided 20 s after the entry, landed LANDING_NS later.
    assert min(waits) == 20 * SECOND_NS + LANDING_NS_DEFAULT


@pytest.mark.parametrize("landing_ms", [0, 600, 3_000])
def test_orders_land_as_long_after_their_decision_as_asked(market_file: Path, landing_ms: int) -> None:
    decided: dict[str, int] = {}
    waits: Counter[int] = Counter()

    def took(_: str, entry: Entry) -> None:
        if isinstance(entry, Intent):
            decided[entry.id] = entry.at_ns
        elif entry.order_id is not None:
            waits[entry.at_ns - decided.pop(entry.order_id)] += 1

    replay = Replay(default_users(), landing_ns=landing_ms * 1_000_000, took=took)
    play(replay, read_recording(market_file))
    assert waits.keys() == {landing_ms * 1_000_000}
    assert waits.total() > 30


def test_events_of_one_instant_come_before_its_signals_and_what_is_due(tmp_path: Path) -> None:
    """The same frames, all of one instant or a nanosecond apart: an order of the first coin meets the trade that
    comes with it."""
    market = Market(seed=5)
    creation, trade = first_coin_with_a_trade(market)
    fills: list[list[tuple[int, int]]] = []
    for apart_ns in (0, 1):
        found: list[tuple[int, int]] = []

        def took(_: str, entry: Entry, found: list[tuple[int, int]] = found) -> None:
            if isinstance(entry, Fill):
                found.append((entry.tokens, entry.price_at_ns - START_NS))

        replay = Replay([("a", BotConfig(strategy=Strategy.SNIPER, min_score=0))], landing_ns=0, took=took)
        frames = [Recorded(seen_at_ns=START_NS + n * apart_ns, raw=text) for n, text in enumerate((creation, trade))]
        play(replay, frames)
        fills.append(found)
    (together,), (apart,) = fills
    assert together[1] == apart[1] == 0
    assert together[0] != apart[0]  # the trade was heard before the order landed, or after


def test_a_frame_that_comes_twice_counts_once(market_file: Path) -> None:
    recorded = list(read_recording(market_file))[:400]
    once, twice = Replay(default_users()), Replay(default_users())
    expected = play(once, recorded)
    got = play(twice, (each for each in recorded for _ in range(2)))
    assert got == expected != []
    assert twice.finish().repeated == 400 + once.finish().repeated


def test_the_default_users_are_one_for_each_way_of_taking_decisions() -> None:
    users = dict(default_users())
    assert len(users) == len(Strategy) * (len(RiskLevel) + 1)
    assert {(c.strategy, c.risk_level, c.min_score) for c in users.values()} == {
        *((strategy, level, None) for strategy in Strategy for level in RiskLevel),
        *((strategy, RiskLevel.MEDIUM, 0) for strategy in Strategy),
    }
    assert terms(users["sniper-low"]).threshold == 80


def test_a_malformed_frame_is_counted_and_a_malformed_line_ends_it_by_name(tmp_path: Path) -> None:
    good = format_line('{"message":"Successfully subscribed to keys."}', START_NS)
    path = tmp_path / "recording.jsonl"
    path.write_bytes(good + format_line('{"txType":"create"}', START_NS) + b"\n" + b'{"raw": "no time"}\n' + good)
    replay = Replay(default_users())
    with pytest.raises(ReplayError, match=r"recording\.jsonl, line 4: .*t_wall"):
        play(replay, read_recording(path))
    assert replay.finish().frames == {"Notice": 1, "malformed": 1}
    done = run(str(path))
    assert done.returncode == 1
    assert b"line 4" in done.stderr
    assert b"Traceback" not in done.stderr


GOOD_USER = '{"user": "a", "config": {"strategy": "SNIPER"}}\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (GOOD_USER + '{"user": "b", "config": {"strategy": "SNIPR"}}', "line 2: strategy"),
        (GOOD_USER + '{"user": "b", "config": {"strategy": "SNIPER", "buy": 1}}', "line 2: buy: unknown field"),
        (GOOD_USER + GOOD_USER, "line 2: user: a is there twice"),
        ('{"user": "a.b", "config": {"strategy": "SNIPER"}}', "line 1: user: 'a.b' is no user id"),
        ('{"user": "a"}', "line 1: .*config"),
        ("[]", "line 1"),
        ("\n", "no bots"),
    ],
)
def test_users_that_cannot_be_taken_are_named_by_line_and_field(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "users.jsonl"
    path.write_text(text)
    with pytest.raises(BotsFileError, match=problem):
        list(read_bots(path))


def test_bad_arguments_end_with_status_2_and_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording, users = tmp_path / "recording.jsonl", tmp_path / "users.jsonl"
    recording.touch()
    users.write_text("{}")
    for call, word in (
        (lambda: cli(tmp_path / "absent"), "absent"),
        (lambda: cli(recording, users=tmp_path / "nobody"), "nobody"),
        (lambda: cli(recording, users=users), "line 1"),
        (lambda: cli(recording, speed=-1), "--speed"),
        (lambda: cli(recording, landing_ms=-1), "--landing-ms"),
        (lambda: cli(recording, model=users), "--model"),
        (lambda: cli(recording, sweep=tmp_path / "nowhere"), "nowhere"),
        (lambda: cli(recording, sweep=users), "base"),
        (lambda: cli(recording, sweep=users, users=users), "--sweep"),
        (lambda: cli(recording, sweep=users, html=tmp_path / "page.html"), "--sweep"),
    ):
        with pytest.raises(SystemExit) as ended:
            call()
        assert ended.value.code == 2
        assert word in capsys.readouterr().err


@needs_trades
def test_the_curve_computed_from_real_trades_is_the_one_that_the_frames_state() -> None:
    """The state before a trade follows from the frame's reserves and amounts; the formulas lead from it to the state
    after. A purchase is priced by its tokens, or, as buy_exact_quote_in does it, by what was paid."""
    events = [parse(recorded.raw, recorded.seen_at_ns) for recorded in read_recording(TRADES)]
    mayhem = {event.mint for event in events if isinstance(event, TokenCreated) and event.mayhem}
    trades = [event for event in events if isinstance(event, TokenTraded)]
    off = {"ordinary": Counter[int](), "mayhem": Counter[int]()}
    print(f"\n{len(trades)} real trades")
    for trade in trades:
        ordinary = trade.mint not in mayhem and _on_the_ordinary_curve(trade)
        by_tokens, by_payment = _lamports_off(trade)
        off["ordinary" if ordinary else "mayhem"][by_tokens] += 1
        if ordinary:
            assert 0 in (by_tokens, by_payment), trade
        else:
            print(f"mayhem {trade.side} {trade.mint[:6]}: {by_tokens} lamports off, {by_payment} by its payment")
    for kind, counts in off.items():
        print(f"{kind}: {counts.total()} trades, {counts.total() - counts[0]} off; lamports off: {dict(counts)}")
    # Ordinary coins: every state to the lamport; by the tokens alone 5 of 85 purchases and sales differ by 1 lamport.
    assert off["ordinary"] == {0: 80, -1: 5}
    # Mayhem, recognised by the flag or by reserves off the ordinary curve: 3 of 8 differ by up to 0.19 SOL, 3 by 1.
    assert off["mayhem"] == {0: 2, -1: 3, 522_840: 1, 1_393_736: 1, 188_075_100: 1}


def _on_the_ordinary_curve(trade: TokenTraded) -> bool:
    """The product of the reserves only rises by rounding on an ordinary curve: within a millionth of where it began."""
    assert trade.market is not None
    began = curve.INITIAL_VIRTUAL_LAMPORTS * curve.INITIAL_VIRTUAL_TOKENS
    product = trade.market.virtual_lamports * trade.market.virtual_tokens
    return abs(product - began) * 1_000_000 <= began


def _lamports_off(trade: TokenTraded) -> tuple[int, int]:
    """Computed less stated lamports after a trade, priced by its tokens; and the tokens' difference priced by what was
    paid, for a purchase."""
    assert trade.market is not None
    assert trade.lamports is not None
    after = curve.from_market(trade.market)
    sign = 1 if trade.side is Side.BUY else -1
    virtual_tokens = after.virtual_tokens + sign * trade.tokens
    before = curve.Curve(after.virtual_lamports - sign * trade.lamports, virtual_tokens, virtual_tokens)
    if trade.side is Side.SELL:
        swap = curve.quote_sell(before, trade.tokens)
        return swap.after.virtual_lamports - after.virtual_lamports, swap.curve_lamports - trade.lamports
    swap = curve.quote_buy_tokens(before, trade.tokens)
    net = trade.lamports - 1
    by_payment = net * before.virtual_tokens // (before.virtual_lamports + net) - trade.tokens
    return swap.after.virtual_lamports - after.virtual_lamports, by_payment


def test_a_model_is_asked_and_without_one_its_strategy_decides_nothing(market_file: Path) -> None:
    class Sure:
        def predict(self, look: Look) -> Scored:
            shown = dict.fromkeys(FEATURE_NAMES, 0)
            return Scored(score=90, rows=(Row(0, "sure", 90),), features=shown, names=())

    bare, led = Replay(default_users()), Replay(default_users(), predictor=Sure())
    for replay in (bare, led):
        play(replay, read_recording(market_file))
    assert "AI_PREDICTIONS" not in bare.finish().decisions
    report = led.finish()
    assert report.decisions["AI_PREDICTIONS"] > 10
    assert sum(group.figures.entries for group in report.groups if group.strategy is Strategy.AI_PREDICTIONS) > 0


def test_an_empty_recording_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.touch()
    done = run(str(path), "--json")
    assert done.returncode == 0
    assert lines(done.stdout)[-1]["decisions"] == {}
    assert run(str(path)).returncode == 0


def test_a_reader_that_goes_away_ends_it_without_a_word(market_file: Path) -> None:
    command = f"{sys.executable} -c 'from runtime.commands import main; main()' replay {market_file}"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -n 1; echo ${{PIPESTATUS[0]}}"], capture_output=True, check=False
    )
    line, status = done.stdout.splitlines()
    assert msgspec.json.decode(line)["type"] == "decision"
    assert (status, done.stderr) == (b"0", b"")


def test_a_terminal_shows_how_far_it_is_and_a_pipe_does_not(
    market_file: Path, tmp_path: Path, told: subprocess.CompletedProcess[bytes]
) -> None:
    assert market_file.stat().st_size > playing.PROGRESS_BYTES_MIN
    shown = b""
    terminal, end = os.openpty()
    command = [sys.executable, "-c", "from runtime.commands import main; main()", "replay", str(market_file), "--json"]
    out = tmp_path / "out"
    with out.open("wb") as stdout, subprocess.Popen(command, stdout=stdout, stderr=end):
        os.close(end)
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(terminal, 1 << 16):
                shown += part
    os.close(terminal)
    assert b"market.jsonl" in shown
    assert b"market.jsonl" not in told.stderr
    assert b"\x1b" not in told.stderr
    assert out.read_bytes().splitlines()[:-1] == told.stdout.splitlines()


def test_quiet_prints_the_report_alone(market_file: Path, told: subprocess.CompletedProcess[bytes]) -> None:
    quiet = run(str(market_file), "--quiet")
    assert quiet.stdout == told.stderr
    assert quiet.stdout.startswith(b"frames ")
    assert quiet.stderr == b""
