"""py-spy on several processes at once, for as long as a block lasts."""

from __future__ import annotations

import asyncio
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path
from shutil import which
from types import TracebackType

from harness.children import POLL_S, START_S_MAX, Child, ChildFailed, Children


def binary() -> str | None:
    """py-spy of this environment, or of the PATH; None for none."""
    own = Path(sysconfig.get_path("scripts")) / "py-spy"
    return str(own) if own.exists() else which("py-spy")


class Profiler:
    """pids: by name. form: "raw" (collapsed stacks) or "flamegraph" (SVG). After the block `written` has each one's."""

    def __init__(self, pids: Mapping[str, int], *, form: str, rate: int, native: bool) -> None:
        self.written: dict[str, str] = {}
        self._pids = pids
        self._options = ["--format", form, "--rate", str(rate), "--function", *(["--native"] if native else [])]
        self._directory = tempfile.TemporaryDirectory(prefix="mintline-bench-")
        self._children = Children(Path(self._directory.name))
        self._spies: dict[str, Child] = {}

    async def __aenter__(self) -> Profiler:
        command = binary()
        assert command is not None
        for name, pid in self._pids.items():
            target = ["--pid", str(pid), "--output", str(self._output(name))]
            self._spies[name] = await self._children.start(name, [command, "record", *self._options, *target])
        for spy in self._spies.values():
            await _sampling(spy)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for spy in self._spies.values():
                await spy.interrupt()
            if kind is None:
                self.written = {name: self._output(name).read_text() for name in self._spies}
        finally:
            await self._children.stop()
            self._directory.cleanup()

    def _output(self, name: str) -> Path:
        return Path(self._directory.name) / f"{name}.out"


async def _sampling(spy: Child) -> None:
    """Wait until it samples. Raises ChildFailed, e.g. where the system does not let it."""
    due_s = asyncio.get_running_loop().time() + START_S_MAX
    while "Sampling process" not in spy.tail():
        if not spy.alive or asyncio.get_running_loop().time() > due_s:
            raise ChildFailed(f"py-spy does not sample {spy.name}: {spy.tail()}")
        await asyncio.sleep(POLL_S)
