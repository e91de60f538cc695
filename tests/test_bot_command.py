"""`mintline bot …` against a real broker: wishes in the bucket, the kill switch, and what stand-in bots answer."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bots import portfolio as figures
from bots.mandate import Mandate
from bots.positions import Account, take
from bots.prices import Price
from portal import bot_bucket, bot_command, wishes
from runtime import asking, buckets
from runtime.bus import Bus
from runtime.embedded import free_port
from runtime.testing import Broker
from schemas import curve
from schemas.codec import Decoder, encode
from schemas.config import KILL_SWITCH_KEY, BotConfig, BotWanted, KillSwitch, Wanted, terms
from schemas.events import Fill, Reason, RiskLevel, Side, Strategy
from schemas.subjects import PARTITIONS_DEFAULT, partition

CONFIG = '{"strategy": "SNIPER", "buy_sol": 0.1}'
_wanted: Decoder[BotWanted] = Decoder(BotWanted)
_switch: Decoder[KillSwitch] = Decoder(KillSwitch)


class Ended(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Any]


@pytest.fixture
def run(broker: Broker) -> Run:
    """Runs `mintline bot` as a process of its own; the test's bus goes on answering meanwhile."""

    async def command(*arguments: str) -> Ended:
        environ = {**os.environ, "PYTHONSAFEPATH": "1", "MINTLINE_NATS_URL": broker.url}
        ended = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "runtime.commands", "bot", *arguments],
            env=environ, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    return command


async def stored(bus: Bus, user: str) -> BotWanted | None:
    entry = await buckets.get(bus, "bots", user)
    return None if entry is None else _wanted(entry.data)


async def put(bus: Bus, user: str, wanted: Wanted = Wanted.RUNNING, **changes: Any) -> None:
    wish = BotWanted(
        user=user, wanted=wanted, config=BotConfig(strategy=Strategy.SNIPER), changed_at_ns=1, **changes
    )  # fmt: skip
    await buckets.put(bus, "bots", user, encode(wish))


def bought() -> Account:
    account = Account()
    fill = Fill(
        id="f", order_id="s:buy", signal_id="s", mint="Mint", side=Side.BUY, tokens=1_000_000_000_000,
        lamports=30_000_000, curve_lamports=28_000_000, protocol_fee_lamports=1_000_000,
        creator_fee_lamports=500_000, network_fee_lamports=500_000, reason=Reason.SIGNAL, price_at_ns=1, at_ns=1,
    )  # fmt: skip
    take(account, [fill])
    return account


async def answer_for(bus: Bus, *users: str) -> None:
    """Stand-in bots: they hold one coin for each of these users, and know nobody else."""
    mandate = Mandate(terms=terms(BotConfig(strategy=Strategy.SNIPER)), running=True)

    async def on_question(data: bytes) -> bytes:
        user = figures.question(data)
        price = Price(mint="Mint", state=curve.FRESH, seen_at_ns=2)
        known = user in users
        return figures.answer(user, bought() if known else None, mandate if known else None, {"Mint": price}.get, 3)

    for number in {partition(user, PARTITIONS_DEFAULT) for user in (*users, "1")}:
        await bus.answer(figures.subject(number), on_question)


# Wishes


