"""Empties the outbox: what ALERTS holds goes to its channels, and what became of it is on disk before and after.

    findings, webhook, reminders -> ALERTS -> outbox -> a channel
                                                    <-> the bucket `deliveries`

`run` reads back, then works. Nothing is told to ALERTS before that is done, since what is new is known only then.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from observer.notify import alertmanager
from observer.notify.alerts import CHANNEL_DISABLED, Finding, Register, mute_ended, notice
from observer.notify.answer import Question, listing
from observer.notify.canary import AlertPath
from observer.notify.channels import Channel, NotifySettings, channels
from observer.notify.clock import Clock
from observer.notify.escalation import Escalations, Standing
from observer.notify.flapping import Flaps, Rule
from observer.notify.line import Try
from observer.notify.outbox import Outbox
from observer.notify.outcomes import Gone, Moved
from observer.notify.records import RETRY_S, Records, again
from observer.times import SECOND_NS
from runtime import buckets, web
from runtime.bus import BusError, Unavailable
from runtime.process import Process
from runtime.readers import Follower, read
from runtime.wire import In
from schemas.alerts import Alert, ChannelState, Delivery, Level, Mute, alert_subject
from schemas.codec import Decoder, MalformedEvent, encode

TICK_S = 1.0
SLEEP_S_MAX = 30.0
STOP_S_MAX = 1.5  # within runtime.process.CLOSE_S_MAX: what is being sent may end

_alert: Decoder[Alert] = Decoder(Alert)
_channel_state: Decoder[ChannelState] = Decoder(ChannelState)
_mute: Decoder[Mute] = Decoder(Mute)
_question: Decoder[Question] = Decoder(Question)


class Notifier:
    def __init__(
        self,
        process: Process,
        settings: NotifySettings,
        found: Sequence[Channel] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._process, self._bus, self._figures, self._log = process, process.bus, process.figures, process.log
        self._settings = settings
        self._clock = clock or Clock()
        self._channels = {channel.plan.channel: channel for channel in (channels(settings) if found is None else found)}
        self._outbox = Outbox(int(settings.alert_throttle_s * SECOND_NS))
        self._register = Register(int(settings.alert_hold_s * SECOND_NS), int(settings.alert_remind_s * SECOND_NS))
        self._flaps = Flaps(_rule(settings))
        plans = [channel.plan for channel in self._channels.values()]
        self._escalations = Escalations(plans)
        self._states: dict[str, ChannelState] = {}
        self._revisions: dict[str, int] = {}  # of channels
        self._path = AlertPath(self._figures, self._channels)
        kinds = {name: channel.plan.kind for name, channel in self._channels.items()}
        self._records = Records(process, kinds, self._path.settled)
        self._findings: list[Finding] | None = None
        self._news = asyncio.Event()
        self._wakes = {name: asyncio.Event() for name in self._channels}
        self._telling = asyncio.Lock()  # from deciding that something is new to having it stored
        self.history = self._records.history
        self.following = asyncio.Event()  # everything that was stored has been read back

    # What comes in

    def found(self, findings: list[Finding]) -> None:
        """All that observer finds wrong now; at once, and in place of what it found before."""
        self._findings = findings
        self._news.set()

    async def tell(self, alert: Alert) -> None:
        """Store it in the outbox. Raises Unavailable, BusError."""
        await self._tell_new(lambda _: [alert])

    async def webhook(self, request: web.Request) -> web.Response:
        """Alertmanager's: 2xx only once everything new in it is stored."""
        wanted = f"Bearer {self._settings.alert_webhook_token}"
        given = request.headers.get("Authorization", "")
        if self._settings.alert_webhook_token and not hmac.compare_digest(given.encode(), wanted.encode()):
            return self._answer(401, "refused", "a bearer token is needed")
        try:
            heard = alertmanager.parse(await request.body())
        except MalformedEvent as error:
            self._log.warning("webhook_malformed", reason=str(error))
            return self._answer(400, "malformed", str(error))
        try:
            await self._tell_new(lambda at_ns: self._register.hear(heard.reports, at_ns))
            if heard.canary:
                await self._tell_new(lambda at_ns: self._path.arrived(self._outbox, at_ns))
            if heard.truncated:
                left_out = f"Alertmanager left out {heard.truncated} alerts of a group."
                await self.tell(notice("AlertsTruncated", Level.WARNING, left_out, "", self._clock.now_ns()))
        except (Unavailable, BusError) as error:
            return self._answer(503, "unavailable", str(error))
        return self._answer(200, "stored", "")

    def _answer(self, status: int, outcome: str, error: str) -> web.Response:
        self._figures.add("alert_webhooks_total", outcome=outcome)
        return web.json({"success": status == 200, **({"error": error} if error else {})}, status)

    async def _tell_new(self, decide: Callable[[int], Sequence[Alert]]) -> None:
        """Decide what is new, and store it. Raises Unavailable, BusError."""
        if not self.following.is_set():
            raise Unavailable("what was told before is still being read back")
        async with self._telling:
            for alert in decide(self._clock.now_ns()):
                sequence = await self._bus.publish(alert_subject(alert.level), encode(alert), message_id=alert.id)
                self._fold(sequence, alert)

    def _fold(self, sequence: int, alert: Alert) -> None:
        self._register.fold(sequence, alert)
        self._flaps.fold(sequence, alert)
        self._escalations.fold(sequence, alert, self._flaps)

    async def _tell_findings(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._news.wait()
            self._news.clear()
            try:
                await self._tell_new(self._due)
                for mute in [one for one in self._outbox.mutes.values() if one.until_at_ns <= self._clock.now_ns()]:
                    await self.tell(mute_ended(mute))
                    await buckets.delete(self._bus, "channels", f"mute.{mute.id}")
                    self._outbox.mutes.pop(mute.id, None)
            except (Unavailable, BusError) as error:
                self._log.warning("alert_not_stored", reason=str(error))
                await asyncio.sleep(RETRY_S)
                self._news.set()

    def _due(self, at_ns: int) -> list[Alert]:
        new = [] if self._findings is None else self._register.observe(self._findings, at_ns)
        alerts = self._register.open
        lasting = (*self._flaps.due(alerts, at_ns), *self._escalations.due(alerts, self._flaps, at_ns))
        told = (word for word in lasting if not self._outbox.muted(word, at_ns))  # they come when it is muted no more
        return [*new, *self._register.remind(at_ns), *told]

    async def answer(self, data: bytes) -> bytes | None:
        """What `mintline alerts list` shows."""
        try:
            asked = _question(data or b"{}")
        except MalformedEvent:
            return None
        alerts, at_ns = self._register.open.values(), self._clock.now_ns()
        return encode(listing(asked, alerts, self._standing, self._outbox, self.history, at_ns))

    def _standing(self, fingerprint: str) -> Standing:
        return self._escalations.standing(fingerprint, self._flaps)

    # Reading back

    async def run(self) -> None:
        """For as long as the process lives."""
        await self._bus.answer("observer.alerts", self.answer)
        remembered = buckets.follow(self._bus, "channels")
        stored = Follower(self._bus, "ALERTS", after_sequence=0)
        try:
            await self._remember(remembered)
            for message in await again(lambda: read(self._bus, "KV_deliveries", after_sequence=0)):
                record = self._records.restore(message)
                if record is not None:
                    self._outbox.restore(record)
            while not stored.caught_up:
                await self._accept(await stored.wait())
            await self._records.keep(self._outbox.restored(self._clock.now_ns()))
            for name in self._channels:
                for record in self._outbox.resume(name, self._clock.now_ns(), random.random()):
                    await self._end(record)
            self.following.set()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(stored))
                group.create_task(self._listen(remembered))
                group.create_task(self._tell_findings())
                group.create_task(self._measure())
                for channel in self._channels.values():
                    group.create_task(self._serve(channel))
        finally:
            await stored.close()
            await remembered.close()

    async def _remember(self, remembered: Follower) -> None:
        """What is known of channels; one that is new is told what comes from now on."""
        while not remembered.caught_up:
            for message in await remembered.wait():
                self._heed(message)
        for name, channel in self._channels.items():
            if name not in self._states:
                info = await again(lambda: self._bus.stream_info("ALERTS"))
                since = int(info["state"]["last_seq"])
                await self._know(ChannelState(channel=name, since_sequence=since, changed_at_ns=self._clock.now_ns()))
            state = self._states[name]
            channel.chat = state.chat or channel.chat
            self._outbox.add(channel.plan, state.since_sequence, state.disabled)

    def _heed(self, message: In) -> None:
        """A change in the bucket `channels`: ours or an operator's."""
        change = buckets.change(message)
        kind, _, name = change.key.partition(".")
        try:
            if kind == "mute" and change.data is None:
                self._outbox.mutes.pop(name, None)
            elif kind == "mute" and change.data is not None:
                self._outbox.mutes[name] = _mute(change.data)
            elif change.data is not None and change.revision > self._revisions.get(name, 0):
                self._states[name], self._revisions[name] = _channel_state(change.data), change.revision
                if self.following.is_set() and name in self._channels and not self._states[name].disabled:
                    self._outbox.enable(name)
        except MalformedEvent:
            self._log.warning("channel_malformed", channel=change.key)

    async def _follow(self, stored: Follower) -> None:
        while True:
            await self._accept(await stored.more())

    async def _listen(self, remembered: Follower) -> None:
        while True:
            for message in await remembered.more():
                self._heed(message)

    async def _accept(self, messages: Sequence[In]) -> None:
        for message in messages:
            try:
                alert = _alert(message.data)
            except MalformedEvent as error:
                self._log.warning("alert_malformed", sequence=message.sequence, reason=str(error))
                continue
            self._fold(message.sequence, alert)
            self._path.stored(alert, message.at_ns)
            await self._records.keep(self._outbox.accept(message.sequence, alert, message.at_ns))
        for wake in self._wakes.values():
            wake.set()

    # Sending

    async def _serve(self, channel: Channel) -> None:
        name = channel.plan.channel
        while True:
            self._wakes[name].clear()
            await self._digest(name)
            for record in self._outbox.over(name, self._clock.now_ns()):
                await self._end(record)
            if self._outbox.silent(name, self._clock.now_ns()):
                answers = await channel.answers()
                self._outbox.asked(name, answers, self._clock.now_ns(), random.random())
            todo = self._outbox.begin(name, self._clock.now_ns())
            if todo is None:
                due_ns = self._outbox.when_ns(name)
                wait_s = SLEEP_S_MAX if due_ns is None else max(0.0, (due_ns - self._clock.now_ns()) / SECOND_NS)
                await self._clock.wait(self._wakes[name], min(SLEEP_S_MAX, wait_s + 0.001))
            elif await self._records.store(todo.delivery):
                await _to_the_end(self._try(channel, todo))
            else:
                self._outbox.leave(todo.delivery)

    async def _digest(self, name: str) -> None:
        digest = self._outbox.digest(name, self._clock.now_ns())
        if digest is None:
            return
        try:
            await self._bus.publish(alert_subject(digest.level), encode(digest), message_id=digest.id)
        except (Unavailable, BusError) as error:
            self._log.warning("alert_not_stored", reason=str(error))
            self._outbox.digest_failed(name)
            await asyncio.sleep(RETRY_S)

    async def _try(self, channel: Channel, todo: Try) -> None:
        name = channel.plan.channel
        result = await channel.send(todo)
        self._figures.add("notification_tries_total", channel=channel.plan.kind, result=type(result).__name__.lower())
        if isinstance(result, Moved):
            channel.chat = result.chat
            await self._learn(name, chat=result.chat)
        elif isinstance(result, Gone):
            await self._learn(name, disabled=result.reason)
            self._log.error("channel_disabled", channel=name, reason=result.reason)
        record = self._outbox.settle(todo.delivery.id, name, result, self._clock.now_ns(), random.random())
        if await self._end(record):
            self._records.delivered(record, todo.alert.at_ns)
        if isinstance(result, Gone):
            said = f"Notifications to {name} end: {result.reason}"
            with contextlib.suppress(Unavailable, BusError):
                await self.tell(notice(f"{CHANNEL_DISABLED}{name}", Level.ERROR, said, "", self._clock.now_ns()))

    async def _learn(self, name: str, *, chat: str = "", disabled: str = "") -> None:
        known = self._states[name]
        await self._know(
            ChannelState(
                channel=name,
                since_sequence=known.since_sequence,
                chat=chat or known.chat,
                disabled=disabled,
                changed_at_ns=self._clock.now_ns(),
            )
        )

    async def _know(self, state: ChannelState) -> None:
        self._states[state.channel] = state
        self._revisions[state.channel] = await again(
            lambda: buckets.put(self._bus, "channels", f"channel.{state.channel}", encode(state))
        )

    async def _end(self, record: Delivery) -> bool:
        """Store what a try came to; not if somebody else works on it."""
        stored = await self._records.store(record)
        if not stored:
            self._outbox.leave(record)
        return stored

    async def _measure(self) -> None:
        while True:
            waiting, held = self._outbox.waiting(), self._outbox.held()
            put = self._figures.put
            put("notifications_queued", len(waiting))
            put("notifications_held", len(held))
            put("notification_oldest_queued_at_ns", min((one.queued_at_ns for one in waiting), default=0))
            put("notification_channels_disabled", sum(map(bool, self._outbox.disabled().values())))
            levels = Counter(alert.level for alert in self._register.open.values())
            for level in Level:
                put("alerts_open", levels[level], level=level)
            await asyncio.sleep(TICK_S)


def _rule(settings: NotifySettings) -> Rule:
    return Rule(
        changes_min=settings.alert_flap_changes,
        window_ns=int(settings.alert_flap_window_s * SECOND_NS),
        calm_ns=int(settings.alert_calm_s * SECOND_NS),
        remind_ns=int(settings.alert_remind_s * SECOND_NS),
    )


async def _to_the_end(work: Awaitable[None]) -> None:
    """Await it; when cancelled, for a while longer, so that what was sent is recorded."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=STOP_S_MAX)
        task.cancel()
        raise
