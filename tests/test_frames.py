"""runtime/frames.py: whatever nats-server packs is unpacked byte for byte, and what comes of it it takes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observer.backup.backups import backup, restore
from observer.backup.testing import SETTINGS, common
from runtime import frames, snapshots
from runtime.bus import Bus
from runtime.frames import FRAME_BYTES_MAX, MAGIC, Malformed, checksum, plain, small, unpack
from runtime.readers import read
from runtime.testing import Broker
from runtime.wire import Out, chunks
from schemas.subjects import ANALYZE

# Blocks, by hand after the format: the data's length, then literals and copies.
BLOCKS = {
    "nothing": (b"\x00", b""),
    "a literal": (b"\x03\x08abc", b"abc"),
    "a literal of 61 bytes, its length in one byte": (b"\x3d\xf0\x3c" + b"x" * 61, b"x" * 61),
    "a literal of 300 bytes, its length in two": (b"\xac\x02\xf4\x2b\x01" + b"y" * 300, b"y" * 300),
    "a near copy": (b"\x08\x0cabcd\x01\x04", b"abcdabcd"),
    "a near copy of what it is writing": (b"\x0a\x00a\x15\x01", b"aaaaaaaaaa"),
    "a far copy": (b"\x06\x08abc\x0a\x03\x00", b"abcabc"),
    "a farther copy": (b"\x06\x08abc\x0b\x03\x00\x00\x00", b"abcabc"),
    "the same offset again": (b"\x0b\x08abc\x01\x03\x01\x00", b"abcabcabcab"),
    "again, 5 + 8 bytes": (b"\x14\x08abc\x01\x03\x15\x00\x05", b"abcabcabcabcabcabcab"),
    "again, 2 + 260 bytes": (b"\x8d\x02\x08abc\x01\x03\x19\x00\x02\x00", (b"abc" * 100)[:269]),
    "again, 1 + 65540 bytes": (b"\x8c\x80\x04\x08abc\x01\x03\x1d\x00\x01\x00\x00", (b"abc" * 30000)[:65548]),
}  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_what_was_packed(name: str) -> None:
    block, data = BLOCKS[name]
    assert unpack(block) == data


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_that_is_cut_short_is_refused(name: str) -> None:
    block, _ = BLOCKS[name]
    for end in range(len(block)):
        with pytest.raises(Malformed):
            unpack(block[:end])


@pytest.mark.parametrize(
    "block",
    [
        b"\x08\x0cabcd\x01\x05",  # a copy from before the beginning
        b"\x08\x0cabcd\x01\x00",  # the same offset again, and there was none
        b"\x07\x0cabcd\x01\x04",  # more than was announced
        b"\xff\xff\xff\x7f\x08abc",  # more than a block may have
        b"\xff\xff\xff\xff\xff\x01",
    ],
)
def test_a_block_that_makes_no_sense_is_refused(block: bytes) -> None:
    with pytest.raises(Malformed):
        unpack(block)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_give_no_more_than_they_announce(block: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert len(unpack(block)) <= frames.BLOCK_BYTES_MAX


def test_the_checksum_is_the_formats() -> None:
    crc = 0xE3069283  # CRC-32C of these digits, as its definition gives it
    assert checksum(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert checksum(b"") == 0xA282EAD8


@given(st.lists(st.binary(max_size=40_000), max_size=4), st.randoms(use_true_random=False))
def test_frames_are_small_and_hold_the_same_wherever_the_stream_was_cut(data: list[bytes], rng: Random) -> None:
    whole = MAGIC + b"\xfe\x02\x00\x00xx" + b"".join(plain(one) for one in data) + b"\x99\x01\x00\x00i"
    cuts = sorted(rng.randrange(len(whole) + 1) for _ in range(5))
    pieces = [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    first, *rest = small(pieces)
    assert first == MAGIC
    assert b"".join(frame[8:] for frame in rest) == b"".join(data)
    assert all(0 < len(frame) - 8 <= FRAME_BYTES_MAX and frame == plain(frame[8:]) for frame in rest)


@pytest.mark.parametrize("stream", [MAGIC + plain(b"abc")[:-1], MAGIC + b"\x00", MAGIC + b"\x02\x00\x00\x00"])
def test_a_stream_that_is_cut_short_or_of_another_kind_is_refused(stream: bytes) -> None:
    with pytest.raises(Malformed):
        list(small([stream]))


async def stored(bus: Bus) -> list[tuple[object, ...]]:
    messages = await read(bus, "TOKENS", after_sequence=0)
    return [(m.sequence, m.at_ns, m.subject, m.header_block, m.data) for m in messages]


async def test_what_nats_server_packed_it_takes_back_in_small_frames(bus: Bus) -> None:
    """The broker syncs each message."""
    rng = Random(7)
    texts = [
        b'{"mint":"M%d","at":%d,"x":"%s"}' % (i, i, rng.randbytes(rng.randrange(40)).hex().encode())
        for i in range(3000)
    ]
    for chunk in chunks(
        [Out(f"tokens.created.M{i}", text * 5, b"X-Number: %d\r\n" % i) for i, text in enumerate(texts)]
    ):
        await bus.append(chunk)
    before = await stored(bus)
    packed: list[bytes] = []
    snapshot = await snapshots.take(bus, "TOKENS", packed.append)
    blocks = [body for kind, body in frames._frames(packed) if kind == frames.PACKED]
    assert blocks
    for body in blocks:  # the server's own checksums
        assert checksum(unpack(body[4:])) == int.from_bytes(body[:4], "little")
    assert max(len(unpack(body[4:])) for body in blocks) > 10 * FRAME_BYTES_MAX
    await bus.api("STREAM.DELETE.TOKENS")
    sent = list(small(packed))
    await snapshots.restore(bus, "TOKENS", snapshot.config, snapshot.state, sent)
    assert await stored(bus) == before
    assert (await bus.consumer_info("TOKENS", ANALYZE.name))["name"] == ANALYZE.name


async def test_a_broker_that_may_sync_each_message_is_given_small_frames(
    broker: Broker, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for chunk in chunks([Out(f"tokens.created.M{i}", b"%d " % i * 200) for i in range(1000)]):
        await bus.append(chunk)
    here, given, request = common(broker, tmp_path), list[int](), Bus.request
    await backup(here, SETTINGS)

    async def noted(self: Bus, subject: str, data: bytes, within_s: float) -> bytes:
        if subject.startswith("$JS.SNAPSHOT.RESTORE.TOKENS."):
            given.append(len(data))
        return await request(self, subject, data, within_s)

    monkeypatch.setattr(Bus, "request", noted)
    await restore(here, SETTINGS, overwrite=True)
    assert 0 < max(given) <= len(plain(bytes(FRAME_BYTES_MAX)))
    small_ones = len(given)
    await restore(here, SETTINGS, into=tmp_path / "at-rest")
    assert len(given) - small_ones < small_ones / 2  # as they were packed
