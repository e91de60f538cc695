"""What tests of notifications share: a Bot API on a real socket, and a world of values around the outbox."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from observer.notify.alerts import Finding, Register
from observer.notify.flapping import Flaps, Rule
from observer.notify.outbox import Outbox, Plan, Try
from observer.notify.outcomes import Result, Sent, Unknown
from observer.notify.pacing import CHAT, GROUP
from observer.times import SECOND_NS
from runtime import web
from schemas.alerts import FINAL, Alert, Delivery, Happening, Level, Mute

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

    requests: every message that came. delivered: those that people would see, also when the answer never went out.
    deleted: chat and message of those that were taken away again.
    """

    def __init__(self) -> None:
        self.script: deque[Answer | Script] = deque()
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
        if raw.path == f"/bot{BOT}/deleteMessage":
            unwanted: dict[str, Any] = msgspec.json.decode(await raw.body())
            self.deleted.append((unwanted["chat_id"], unwanted["message_id"]))
            return web.json({"ok": True, "result": True})
        if raw.path != f"/bot{BOT}/sendMessage":
            return web.json(BAD_TOKEN[1], 401)
        request: dict[str, Any] = msgspec.json.decode(await raw.body())
        self.requests.append(request)
        step: Answer | Script = self.script.popleft() if self.script else self._as_usual
        answer = step if isinstance(step, tuple) else await step(request)
        return web.Response(500) if answer is None else web.json(answer[1], answer[0])

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


START_NS = 1_795_000_000 * SECOND_NS
THROTTLE_NS = 300 * SECOND_NS
ALL, URGENT_ONLY = (
    Plan("all", "telegram", Level.INFO, GROUP, "bot"),
    Plan("urgent", "telegram", Level.ERROR, CHAT, "bot"),
)


class World:
    """The stream, the bucket, and a process that can be killed at any point."""

    def __init__(self, *plans: Plan) -> None:
        self.plans = plans or (ALL, URGENT_ONLY)
        self.now_ns = START_NS
        self.stream: list[tuple[Alert, int]] = []
        self.bucket: dict[str, Delivery] = {}
        self.tries: list[Try] = []
        self.taken: Counter[tuple[str, int]] = Counter()  # of a delivery's part: how often the channel may have it
        self.mutes: list[Mute] = []
        self.start()

    def start(self) -> None:
        self.outbox = Outbox(THROTTLE_NS)
        for plan in self.plans:
            self.outbox.add(plan, 0)
        self.outbox.mutes = {mute.id: mute for mute in self.mutes}
        for record in self.bucket.values():
            self.outbox.restore(record)
        for sequence, (alert, at_ns) in enumerate(self.stream, 1):
            self.store(*self.outbox.accept(sequence, alert, at_ns))
        self.store(*self.outbox.restored(self.now_ns))
        for plan in self.plans:
            self.store(*self.outbox.resume(plan.channel, self.now_ns, 0.5))

    def store(self, *records: Delivery) -> None:
        for record in records:
            before = self.bucket.get(record.id)
            assert before is None or before.outcome not in FINAL, f"{before} is final, and became {record}"
            self.bucket[record.id] = msgspec.json.decode(msgspec.json.encode(record), type=Delivery)

    def tell(
        self,
        name: str,
        level: Level = Level.WARNING,
        state: Happening = Happening.FIRING,
        fingerprint: str = "",
        channel: str = "",
        flaps: int = 0,
    ) -> None:
        self.put(
            Alert(
                id=f"{len(self.stream)}", fingerprint=fingerprint or name, name=name, level=level, state=state,
                source="observer", summary=name, channel=channel, flaps=flaps, started_at_ns=0, at_ns=self.now_ns,
            )
        )  # fmt: skip

    def put(self, alert: Alert) -> None:
        self.stream.append((alert, self.now_ns))
        self.store(*self.outbox.accept(len(self.stream), alert, self.now_ns))

    def step(self, channel: str, result: Callable[[Try], Result] | None, dies: str = "") -> Try | None:
        """One turn of a channel's loop. dies: "sending" or "answered" kills it before the end is recorded."""
        digest = self.outbox.digest(channel, self.now_ns)
        if digest is not None:
            self.put(digest)
        self.store(*self.outbox.over(channel, self.now_ns))
        todo = self.outbox.begin(channel, self.now_ns)
        if todo is None or result is None:
            return todo
        assert self.bucket.get(todo.delivery.id, todo.delivery).outcome not in FINAL
        self.store(todo.delivery)
        if dies == "sending":
            self.start()
            return todo
        self.tries.append(todo)
        came = result(todo)
        if isinstance(came, Sent | Unknown):
            self.taken[todo.delivery.id, todo.delivery.parts_sent] += 1
        if dies == "answered":
            self.start()
            return todo
        self.store(self.outbox.settle(todo.delivery.id, channel, came, self.now_ns, 0.5))
        return todo

    def drain(self, result: Callable[[Try], Result] | None = None) -> None:
        """The channels work again, until there is nothing left to do."""
        for _ in range(10_000):
            times = [t for plan in self.plans if (t := self.outbox.when_ns(plan.channel)) is not None]
            if not times:
                return
            self.now_ns = max(self.now_ns, *times) if len(times) > 1 else max(self.now_ns, times[0])
            for plan in self.plans:
                self.step(plan.channel, result or sent)
        raise AssertionError("it does not end")

    def sent(self, channel: str) -> list[str]:
        return [f"{t.alert.name} {t.alert.state}" for t in self.tries if t.delivery.channel == channel]


def sent(_: Try) -> Result:
    return Sent(7, True)


class Watched(World):
    """A world in which findings come and go, and what lasts, or flaps, is told of as the notifier does it."""

    def __init__(self, rule: Rule, *plans: Plan) -> None:
        self.rule = rule
        super().__init__(*plans)

    def start(self) -> None:
        self.register, self.flaps = Register(0, self.rule.remind_ns), Flaps(self.rule)
        for sequence, (alert, _) in enumerate(self.stream, 1):
            self._fold(sequence, alert)
        super().start()

    def put(self, alert: Alert) -> None:
        super().put(alert)
        self._fold(len(self.stream), alert)

    def _fold(self, sequence: int, alert: Alert) -> None:
        self.register.fold(sequence, alert)
        self.flaps.fold(sequence, alert)

    def found(self, *findings: Finding) -> None:
        for alert in self.register.observe(findings, self.now_ns):
            self.put(alert)

    def passes(self, seconds: int) -> None:
        """Second by second: what is due is told, and the channels send."""
        for _ in range(seconds):
            self.now_ns += SECOND_NS
            for alert in (*self.register.remind(self.now_ns), *self.flaps.due(self.register.open, self.now_ns)):
                self.put(alert)
            for plan in self.plans:
                self.step(plan.channel, sent)
