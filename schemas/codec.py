"""Bytes <-> messages, with a size limit and one error."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

# Twenty times our largest ordinary message; the broker's max_payload is above it.
MESSAGE_BYTES_MAX = 128 * 1024

T = TypeVar("T")

_encoder = msgspec.json.Encoder(decimal_format="number")


class MalformedEvent(ValueError):
    """Bytes that are no message of the expected kind: whoever sent them is at fault, a repetition does not help."""


def encode(message: msgspec.Struct) -> bytes:
    return _encoder.encode(message)


class Decoder(Generic[T]):
    """Decodes one stream's messages; built once, used for each message.

    kind: a struct, or a union of tagged structs.
    """

    def __init__(self, kind: Any) -> None:
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)

    def __call__(self, data: bytes) -> T:
        """Raises MalformedEvent, which names the field at fault."""
        if len(data) > MESSAGE_BYTES_MAX:
            raise MalformedEvent(f"{len(data)} bytes, more than {MESSAGE_BYTES_MAX}")
        try:
            return self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedEvent(str(error)) from error
