"""What Telegram is sent and what its answers mean."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from observer.notify import telegram
from observer.notify.outcomes import BadToken, Failed, Gone, Moved, Refused, Sent, Slow, TooLong, Unparsable
from schemas.alerts import Alert, Delivery, Happening, Level

ALERT = Alert(
    id="i", fingerprint="f", name="Feed", level=Level.INFO, state=Happening.FIRING, source="observer", summary="A & B",
    text=("x" * 99 + "\n") * 90, started_at_ns=0, at_ns=0,
)  # fmt: skip
DELIVERY = Delivery(
    id="1.c", sequence=1, channel="c", alert_id="i", fingerprint="f", name="Feed", level=Level.INFO,
    state=Happening.FIRING, summary="A & B", queued_at_ns=0,
)  # fmt: skip


def said(status: int, description: str, **parameters: float) -> tuple[int, bytes]:
    answer = {"ok": False, "error_code": status, "description": description, "parameters": parameters}
    return status, json.dumps(answer).encode()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((200, b'{"ok": true, "result": {"message_id": 7, "text": "x"}}'), Sent),
        (said(429, "Too Many Requests: retry after 3", retry_after=3), Slow),
        (said(400, "Bad Request: can't parse entities: Unclosed start tag"), Unparsable),
        (said(400, "Bad Request: message is too long"), TooLong),
        (said(400, "Bad Request: group chat was upgraded to a supergroup chat", migrate_to_chat_id=-100123), Moved),
        (said(400, "Bad Request: chat not found"), Gone),
        (said(400, "Bad Request: message text is empty"), Refused),
        (said(401, "Unauthorized"), BadToken),
        (said(404, "Not Found"), BadToken),
        (said(403, "Forbidden: bot was blocked by the user"), Gone),
        (said(403, "Forbidden: user is deactivated"), Gone),
        (said(403, "Forbidden: bot was kicked from the supergroup chat"), Gone),
        (said(500, "Internal Server Error"), Failed),
        ((502, b"<html>Bad Gateway</html>"), Failed),
        ((200, b"not json"), Failed),
        ((200, b'{"ok": false}'), Failed),
        ((413, b""), Refused),
    ],
)
def test_every_answer_has_one_meaning(answer: tuple[int, bytes], kind: type) -> None:
    assert type(telegram.judge(*answer, last=True)) is kind


def test_what_an_answer_carries_is_kept() -> None:
    assert telegram.judge(*said(429, "Too Many", retry_after=3), last=True) == Slow(3, "429 Too Many")
    assert telegram.judge(429, b"", last=True)[0] == telegram.RETRY_AFTER_S_DEFAULT
    moved = telegram.judge(*said(400, "upgraded", migrate_to_chat_id=-100123), last=True)
    assert moved == Moved("-100123", "400 upgraded")


def sent(chat: str = "-5", reply_to: int = 0, **changes: Any) -> tuple[dict[str, Any], bool]:
    body, last = telegram.body(chat, ALERT, msgspec.structs.replace(DELIVERY, **changes), reply_to)
    return json.loads(body), last


def test_the_first_part_is_html_without_noise_or_previews() -> None:
    request, last = sent()
    assert not last
    assert request["chat_id"] == -5
    assert request["text"].startswith("1/3\n🔵 INFO <b>A &amp; B</b>\n")
    assert (request["parse_mode"], request["disable_notification"]) == ("HTML", True)
    assert request["link_preview_options"] == {"is_disabled": True}
    assert "reply_parameters" not in request


def test_the_last_part_knows_that_it_is_and_a_name_stays_a_name() -> None:
    request, last = sent("@ops", parts_sent=2, repeat=True, plain=True, reply_to=9)
    assert last
    assert request["text"].startswith("possible repeat\n3/3\n")
    assert request["chat_id"] == "@ops"
    assert "parse_mode" not in request
    assert request["reply_parameters"] == {"message_id": 9, "allow_sending_without_reply": True}


def test_parts_are_halved_when_they_were_too_long() -> None:
    assert len(sent(shrunk=1)[0]["text"]) < 2048 + 100
