"""Where notifications go: Telegram's chats natively, everything else through apprise."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from hashlib import blake2b
from typing import Annotated, Protocol

import msgspec

from observer.backup.backups import BackupSettings
from observer.notify import message, telegram
from observer.notify.line import Plan, Try
from observer.notify.outcomes import Failed, Moved, Refused, Result, Sent, Unknown
from observer.notify.pacing import CHAT, GROUP
from observer.times import SECOND_NS, parse_duration_s
from runtime import web
from runtime.settings import PREFIX, Common, Seconds, SettingsError
from schemas.alerts import Level

APPRISE_S_MAX = 30.0
CANARY = "canary"  # the channel of its chat
_CHAT = re.compile(r"(-?\d{1,20}|@[A-Za-z0-9_]{3,64})(?:=(critical|error|warning|info))?(?:\+(\w+))?\Z")
AFTER_S_MAX = 86_400


class NotifySettings(BackupSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    __doc__ = f"""{BackupSettings.__doc__}
    alert_hold_s: seconds that a finding must last before anybody is told; 0 tells at once.
    alert_remind_s: seconds after which an open alert is told again; critical and error four times as often.
    alert_throttle_s: seconds in which a chat hears once of warnings and infos of one name; a digest tells the rest.
    alert_flap_changes: changes (a beginning, another level, an end) within alert_flap_window_s after which an alert is
        told as flapping, and what is not urgent of it is held back.
    alert_flap_window_s: see alert_flap_changes.
    alert_calm_s: seconds without a change after which an alert flaps no more, and it is told how it stands.
    alert_webhook_token: what Alertmanager must send as `Authorization: Bearer …` to `/alerts`; empty lets everybody in.
    telegram_bot_token: of the bot that sends; empty for no Telegram.
    telegram_chats: ids or @names, separated by commas; `-100123=warning` sends that level and more urgent ones only,
        `42=critical+15m` only alerts that have lasted so long and that nobody has acknowledged.
    telegram_canary_chat: the id or @name of a chat that the canary alert goes to every few minutes, silently, the one
        before being deleted; without it the canary's way ends in the outbox.
    telegram_url: of the Bot API.
    telegram_timeout_s: seconds to wait for its answer.
    notify_urls: apprise addresses of other channels, separated by spaces (extra `notify`); `#level=warning` at the end
        as for chats, or `#level=critical+15m`.
    """

    alert_hold_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 10.0
    alert_remind_s: Seconds = 14_400.0
    alert_throttle_s: Seconds = 300.0
    alert_flap_changes: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 6
    alert_flap_window_s: Seconds = 1800.0
    alert_calm_s: Seconds = 900.0
    alert_webhook_token: str = ""
    telegram_bot_token: str = ""
    telegram_chats: str = ""
    telegram_canary_chat: str = ""
    telegram_url: str = "https://api.telegram.org"
    telegram_timeout_s: Seconds = 10.0
    notify_urls: str = ""

    def check(self, common: Common) -> None:
        super().check(common)
        channels(self)


class Channel(Protocol):
    """plan: what the outbox must know. chat: where it sends to; it may move.

    answers: whether anybody is there, found out without telling anybody anything.
    """

    plan: Plan
    chat: str

    async def send(self, todo: Try) -> Result: ...

    async def answers(self) -> bool: ...


class Telegram:
    """One chat."""

    def __init__(self, settings: NotifySettings, chat: str, level_min: Level, after_ns: int = 0) -> None:
        group = chat.startswith(("-", "@"))
        name = f"telegram_{re.sub(r'[^A-Za-z0-9_-]', '_', chat)}"
        self.plan = Plan(name, "telegram", level_min, GROUP if group else CHAT, "telegram", after_ns)
        self.chat = chat
        self._secret = settings.telegram_bot_token
        self._url = f"{settings.telegram_url.rstrip('/')}/bot{self._secret}"
        self._timeout_s = settings.telegram_timeout_s

    async def send(self, todo: Try) -> Result:
        body, last = telegram.body(self.chat, todo.alert, todo.delivery, todo.reply_to)
        try:
            answer = await self._call("sendMessage", body)
        except web.Unreached as error:
            return Failed(str(error))
        except web.Unanswered as error:
            return Unknown(str(error))
        result = telegram.judge(*answer, last=last)
        if isinstance(result, Moved) and result.chat == self.chat:
            return Refused(result.reason)
        if not isinstance(result, Sent) and self._secret in result.reason:  # an answer that repeats its question
            return result._replace(reason=result.reason.replace(self._secret, "(hidden)"))
        return result

    async def _call(self, method: str, body: bytes) -> tuple[int, bytes]:
        """Raises Unreached, Unanswered."""
        return await web.send(f"{self._url}/{method}", body, {"Content-Type": web.JSON}, self._timeout_s)

    async def answers(self) -> bool:
        """Whatever it says to its simplest question."""
        try:
            await self._call("getMe", b"")
        except OSError:
            return False
        return True


class CanaryChat(Telegram):
    """The chat that canaries go to (`canary.py`), and nothing else. It keeps the newest one only.

    newest: its message there; 0 where none is known.
    """

    def __init__(self, settings: NotifySettings, chat: str) -> None:
        super().__init__(settings, chat, Level.INFO)
        self.plan = self.plan._replace(channel=CANARY, kind=CANARY, canaries=True)
        self.newest = 0

    async def send(self, todo: Try) -> Result:
        result = await super().send(todo)
        if isinstance(result, Sent):
            before, self.newest = self.newest, result.message_id
            if before:
                with contextlib.suppress(web.Unreached, web.Unanswered):  # then it stays: no harm
                    await self._call("deleteMessage", telegram.deletion(self.chat, before))
        return result


class Apprise:
    """Anything that apprise knows. It says only whether it worked, so whatever failed is tried again."""

    def __init__(self, url: str, level_min: Level, after_ns: int = 0) -> None:
        name = f"apprise_{blake2b(url.encode(), digest_size=4).hexdigest()}"
        self.plan = Plan(name, "apprise", level_min, CHAT, name, after_ns)
        self.chat = ""
        self._url = url

    async def send(self, todo: Try) -> Result:
        text = message.render_plain(message.compose(todo.alert))
        text = f"possible repeat\n{text}" if todo.delivery.repeat else text
        try:
            async with asyncio.timeout(APPRISE_S_MAX):
                worked = await asyncio.to_thread(self._notify, text, todo.alert.level)
        except TimeoutError:
            return Unknown(f"no answer within {APPRISE_S_MAX:g} s")
        except Exception as error:  # a plug-in may raise anything, with its address in the text
            return Failed(f"apprise failed ({type(error).__name__})")
        return Sent(0, True) if worked else Failed("apprise could not deliver it")

    async def answers(self) -> bool:
        """Nobody can know."""
        return True

    def _notify(self, text: str, level: Level) -> bool:
        import apprise

        kinds = {Level.INFO: apprise.NotifyType.INFO, Level.WARNING: apprise.NotifyType.WARNING}
        notifier = apprise.Apprise()
        channel = apprise.Apprise.instantiate(self._url)
        if channel is None:
            return False
        if "overflow=" not in self._url:  # else a long text is cut off, or refused
            channel.overflow_mode = apprise.OverflowMode.SPLIT
        notifier.add(channel)
        kind = kinds.get(level, apprise.NotifyType.FAILURE)
        return bool(notifier.notify(body=text, title="", notify_type=kind, body_format=apprise.NotifyFormat.TEXT))


def channels(settings: NotifySettings) -> list[Channel]:
    """Raises SettingsError, which names the variable and shows no secret."""
    found: list[Channel] = []
    for text in filter(None, (part.strip() for part in settings.telegram_chats.split(","))):
        match = _CHAT.match(text)
        if match is None:
            raise SettingsError(f"{PREFIX}OBSERVER_TELEGRAM_CHATS: {text!r} is no chat id and no @name, with =level")
        after_ns = _after_ns(match[3] or "", f"{PREFIX}OBSERVER_TELEGRAM_CHATS")
        found.append(Telegram(settings, match[1], Level(match[2] or Level.INFO), after_ns))
    if settings.telegram_canary_chat:
        match = _CHAT.match(settings.telegram_canary_chat)
        if match is None or match[2] or match[3]:
            said = f"{settings.telegram_canary_chat!r} is no chat id and no @name"
            raise SettingsError(f"{PREFIX}OBSERVER_TELEGRAM_CANARY_CHAT: {said}")
        found.append(CanaryChat(settings, match[1]))
    if bool(found) != bool(settings.telegram_bot_token):
        missing = "TELEGRAM_BOT_TOKEN" if found else "TELEGRAM_CHATS"
        raise SettingsError(f"{PREFIX}OBSERVER_{missing}: is empty, and the other one of bot and chats is set")
    for url in settings.notify_urls.split():
        found.append(_apprise(url))
    if len({channel.plan.channel for channel in found}) != len(found):
        raise SettingsError(
            f"{PREFIX}OBSERVER_TELEGRAM_CHATS, {PREFIX}OBSERVER_NOTIFY_URLS: one channel is named twice"
        )
    told = [channel.plan for channel in found if not channel.plan.canaries]
    if told and all(plan.after_ns for plan in told):
        raise SettingsError(
            f"{PREFIX}OBSERVER_TELEGRAM_CHATS, {PREFIX}OBSERVER_NOTIFY_URLS: one channel at least must hear at once"
        )
    return found


def _apprise(url: str) -> Channel:
    variable = f"{PREFIX}OBSERVER_NOTIFY_URLS"
    try:
        import apprise
    except ImportError:
        raise SettingsError(f"{variable}: needs apprise, the extra `notify`") from None
    logging.getLogger("apprise").disabled = True  # it writes addresses, which hold secrets
    address, _, asked = url.partition("#level=")
    level, _, after = asked.partition("+")
    if level and level not in list(Level):
        raise SettingsError(f"{variable}: {level!r} is no level")
    if apprise.Apprise.instantiate(address) is None:
        raise SettingsError(f"{variable}: apprise does not know such an address (the {address.partition(':')[0]} one)")
    return Apprise(address, Level(level or Level.INFO), _after_ns(after, variable))


def _after_ns(text: str, variable: str) -> int:
    """What follows the +; 0 where there is none."""
    seconds = parse_duration_s(text) if text else 0
    if seconds is None or seconds > AFTER_S_MAX or (text and not seconds):
        raise SettingsError(f"{variable}: {text!r} is no time such as 15m or 2h, up to 24h")
    return seconds * SECOND_NS
