"""Processes of a measurement: started, spoken to in JSON lines, stopped in reverse; none outlives the bench."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.embedded import broker_binary, broker_config, broker_environ, free_port
from runtime.web import fetch

BENCH = Path(__file__).resolve().parent.parent
START_S_MAX = 60.0
STOP_S_MAX = 10.0
POLL_S = 0.02
LINE_BYTES_MAX = 1 << 27  # what a child tells of 10,000 users' fills
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class ChildFailed(RuntimeError):
    """A process ended, or did not answer in time; the text says which, with the end of what it logged."""


class Child:
    """One process. What it writes to stderr (and to stdout, unless it is spoken to) lies in `log`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._log = log

    def say(self, **request: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")

    async def hear(self, within_s: float = START_S_MAX) -> Any:
        """Its next line. Raises ChildFailed."""
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), within_s)
        except TimeoutError:
            raise ChildFailed(f"{self.name} said nothing within {within_s:g} s: {self.tail()}") from None
        if not line:
            raise ChildFailed(f"{self.name} ended: {self.tail()}")
        return json.loads(line)

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    def tail(self) -> str:
        return self._log.read_text(errors="replace")[-1500:].strip() or "it logged nothing"

    async def stop(self) -> None:
        await self._end(signal.SIGTERM)

    async def interrupt(self) -> None:
        """As Ctrl-C does."""
        await self._end(signal.SIGINT)

    async def _end(self, number: int) -> None:
        if self.alive:
            self._process.send_signal(number)
            try:
                await asyncio.wait_for(self._process.wait(), STOP_S_MAX)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()


class Children:
    """The processes of one arm of a measurement."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._children: list[Child] = []

    async def start(
        self, name: str, command: Sequence[str], environ: Mapping[str, str] | None = None, *, spoken_to: bool = False
    ) -> Child:
        log = self.directory / f"{name}.log"
        pipe = subprocess.PIPE if spoken_to else subprocess.DEVNULL
        with log.open("ab") as sink:
            process = await asyncio.create_subprocess_exec(
                *command, env={**os.environ, "PYTHONSAFEPATH": "1", **(environ or {})}, stdin=pipe,
                stdout=pipe if spoken_to else sink, stderr=sink, limit=LINE_BYTES_MAX, preexec_fn=_die_with_parent,
            )  # fmt: skip
        child = Child(name, process, log)
        self._children.append(child)
        return child

    async def python(self, name: str, *arguments: str) -> Child:
        """One of the bench's own processes, spoken to in lines: `python bench <arguments>`."""
        return await self.start(name, [sys.executable, str(BENCH), *arguments], spoken_to=True)

    async def broker(self, *, fsync: bool = True) -> str:
        """A nats-server with the project's configuration and its own files; its address.

        fsync False: the server's own default instead, an fsync every two minutes.
        """
        config = broker_config()
        if not fsync:
            text = config.read_text()
            assert "sync_interval: always" in text
            config = self.directory / "no-fsync.conf"
            config.write_text(text.replace("sync_interval: always", 'sync_interval: "2m"'))
        port, monitor = free_port(), free_port()
        files = self.directory / "jetstream"
        command = [broker_binary(), "-c", str(config), "-a", "127.0.0.1", "-p", str(port), "-m", str(monitor)]
        child = await self.start("nats-server", [*command, "-sd", str(files)], broker_environ())
        await answers(child, f"http://127.0.0.1:{monitor}/healthz")
        return f"nats://127.0.0.1:{port}"

    @property
    def pids(self) -> dict[str, int]:
        return {child.name: child.pid for child in self._children}

    def check(self) -> None:
        """Raises ChildFailed where one has ended."""
        for child in self._children:
            if not child.alive:
                raise ChildFailed(f"{child.name} ended: {child.tail()}")

    async def stop(self) -> None:
        for child in reversed(self._children):
            await child.stop()
        self._children.clear()


async def answers(child: Child, url: str) -> None:
    """Wait until a URL of a child answers 200. Raises ChildFailed."""
    loop = asyncio.get_running_loop()
    due_s = loop.time() + START_S_MAX
    while child.alive and loop.time() < due_s:
        try:
            if (await fetch(url, 1.0))[0] == 200:
                return
        except (OSError, TimeoutError):
            pass
        await asyncio.sleep(POLL_S)
    raise ChildFailed(f"{child.name} is not ready: {child.tail()}")


def _die_with_parent() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