async def test_a_bot_is_started_with_a_configuration_stopped_and_started_again(
    run: Run, bus: Bus, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(CONFIG)
    assert (await run("start", "1", "--config", str(tmp_path / "config.json"))).status == 0
    first = await stored(bus, "1")
    assert first is not None
    assert (first.wanted, str(first.config.buy_sol), first.close_positions) == (Wanted.RUNNING, "0.1", False)

    ended = await run("stop", "1", "--close")
    assert (ended.status, "is being sold" in ended.out) == (0, True)
    second = await stored(bus, "1")
    assert second is not None
    assert (second.wanted, second.close_positions, second.config) == (Wanted.STOPPED, True, first.config)
    assert second.changed_at_ns > first.changed_at_ns

    assert (await run("start", "1")).status == 0  # with what is there
    third = await stored(bus, "1")
    assert third is not None
    assert (third.wanted, third.close_positions, third.config) == (Wanted.RUNNING, False, first.config)

    assert (await run("start", "1", "--config", '{"strategy": "MOMENTUM"}')).status == 0
    fourth = await stored(bus, "1")
    assert fourth is not None
    assert fourth.config.strategy is Strategy.MOMENTUM


async def test_a_kill_outlives_every_wish_until_it_is_taken_back(run: Run, bus: Bus) -> None:
    await put(bus, "1")
    ended = await run("kill", "1", "--reason", " lost  its key ")
    assert (ended.status, ended.out) == (0, "user 1's entries are refused: lost its key\n")
    started = await run("start", "1")
    assert (started.status, "lost its key" in started.out) == (0, True)
    kept = await stored(bus, "1")
    assert kept is not None
    assert (kept.killed, kept.wanted) == ("lost its key", Wanted.RUNNING)
    assert (await run("unkill", "1")).status == 0
    free = await stored(bus, "1")
    assert free is not None
    assert (free.killed, free.changed_at_ns) == ("", kept.changed_at_ns)


async def test_the_central_switch_is_no_user_and_is_told_with_every_list(run: Run, bus: Bus) -> None:
    await put(bus, "1")
    assert (await run("kill", "--all", "--reason", "maintenance")).status == 0
    entry = await buckets.get(bus, "bots", KILL_SWITCH_KEY)
    assert entry is not None
    assert _switch(entry.data).reason == "maintenance"
    listed = (await run("list", "--json")).json
    assert (listed["kill_switch"], [bot["user"] for bot in listed["bots"]]) == ("maintenance", ["1"])
    assert (await run("unkill", "--all")).status == 0
    assert (await run("list", "--json")).json["kill_switch"] == ""


async def test_of_two_who_change_a_bot_at_once_both_changes_stand(bus: Bus) -> None:
    await put(bus, "1")
    reasons = [f"reason {number}" for number in range(4)]

    def edits(reason: str) -> Callable[[BotWanted | None], BotWanted]:
        def edit(before: BotWanted | None) -> BotWanted:
            known = "" if before is None else before.killed
            return wishes.killed(before, "1", f"{known}{reason};")

        return edit

    await asyncio.gather(*(bot_bucket.change(bus, "1", edits(reason)) for reason in reasons))
    after = await stored(bus, "1")
    assert after is not None
    assert sorted(after.killed.strip(";").split(";")) == reasons


async def test_a_bot_that_was_deleted_can_be_started_again(run: Run, bus: Bus) -> None:
    await put(bus, "1")
    await buckets.delete(bus, "bots", "1")
    missing = await run("start", "1")
    assert (missing.status, "--config" in missing.err) == (2, True)
    assert (await run("start", "1", "--config", CONFIG)).status == 0


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        (["start", "a b", "--config", CONFIG], 2, "USER"),
        (["start", "_kill_switch", "--config", CONFIG], 2, "USER"),
        (["start", "1"], 2, "--config"),  # nothing is stored
        (["start", "1", "--config", '{"strategy": "SNIPER", "buy_sol": -1}'], 2, "buy_sol"),
        (["start", "1", "--config", "/nowhere/config.json"], 2, "--config"),
        (["start"], 2, "user"),
        (["stop", "1"], 1, "has no bot"),
        (["kill", "1", "--reason", "x"], 1, "has no bot"),
        (["kill", "--reason", "x"], 2, "--all"),
        (["kill", "1", "--all", "--reason", "x"], 2, "--all"),
        (["kill", "1"], 2, "reason"),
        (["kill", "1", "--reason", "  "], 2, "--reason"),
        (["status", "1"], 1, "has no bot"),
        (["status", "--limit", "0"], 2, "--limit"),
    ],
)
async def test_what_cannot_be_done_is_told_by_status_and_name(
    run: Run, bus: Bus, arguments: list[str], status: int, named: str
) -> None:
    ended = await run(*arguments)
    assert (ended.status, ended.out) == (status, "")
    assert named in ended.err


async def test_without_a_broker_it_fails_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(asking, "CONNECT_S_MAX", 0.2)
    monkeypatch.setenv("MINTLINE_NATS_URL", f"nats://127.0.0.1:{free_port()}")
    with pytest.raises(SystemExit) as ended:
        await asyncio.to_thread(bot_command.list_)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "mintline bot list: the broker does not answer (MINTLINE_NATS_URL)\n"


# Figures


async def test_status_tells_one_user_s_positions_balances_and_fees(run: Run, bus: Bus) -> None:
    await put(bus, "1")
    await answer_for(bus, "1")
    told = (await run("status", "1", "--json")).json
    assert (told["user"], told["wanted"], told["config"]["strategy"]) == ("1", "running", "SNIPER")
    whole = told["portfolio"]
    (held,) = whole["positions"]
    assert (held["mint"], held["cost_sol"], held["value_sol"]) == ("Mint", "0.030000000", "0.027078797")
    assert whole["balances"]["cash_sol"] == "0.970000000"
    assert whole["metrics"]["fees_sol"] == "0.002000000"
    plain = await run("status", "1")
    assert (plain.status, plain.out) == (0, "1\trunning\t0.997078797\t-0.002921203\t1\n")


async def test_status_of_all_has_a_line_for_each_also_where_nobody_answers(run: Run, bus: Bus) -> None:
    for user in ("10", "2", "1"):
        await put(bus, user)
    await answer_for(bus, "2")
    told = (await run("status", "--json")).json
    assert [(bot["user"], bot["portfolio"] is not None) for bot in told["bots"]] == [
        ("1", False), ("2", True), ("10", False),
    ]  # fmt: skip
    some = await run("status", "--limit", "2")
    assert ([line.split("\t")[0] for line in some.out.splitlines()], some.err) == (["1", "2"], "1 more: --limit\n")


async def test_a_user_whom_no_process_answers_for_is_a_failure(run: Run, bus: Bus) -> None:
    await put(bus, "1")
    ended = await run("status", "1")
    assert (ended.status, ended.err) == (1, "mintline bot status: no process answers for user 1's bot\n")


async def test_list_leaves_out_what_it_cannot_read_and_says_so(run: Run, bus: Bus) -> None:
    await put(bus, "1", Wanted.STOPPED)
    await buckets.put(bus, "bots", "2", b'{"type":"bot_wanted"}')
    ended = await run("list")
    assert (ended.status, ended.out) == (0, f"1\tstopped\tSNIPER\t{RiskLevel.MEDIUM}\t\n")
    assert "user 2 is left out" in ended.err
