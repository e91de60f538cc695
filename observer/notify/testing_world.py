"""What tests of notifications share: a world of values around the outbox, in which time passes when it is told to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec

from observer.notify.alerts import Finding, Register
from observer.notify.escalation import Escalations
from observer.notify.flapping import Flaps, Rule
from observer.notify.line import Plan, Try
from observer.notify.outbox import Outbox
from observer.notify.outcomes import Result, Sent, Unknown
from observer.notify.pacing import CHAT, GROUP
from observer.times import SECOND_NS
from schemas.alerts import FINAL, Alert, Delivery, Happening, Level, Mute

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
        self.escalations = Escalations(self.plans)
        for sequence, (alert, _) in enumerate(self.stream, 1):
            self._fold(sequence, alert)
        super().start()

    def put(self, alert: Alert) -> None:
        super().put(alert)
        self._fold(len(self.stream), alert)

    def _fold(self, sequence: int, alert: Alert) -> None:
        self.register.fold(sequence, alert)
        self.flaps.fold(sequence, alert)
        self.escalations.fold(sequence, alert, self.flaps)

    def found(self, *findings: Finding) -> None:
        for alert in self.register.observe(findings, self.now_ns):
            self.put(alert)

    def passes(self, seconds: int) -> None:
        """Second by second: what is due is told, and the channels send."""
        for _ in range(seconds):
            self.now_ns += SECOND_NS
            alerts, flaps = self.register.open, self.flaps
            due = (*flaps.due(alerts, self.now_ns), *self.escalations.due(alerts, flaps, self.now_ns))
            told = [word for word in due if not self.outbox.muted(word, self.now_ns)]
            for alert in (*self.register.remind(self.now_ns), *told):
                self.put(alert)
            for plan in self.plans:
                self.step(plan.channel, sent)
