"""What tests of notifications share: a Bot API on a real socket that answers as it is told to, a notifier at work."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from observer.notify.channels import NotifySettings
from observer.notify.clock import Clock
from observer.notify.figures import FIGURES
from observer.notify.notifier import Notifier
from runtime import web
from runtime.bus import Bus
from runtime.process import Process
from runtime.settings import Common
from runtime.telemetry import Logger
from runtime.testing import eventually

BOT = "1234567890:AAbotTokenOfTheTests"

Answer = tuple[int, dict[str, Any]]
Script = Callable[[dict[str, Any]], Awaitable[Answer | None]]


def refusal(status: int, description: str, **parameters: int) -> Answer:
    return status, {"ok": False, "error_code": status, "description": description, "parameters": parameters}


SLOW = refusal(429, "Too Many Requests: retry after 1", retry_after=1)
TOO_LONG = refusal(400, "Bad Request: message is too long")
UNPARSABLE = refusal(400, "Bad Request: can't parse entities: Unsupported start tag")
BLOCKED = refusal(403, "Forbidden: bot was blocked by the user")
BROKEN = refusal(500, "Internal Server Error")
BAD_TOKEN = refusal(401, "Unauthorized")


def moved(chat: int) -> Answer:
    return refusal(400, "Bad Request: group chat was upgraded to a supergroup chat", migrate_to_chat_id=chat)


class FakeTelegram:
    """`script` holds what the next requests get, in order; afterwards everything is delivered.

    away: what every request gets while it is set, whatever it asks; it is no part of the script.
    requests: every message that came. delivered: those that people would see, also when the answer never went out.
    deleted: chat and message of those that were taken away again.
    """

    def __init__(self) -> None:
        self.script: deque[Answer | Script] = deque()
        self.away: Answer | Script | None = None
        self.requests: list[dict[str, Any]] = []
        self.delivered: list[dict[str, Any]] = []
        self.deleted: list[tuple[Any, int]] = []
        self.url = ""
        self._released = asyncio.Event()

    @property
    def texts(self) -> list[str]:
        return [request["text"] for request in self.delivered]

    def deliver(self, request: dict[str, Any]) -> Answer:
        self.delivered.append(request)
        return 200, {"ok": True, "result": {"message_id": len(self.delivered)}}

    async def late(self, request: dict[str, Any]) -> Answer | None:
        """A step of the script: delivered, and the answer does not come in time."""
        self.deliver(request)
        await self._released.wait()
        return None

    async def hang(self, request: dict[str, Any]) -> Answer | None:
        """A step of the script: not delivered, and no answer."""
        await self._released.wait()
        return None

    async def _answer(self, raw: web.Request) -> web.Response:
        method = raw.path.removeprefix(f"/bot{BOT}/")
        if method not in ("sendMessage", "deleteMessage", "getMe"):
            return web.json(BAD_TOKEN[1], 401)
        if self.away is not None:
            return await _response(self.away, {})
        if method == "deleteMessage":
            unwanted: dict[str, Any] = msgspec.json.decode(await raw.body())
            self.deleted.append((unwanted["chat_id"], unwanted["message_id"]))
        if method != "sendMessage":
            return web.json({"ok": True, "result": True}, 200)
        request: dict[str, Any] = msgspec.json.decode(await raw.body())
        self.requests.append(request)
        step: Answer | Script = self.script.popleft() if self.script else self._as_usual
        return await _response(step, request)

    async def _as_usual(self, request: dict[str, Any]) -> Answer:
        return self.deliver(request)

    @contextlib.asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[FakeTelegram]:
        server = await web.serve([web.Route("POST", "/{rest:.*}", self._answer)], "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{server.port}"
        try:
            yield self
        finally:
            self._released.set()
            await server.close()


def settings(url: str, **changes: Any) -> NotifySettings:
    given = {
        "alert_hold_s": 0.0, "telegram_bot_token": BOT, "telegram_chats": "5", "telegram_url": url,
        "telegram_timeout_s": 0.5,
    }  # fmt: skip
    return NotifySettings(**{**given, **changes})


async def _response(step: Answer | Script, request: dict[str, Any]) -> web.Response:
    answer = step if isinstance(step, tuple) else await step(request)
    return web.Response(500) if answer is None else web.json(answer[1], answer[0])


class Running:
    """A notifier at work."""

    def __init__(self, notifier: Notifier, process: Process, log: io.StringIO) -> None:
        self.notifier, self.process, self.log = notifier, process, log

    def figure(self, name: str) -> int:
        return self.process.figures.get(name, 0)

    async def webhook(self, *alerts: dict[str, Any], token: str = "") -> tuple[int, bytes]:
        """By HTTP, as Alertmanager does it."""
        self.process.routes["POST", "/alerts"] = self.notifier.webhook
        server = await web.serve(self.process.health_routes(), "127.0.0.1", 0)
        try:
            body = json.dumps({"version": "4", "truncatedAlerts": 0, "alerts": alerts}).encode()
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return await web.send(f"http://127.0.0.1:{server.port}/alerts", body, headers, 10.0)
        finally:
            await server.close()


@contextlib.asynccontextmanager
async def running(bus: Bus, asked: NotifySettings, clock: Clock | None = None) -> AsyncIterator[Running]:
    out = io.StringIO()
    log = Logger("observer", "json", "debug", out)
    process = Process("observer", Common(), log, FIGURES)
    process.bus = bus
    notifier = Notifier(process, asked, clock=clock)
    task = asyncio.create_task(notifier.run())
    try:
        await eventually(lambda: notifier.following.is_set() or task.done(), "it follows the outbox")
        if task.done():
            await task
        yield Running(notifier, process, out)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert BOT not in out.getvalue(), "the bot's token is in the log"
