"""ingest/simulator.py: speaks PumpPortal's protocol word for word, on a real socket."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from ingest.market import Market
from ingest.playback import Recording
from ingest.recording import MalformedLine, format_line
from ingest.simulator import Simulator, serve
from ingest.venues.pumpportal import ErrorKind, Notice, NoticeKind, VenueError, parse
from schemas.events import TokenCreated, TokenMigrated, TokenTraded

WAIT_S = 10.0
DATA = Path(__file__).parents[2] / "shared" / "data"
SESSION = DATA / "pumpportal_session_jouleka_2026-07-03.jsonl"


def opened(simulator: Simulator, key: str = "") -> connect:
    query = f"?api-key={key}" if key else ""
    return connect(simulator.url + query, compression=None, proxy=None)


async def heard(socket: ClientConnection) -> str:
    text = await asyncio.wait_for(socket.recv(decode=True), WAIT_S)
    assert isinstance(text, str)
    return text


async def drained(socket: ClientConnection, silence_s: float) -> None:
    """Read on. Raises TimeoutError when nothing came for so long, and what the connection raises."""
    while True:
        await asyncio.wait_for(socket.recv(), silence_s)


async def answer(socket: ClientConnection, method: str, *keys: str) -> str:
    """The next control frame after a request."""
    await socket.send(json.dumps({"method": method, **({"keys": keys} if keys else {})}))
    while not (text := await heard(socket)).startswith(('{"message"', '{"errors"')):
        pass
    return text


@pytest.mark.parametrize(
    ("key", "method", "frame"),
    [
        ("", "subscribeNewToken", '{"message":"Successfully subscribed to token creation events."}'),
        ("", "subscribeMigration", '{"message":"Subscribed to \'migration\' events."}'),
        ("", "unsubscribeNewToken", '{"message":"Unsubscribed."}'),
        ("good", "subscribeTokenTrade", '{"message":"Successfully subscribed to keys."}'),
        ("good", "unsubscribeTokenTrade", '{"message":"Unsubscribed."}'),
        ("good", "subscribeAccountTrade", '{"message":"Successfully subscribed to keys."}'),
        ("good", "unsubscribeAccountTrade", '{"message":"Unsubscribed."}'),
        # does not exist, and is answered like any unknown method
        (
            "good",
            "unsubscribeMigration",
            "{\"errors\":\"Invalid message. 'method' must be 'subscribeNewToken', 'subscribeTokenTrade', "
            "'subscribeAccountTrade', or 'subscribeMigration'.\"}",
        ),
    ],
)
async def test_requests_are_answered_word_for_word(key: str, method: str, frame: str) -> None:
    async with serve(Market(1)) as simulator, opened(simulator, key) as socket:
        assert await answer(socket, method, "A") == frame


@pytest.mark.parametrize("key", ["", "unfunded"])
async def test_trades_without_a_funded_key_are_refused_in_a_notice(key: str) -> None:
    async with serve(Market(1)) as simulator, opened(simulator, key) as socket:
        parsed = parse(await answer(socket, "subscribeTokenTrade", "A"), 1)
        assert isinstance(parsed, Notice)
        assert parsed.kind is NoticeKind.UNFUNDED
        assert simulator.subscribed == frozenset()


async def test_a_bad_key_is_told_and_the_free_streams_go_on() -> None:
    async with serve(Market(1), speed=60) as simulator, opened(simulator, "bad") as socket:
        greeting = parse(await heard(socket), 1)
        assert isinstance(greeting, VenueError)
        assert greeting.kind is ErrorKind.BAD_KEY
        await answer(socket, "subscribeNewToken")
        assert isinstance(parse(await heard(socket), 1), TokenCreated)


@pytest.mark.parametrize("request_text", ["", "{", "[]", '{"method":7}', '{"keys":["A"]}'])
async def test_what_is_no_request_is_an_error_and_no_end(request_text: str) -> None:
    async with serve(Market(1)) as simulator, opened(simulator) as socket:
        await socket.send(request_text)
        assert "Invalid message" in await heard(socket)
        assert "Successfully" in await answer(socket, "subscribeNewToken")


async def test_nothing_comes_unasked_and_trades_only_of_the_mints_asked_for() -> None:
    async with serve(Market(5), speed=200) as simulator, opened(simulator, "good") as socket:
        await answer(socket, "subscribeNewToken")
        events = []
        wanted: set[str] = set()
        while sum(isinstance(event, TokenTraded) for event in events) < 200:
            event = parse(await heard(socket), 1)
            if isinstance(event, TokenCreated) and len(wanted) < 20:
                wanted.add(event.mint)
                await socket.send(json.dumps({"method": "subscribeTokenTrade", "keys": [event.mint]}))
            events.append(event)
        traded = {event.mint for event in events if isinstance(event, TokenTraded)}
        assert traded <= wanted
        assert len(traded) > 1
        assert not any(isinstance(event, TokenMigrated) for event in events)


async def test_a_second_connection_is_refused_and_the_first_goes_on() -> None:
    async with serve(Market(1)) as simulator, opened(simulator) as socket:
        with pytest.raises(InvalidStatus) as refusal:
            await opened(simulator)
        assert refusal.value.response.status_code == 429
        assert "Successfully" in await answer(socket, "subscribeNewToken")
        await socket.close()
        async with opened(simulator) as second:
            assert "Successfully" in await answer(second, "subscribeNewToken")
        assert (simulator.connections, simulator.refused) == (2, 1)


async def test_time_multiplies_by_the_speed() -> None:
    async with serve(Market(2), speed=500) as simulator, opened(simulator) as socket:
        await answer(socket, "subscribeNewToken")
        began = time.monotonic()
        creates = 0
        while time.monotonic() - began < 1:
            creates += isinstance(parse(await heard(socket), 1), TokenCreated)
        assert 100 < creates < 300  # 500 s at 22.4 a minute are 187


async def test_each_fault_does_what_it_says() -> None:
    async with serve(Market(1), speed=100) as simulator:
        async with opened(simulator) as socket:
            await answer(socket, "subscribeNewToken")
            await simulator.send("garbage")
            while await heard(socket) != "garbage":
                pass
            with simulator.duplicating():
                before = None
                while (frame := await heard(socket)) != before:
                    before = frame
            simulator.drop()
            with pytest.raises(ConnectionClosedError):
                await drained(socket, WAIT_S)
        with simulator.refusing(403), pytest.raises(InvalidStatus):
            await opened(simulator)
        async with opened(simulator) as socket:
            await answer(socket, "subscribeNewToken")
            with simulator.silent(), pytest.raises(TimeoutError):  # at 37 creations a second
                await drained(socket, 0.4)
            await heard(socket)
            simulator.half_open()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(await socket.ping(), 0.2)
            async with opened(simulator):  # the dead one does not count
                pass
            socket.transport.abort()


async def test_a_recording_is_served_whole_and_in_order() -> None:
    if not SESSION.exists():
        pytest.skip("the recorded session is not here")
    raws = [json.loads(line)["raw"] for line in SESSION.read_text(encoding="utf-8").splitlines()]
    async with serve(Recording(SESSION), speed=10_000) as simulator, opened(simulator) as socket:
        await socket.send('{"method":"subscribeNewToken"}')
        assert [await heard(socket) for _ in raws] == raws
        await asyncio.wait_for(simulator.finished.wait(), WAIT_S)
        assert simulator.sent == 208


async def test_a_recording_waits_for_somebody_to_listen(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    path.write_bytes(format_line("first", 1) + format_line("second", 2))
    async with serve(Recording(path), speed=10_000) as simulator, opened(simulator) as socket:
        assert not simulator.finished.is_set()
        assert simulator.sent == 0
        await socket.send('{"method":"subscribeNewToken"}')
        assert [await heard(socket), await heard(socket)] == ["first", "second"]


def test_recorded_times_never_run_backwards(tmp_path: Path) -> None:
    path = tmp_path / "swapped.jsonl"
    path.write_bytes(format_line("a", 50) + format_line("b", 40) + format_line("c", 60))
    recording = Recording(path)
    assert [(f.at_ns, f.text) for f in recording.until(100)] == [(0, "a"), (0, "b"), (10, "c")]
    assert recording.next_at_ns is None


def test_a_broken_recording_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_bytes(format_line("a", 1) + b"{}\n")
    with pytest.raises(MalformedLine, match="line 2"):
        Recording(path)._advance()


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "ingest.simulator", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_command_prints_its_address_and_ends_in_good_order(number: int) -> None:
    with start("--speed", "20", "--seed", "3") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().strip()
        async with connect(url, proxy=None) as socket:
            assert "Successfully" in await answer(socket, "subscribeNewToken")
            process.send_signal(number)
            assert process.wait(WAIT_S) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("arguments", "status", "names"),
    [
        (("--speed", "0"), 2, "--speed"),
        (("--port", "70000"), 2, "--port"),
        (("--recording", "/nowhere.jsonl"), 2, "--recording"),
        (("--host", "203.0.113.7"), 1, "cannot listen on 203.0.113.7"),
    ],
)
def test_the_command_refuses_bad_arguments_by_name(arguments: tuple[str, ...], status: int, names: str) -> None:
    with start(*arguments) as process:
        assert process.wait(WAIT_S) == status
        assert process.stderr is not None
        assert names in process.stderr.read()
