"""Telegram's Bot API: an alert -> the body of a `sendMessage`, and what its answer means; pure."""

from __future__ import annotations

from typing import Any

import msgspec

from observer.notify import message
from observer.notify.outcomes import (
    BadToken,
    Failed,
    Gone,
    Moved,
    Refused,
    Result,
    Sent,
    Slow,
    TooLong,
    Unparsable,
)
from schemas.alerts import Alert, Delivery, Level

RETRY_AFTER_S_DEFAULT = 5
RETRY_AFTER_S_MAX = 3600
REASON_CHARS_MAX = 200

# Parts of descriptions that mean: nothing can be sent to this chat any more, whatever it is.
_GONE = (
    "chat not found",
    "peer_id_invalid",
    "group chat was deactivated",
    "have no rights to send",
    "not enough rights",
    "chat_write_forbidden",
    "user is deactivated",
)


class _Parameters(msgspec.Struct, frozen=True):
    retry_after: float = 0
    migrate_to_chat_id: int = 0


class _Message(msgspec.Struct, frozen=True):
    message_id: int = 0


class _Answer(msgspec.Struct, frozen=True):
    ok: bool = False
    result: _Message | None = None
    error_code: int = 0
    description: str = ""
    parameters: _Parameters = _Parameters()


_answer = msgspec.json.Decoder(_Answer)


def body(chat: str, alert: Alert, delivery: Delivery, reply_to: int) -> tuple[bytes, bool]:
    """The next part of a delivery, and whether it is the last one."""
    found = message.parts(message.compose(alert), delivery.shrunk)
    number = min(delivery.parts_sent, len(found) - 1)
    spans = message.headed(found[number], number, len(found), repeat=delivery.repeat)
    request: dict[str, Any] = {
        "chat_id": _chat_id(chat),
        "text": message.render_plain(spans) if delivery.plain else message.render_html(spans),
        "link_preview_options": {"is_disabled": True},
        "disable_notification": alert.level is Level.INFO,
    }
    if not delivery.plain:
        request["parse_mode"] = "HTML"
    if reply_to:
        request["reply_parameters"] = {"message_id": reply_to, "allow_sending_without_reply": True}
    return msgspec.json.encode(request), number == len(found) - 1


def deletion(chat: str, message_id: int) -> bytes:
    """The body of a `deleteMessage`."""
    return msgspec.json.encode({"chat_id": _chat_id(chat), "message_id": message_id})


def _chat_id(chat: str) -> int | str:
    return int(chat) if chat.lstrip("-").isdigit() else chat


def judge(status: int, answer_body: bytes, *, last: bool) -> Result:
    """What an answer asks of us. last: whether it was the delivery's last part."""
    try:
        answer = _answer.decode(answer_body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        answer = _Answer(error_code=status, description=f"HTTP {status}, and no answer of Telegram's")
    if status == 200 and answer.ok:
        return Sent(answer.result.message_id if answer.result is not None else 0, last)
    reason = f"{status} {answer.description}"[:REASON_CHARS_MAX]
    said = answer.description.lower()
    if status == 429:
        return Slow(min(answer.parameters.retry_after or RETRY_AFTER_S_DEFAULT, RETRY_AFTER_S_MAX), reason)
    if status in (401, 404):
        return BadToken(reason)
    if status == 403:
        return Gone(reason)
    if status == 400:
        return _judge_400(answer, said, reason)
    return Refused(reason) if 400 < status < 500 and status != 408 else Failed(reason)


def _judge_400(answer: _Answer, said: str, reason: str) -> Result:
    if answer.parameters.migrate_to_chat_id:
        return Moved(str(answer.parameters.migrate_to_chat_id), reason)
    if "can't parse entities" in said:
        return Unparsable(reason)
    if "message is too long" in said:
        return TooLong(reason)
    return Gone(reason) if any(words in said for words in _GONE) else Refused(reason)
