"""Questions to the machine that may never come back, asked beside the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Aside(Generic[T]):
    """One question, which may block for good: a volume that hangs does. It is asked in a thread, and not again before
    it has come back; the thread holds up no exit."""

    def __init__(self, ask: Callable[[], T], name: str) -> None:
        self._ask = ask
        self._name = name
        self._asked: asyncio.Future[T | None] | None = None

    async def answer(self, wait_s: float) -> T | None:
        """None: not in time, or the system refused to tell."""
        asked = self._asked
        if asked is None or asked.done():
            loop = asyncio.get_running_loop()
            self._asked = asked = loop.create_future()
            threading.Thread(target=self._run, args=(loop, asked), name=self._name, daemon=True).start()
        done, _ = await asyncio.wait({asked}, timeout=wait_s)
        return asked.result() if done else None

    def _run(self, loop: asyncio.AbstractEventLoop, asked: asyncio.Future[T | None]) -> None:
        answer, bug = None, None
        try:
            answer = self._ask()
        except OSError:
            pass
        except Exception as error:
            bug = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(_settle, asked, answer, bug)


def _settle(asked: asyncio.Future[T | None], answer: T | None, bug: Exception | None) -> None:
    if asked.cancelled():
        return
    if bug is None:
        asked.set_result(answer)
    else:
        asked.set_exception(bug)
