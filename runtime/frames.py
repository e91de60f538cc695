"""A snapshot's bytes in small frames.

nats-server writes snapshots as a stream of S2 (a superset of Snappy's framing format), a frame for each MiB. Restoring,
it unpacks a frame and stores its messages one by one before it takes the next bytes, and gives up when that takes it
more than 5 s; where it syncs each message, a few thousand of them may take as long. So its frames are unpacked here,
and become many small ones that are not packed.

A frame: its kind, its length in 3 bytes, and for data a checksum in 4 bytes; lengths and checksums are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Final

FRAME_BYTES_MAX: Final = 16 * 1024  # of data; some fifty messages of ours
BLOCK_BYTES_MAX: Final = 4 << 20  # of data in a frame, as the format has it

PACKED, PLAIN, SKIPPABLE, BEGIN = 0x00, 0x01, 0x80, 0xFF
MAGIC: Final = b"\xff\x06\x00\x00S2sTwO"

_CASTAGNOLI: Final = 0x82F63B78


class Malformed(ValueError):
    """Bytes that are no S2 stream."""


def small(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same stream, a frame at a time. chunks: the stream cut anywhere. Raises Malformed."""
    yield MAGIC
    for kind, body in _frames(chunks):
        if kind == PACKED:
            data = unpack(body[4:])
        elif kind == PLAIN:
            data = body[4:]
        elif kind >= SKIPPABLE:  # the beginning, padding, an index
            continue
        else:
            raise Malformed(f"a frame of the unknown kind {kind}")
        for at in range(0, len(data), FRAME_BYTES_MAX):
            yield plain(data[at : at + FRAME_BYTES_MAX])


def plain(data: bytes) -> bytes:
    """A frame that is not packed."""
    return bytes((PLAIN,)) + (len(data) + 4).to_bytes(3, "little") + checksum(data).to_bytes(4, "little") + data


def _frames(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    held = bytearray()
    for chunk in chunks:
        held += chunk
        at = 0
        while at + 4 <= len(held):
            end = at + 4 + int.from_bytes(held[at + 1 : at + 4], "little")
            if end > len(held):
                break
            yield held[at], bytes(held[at + 4 : end])
            at = end
        del held[:at]
    if held:
        raise Malformed("the last frame is cut short")


def unpack(block: bytes) -> bytes:
    """The data of a packed frame: literals, and copies of what came before. Raises Malformed."""
    try:
        return _unpacked(block)
    except IndexError:
        raise Malformed("a block is cut short") from None


def _unpacked(block: bytes) -> bytes:
    size, at = _number(block)
    out, offset, end = bytearray(), 0, len(block)
    while at < end:
        tag = block[at]
        kind, length = tag & 3, tag >> 2
        at += 1
        if kind == 0:
            more = max(0, length - 59)  # bytes that tell a longer literal's length
            if more:
                length = int.from_bytes(block[at : at + more], "little")
                at += more
            length += 1
            out += block[at : at + length]
            at += length
            continue
        if kind == 1:
            near = (tag & 0xE0) << 3 | block[at]
            at += 1
            length = length & 7
            if near:
                offset = near
            elif length > 4:  # the same offset again, and a longer length
                more = length - 4
                length = (0, 4, 1 << 8, 1 << 16)[more] + int.from_bytes(block[at : at + more], "little")
                at += more
            length += 4
        else:
            wide = 2 if kind == 2 else 4
            offset = int.from_bytes(block[at : at + wide], "little")
            at += wide
            length += 1
        begin = len(out) - offset
        if begin < 0 or not offset or len(out) + length > size:
            raise Malformed("a block copies what is not there")
        if length <= offset:
            out += out[begin : begin + length]
        else:  # it copies what it is writing
            out += (out[begin:] * (length // offset + 1))[:length]
    if at > end or len(out) != size:
        raise Malformed(f"a block has {len(out)} bytes, not {size}")
    return bytes(out)


def _number(block: bytes) -> tuple[int, int]:
    """The data's length, and where the block goes on."""
    size = shift = at = 0
    while True:
        byte = block[at]
        size |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
        if shift > 28:
            raise Malformed("a length has too many digits")
    if size > BLOCK_BYTES_MAX:
        raise Malformed(f"a block of {size} bytes")
    return size, at


def checksum(data: bytes) -> int:
    """CRC-32C, turned and shifted as the format wants it."""
    table, crc = _table(), 0xFFFFFFFF
    for word in struct.unpack_from(f"<{len(data) // 2}H", data):
        crc = table[(crc ^ word) & 0xFFFF] ^ crc >> 16
    if len(data) % 2:
        crc ^= data[-1]
        for _ in range(8):
            crc = crc >> 1 ^ _CASTAGNOLI * (crc & 1)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _table() -> list[int]:
    """What two bytes make of a checksum."""
    byte = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ _CASTAGNOLI * (crc & 1)
        byte.append(crc)
    return [byte[(low := byte[word & 0xFF] ^ word >> 8) & 0xFF] ^ low >> 8 for word in range(1 << 16)]
