"""The test kit: a real broker on a free port, faults as `with` blocks, our processes as children, conditions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

from runtime.bus import Bus
from runtime.declare import declare
from runtime.embedded import broker_binary, broker_config, free_port
from runtime.settings import Common

WAIT_S_MAX = 20.0
POLL_S = 0.01


async def eventually(condition: Callable[[], bool | Awaitable[bool]], what: str, within_s: float = WAIT_S_MAX) -> None:
    """Wait for a condition. Raises AssertionError naming what did not come true."""
    due = time.monotonic() + within_s
    while True:
        result = condition()
        if result if isinstance(result, bool) else await result:
            return
        if time.monotonic() > due:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(POLL_S)


class Broker:
    """A real nats-server with the repository's configuration, on a free port, that can be killed and come back."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.monitor_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [
                broker_binary(), "-c", str(broker_config()), "-a", "127.0.0.1", "-p", str(self.port),
                "-m", str(self.monitor_port), "-sd", str(self.data_dir), "-l", str(self.data_dir / "nats.log"),
            ]
        )  # fmt: skip
        due = time.monotonic() + WAIT_S_MAX
        while time.monotonic() < due:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(POLL_S)
        self.kill()
        raise AssertionError("nats-server did not start")

    def signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """The broker is dead inside, and back with its files afterwards."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """The broker takes connections and says nothing."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)


@contextlib.asynccontextmanager
async def bus(broker: Broker, *, partitions: int = 4, declared: bool = True) -> AsyncIterator[Bus]:
    """A connected bus, with streams and consumers declared."""
    opened = Bus(lambda event, **fields: None)
    await opened.open(Common(nats_url=broker.url), "test")
    try:
        if declared:
            await declare(opened, partitions)
        yield opened
    finally:
        await opened.close()


class Service:
    """One of our processes as a real child: `python -m <module>`, its output in a file."""

    def __init__(self, module: str, out: Path, **environ: str) -> None:
        self.module = module
        self.out = out
        self._env = {**os.environ, "PYTHONSAFEPATH": "1", "MINTLINE_LOG": "json", **environ}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> None:
        with self.out.open("ab") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, *arguments], env=self._env, stdout=sink, stderr=sink
            )

    def signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, within_s: float = WAIT_S_MAX) -> int:
        assert self._process is not None
        return self._process.wait(within_s)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def text(self) -> str:
        return self.out.read_text(errors="replace") if self.out.exists() else ""
