"""The intake against a real nats-server: every frame has one outcome, and what no parser takes is kept."""

from __future__ import annotations

import base64
from collections import Counter
from hashlib import blake2b
from pathlib import Path

import pytest

from ingest.intake import Intake
from ingest.testing import Sender, flushed, sender
from runtime.bus import Bus
from runtime.readers import read
from runtime.telemetry import Figures, Logger
from runtime.testing import Broker, Proxy
from schemas.codec import Decoder
from schemas.events import DeadLetter

_letter: Decoder[DeadLetter] = Decoder(DeadLetter)


def intake(one: Sender) -> Intake:
    return Intake(one.outbox.put, one.figures, Logger("ingest", "json", "error", Quiet()))  # type: ignore[arg-type]


class Quiet:
    def write(self, _: str) -> int:
        return 0

    def flush(self) -> None:
        return

    def isatty(self) -> bool:
        return False


def outcomes_of(figures: Figures) -> Counter[str]:
    names = ("event", "notice", "error", "dead")
    return Counter({name: figures[f"frames_total{{outcome={name}}}"] for name in names})


@pytest.mark.parametrize(
    ("frame", "kept", "encoding"),
    [
        (b"{not json", b"{not json", "utf-8"),
        (b'{"txType": "create"}', b'{"txType": "create"}', "utf-8"),
        (b"\xff\xfe\x00", b"\xff\xfe\x00", "base64"),
        (b'"' * 80_000, b'"' * 80_000, "base64"),
        (b"[" * 1_000_000, b"[" * 92_160, "base64"),  # as large as the socket takes
    ],
)
async def test_a_frame_that_no_parser_takes_is_kept_whole_in_dead(
    broker: Broker, bus: Bus, tmp_path: Path, frame: bytes, kept: bytes, encoding: str
) -> None:
    async with Proxy(broker) as proxy, sender(proxy.url, tmp_path / "spool") as one:
        proxy.cut_at(b"dead.FEED.ingest", forwarded=True)
        taking = intake(one)
        await taking.frame(frame, 1_750_000_000_000_000_000)
        await flushed(one)
        assert outcomes_of(one.figures) == Counter(dead=1)
        assert (one.figures["published_total"], one.figures["publish_refused_total"]) == (1, 0)
    (message,) = await read(bus, "DEAD", after_sequence=0)
    letter = _letter(message.data)
    assert (message.subject, letter.source, letter.encoding) == ("dead.FEED.ingest", "pumpportal", encoding)
    assert (letter.payload.encode() if encoding == "utf-8" else base64.b64decode(letter.payload)) == kept
    assert letter.reason
    assert letter.reason.startswith("the first") == (kept != frame) == (not letter.whole)
    assert message.headers["traceparent"] == letter.headers["traceparent"]
    assert blake2b(frame, digest_size=16).hexdigest() in letter.headers["traceparent"]


async def test_every_frame_has_exactly_one_outcome(broker: Broker, bus: Bus, tmp_path: Path) -> None:
    frames = [
        b'{"message": "Successfully subscribed to token creation events."}',
        b'{"errors": "Invalid message"}',
        b"nonsense",
    ]
    async with sender(broker.url, tmp_path / "spool") as one:
        taking = intake(one)
        for number, frame in enumerate(frames * 2):
            await taking.frame(frame, 1_750_000_000_000_000_000 + number)
        await flushed(one)
        assert outcomes_of(one.figures) == Counter(notice=2, error=2, dead=2)
    assert len(await read(bus, "DEAD", after_sequence=0)) == 2  # the same bytes at another time are another frame
