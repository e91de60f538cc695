"""The private parts of nats-py that runtime/hotpath.py leans on, as the pinned version has them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import inspect
import re

import pytest
from nats.aio.client import Client

from runtime.bus import Bus, Unavailable
from runtime.testing import eventually


def test_the_version_is_the_one_that_was_read() -> None:
    assert importlib.metadata.version("nats-py") == "2.16.0", "read client.py again, then move this line"


def test_errors_of_the_server_and_the_connect_command_are_ours_to_change() -> None:
    assert list(inspect.signature(Client._process_err).parameters) == ["self", "err_msg"]
    assert inspect.iscoroutinefunction(Client._process_err)
    assert inspect.iscoroutinefunction(Client._process_op_err)
    assert list(inspect.signature(Client._connect_command).parameters) == ["self"]


async def test_what_is_put_into_the_pending_buffer_is_written_by_the_flusher(bus: Bus) -> None:
    client = bus._client
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    await bus.listen("hint.*", lambda subject, data: heard.put_nowait(data))
    before = client._pending_data_size
    bus.tell("hint.a", b"one")
    assert client._pending_data_size > before
    assert client._flush_queue is not None
    assert not client._flush_queue.empty()
    assert await asyncio.wait_for(heard.get(), 5) == b"one"
    assert client._pending_data_size == 0


async def test_all_that_one_turn_of_the_loop_writes_wakes_the_flusher_once_and_is_not_copied(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = bus._client
    await client.flush()
    written: list[list[bytes]] = []
    monkeypatch.setattr(client._transport, "writelines", written.append)
    frames = [b"PUB hint.a  1\r\nx\r\n", b"PUB hint.a  100000\r\n" + b"x" * 100_000 + b"\r\n"] * 50
    for each in frames:
        bus.write(each)
    assert client._flush_queue.qsize() == 1
    await eventually(lambda: client._pending_data_size == 0, "the flusher's turn")
    assert len(written) == 1
    assert all(got is given for got, given in zip(written[0], frames, strict=True))


def test_the_client_calls_its_parser_for_two_things_only() -> None:
    assert set(re.findall(r"self\._ps\.(\w+)", inspect.getsource(Client))) == {"parse", "reset"}
    assert len(re.findall(r"self\._ps\b[^.]", inspect.getsource(Client))) == 1, "the parser is made once, in __init__"


async def test_a_subscription_gets_the_next_number_before_anything_waits(bus: Bus) -> None:
    number = bus._client._sid + 1
    subscribing = bus._client.subscribe("hint.a")
    subscription = await subscribing
    assert subscription._id == number == bus._client._sid
    body = inspect.getsource(Client.subscribe).rpartition('"""')[2]
    assert "await" not in body.partition("self._sid += 1")[0]


async def test_a_new_connection_resets_the_parser_after_the_old_one_is_read_no_more() -> None:
    source = inspect.getsource(Client._attempt_reconnect)
    assert source.index("_reading_task.cancel()") < source.index("_process_connect_init()")
    assert "if self.is_reconnecting:\n            self._ps.reset()" in inspect.getsource(Client._process_connect_init)


async def test_what_no_server_sends_is_an_error_after_which_the_client_connects_anew(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = bus._client._reading_task

    async def refuse(data: bytes = b"") -> None:
        monkeypatch.undo()
        raise ConnectionError("a line without an end")

    monkeypatch.setattr(bus._client._hotpath, "parse", refuse)
    bus.tell("hint.a", b"")
    with contextlib.suppress(Unavailable):
        await bus.api("INFO")
    await eventually(lambda: bus.connected and bus._client._reading_task is not reading, "a new connection")
    await bus.api("INFO")


async def test_the_read_loop_is_a_task_that_runs_while_connected(bus: Bus) -> None:
    assert isinstance(bus._client._reading_task, asyncio.Task)
    assert not bus._client._reading_task.done()
    assert not bus._client.reads_no_more


@pytest.mark.parametrize("name", ["force_reconnect", "flush", "close", "subscribe", "connect"])
def test_what_is_awaited_can_be_awaited(name: str) -> None:
    assert inspect.iscoroutinefunction(getattr(Client, name))
