"""PumpPortal's side of the conversation: requests -> answers, word for word (domain 1.1 and 1.2); for the simulator."""

from __future__ import annotations

import msgspec

from ingest.market import Frame

CREATIONS = '{"message":"Successfully subscribed to token creation events."}'
MIGRATIONS = '{"message":"Subscribed to \'migration\' events."}'
KEYS = '{"message":"Successfully subscribed to keys."}'
UNSUBSCRIBED = '{"message":"Unsubscribed."}'
UNFUNDED = (
    "{\"message\":\"'subscribeTokenTrade' and 'subscribeAccountTrade' methods are only available when connecting "
    'with an API key funded with at least 0.02 SOL."}'
)
INVALID = (
    "{\"errors\":\"Invalid message. 'method' must be 'subscribeNewToken', 'subscribeTokenTrade', "
    "'subscribeAccountTrade', or 'subscribeMigration'.\"}"
)
BAD_KEY = '{"errors":"Invalid API key. PumpSwap data will not be streamed."}'


class _Request(msgspec.Struct):
    method: str
    keys: list[str] = []


class Conversation:
    """What one connection has asked for.

    key: of the address; "" for none. Of keys, "bad" is answered like an invalid one, "unfunded" like one without funds;
        any other is good.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.creations = False
        self.migrations = False
        self.mints: set[str] = set()

    def wants(self, frame: Frame) -> bool:
        """Whether a frame is for this connection."""
        if frame.is_trade:
            return frame.mint in self.mints
        return self.migrations if frame.is_migration else self.creations

    def greeting(self) -> str | None:
        """What the venue says first, if anything."""
        return BAD_KEY if self.key == "bad" else None

    def asked(self, data: str | bytes) -> str:
        """Take a request; the answer."""
        try:
            request = msgspec.json.decode(data, type=_Request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return INVALID
        match request.method:
            case "subscribeNewToken":
                self.creations = True
                return CREATIONS
            case "subscribeMigration":
                self.migrations = True
                return MIGRATIONS
            case "unsubscribeNewToken":
                self.creations = False
                return UNSUBSCRIBED
            case "subscribeTokenTrade" | "subscribeAccountTrade" if self.key in ("", "bad", "unfunded"):
                return UNFUNDED
            case "subscribeTokenTrade":
                self.mints.update(request.keys)
                return KEYS
            case "unsubscribeTokenTrade":
                self.mints.difference_update(request.keys)
                return UNSUBSCRIBED
            case "subscribeAccountTrade":  # nobody here follows wallets: accepted, nothing comes
                return KEYS
            case "unsubscribeAccountTrade":
                return UNSUBSCRIBED
            case _:
                return INVALID
