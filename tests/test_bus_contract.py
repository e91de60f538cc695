"""The private parts of nats-py that runtime/bus.py leans on, as the pinned version has them."""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect

import pytest
from nats.aio.client import Client

from runtime.bus import Bus


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


async def test_the_read_loop_is_a_task_that_runs_while_connected(bus: Bus) -> None:
    assert isinstance(bus._client._reading_task, asyncio.Task)
    assert not bus._client._reading_task.done()


@pytest.mark.parametrize("name", ["force_reconnect", "flush", "close", "subscribe", "connect"])
def test_what_is_awaited_can_be_awaited(name: str) -> None:
    assert inspect.iscoroutinefunction(getattr(Client, name))
