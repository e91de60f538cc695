"""How we log in at the broker and what we trust: files of the settings -> options of the connection."""

from __future__ import annotations

import ssl
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runtime.settings import Common, SettingsError

PORT_DEFAULT = 4222


def connection_options(settings: Common) -> dict[str, Any]:
    """Login and TLS as nats-py wants them. Raises SettingsError, which names the variable of a file at fault."""
    options: dict[str, Any] = {}
    if settings.nats_credentials:
        _check_credentials(settings.nats_credentials)
        options["user_credentials"] = settings.nats_credentials
    if settings.nats_nkey:
        options["nkeys_seed_str"] = seed = _read("NATS_NKEY", settings.nats_nkey).strip()
        if not _is_user_seed(seed):
            raise SettingsError(f"MINTLINE_NATS_NKEY: {settings.nats_nkey} holds no seed of a user's nkey (SU…)")
    if settings.nats_user:
        options["user"], options["password"] = settings.nats_user, settings.nats_password
    if settings.nats_ca or settings.nats_cert or "tls://" in settings.nats_url:
        options["tls"] = _tls(settings)
    return options


def _check_credentials(path: str) -> None:
    """nats-py reads the file when it connects, and for ever where the first part is missing."""
    login, _, seed = _read("NATS_CREDENTIALS", path).partition("-----BEGIN USER NKEY SEED-----")
    if "-----BEGIN NATS USER JWT-----" not in login or not _is_user_seed(seed.strip().partition("\n")[0].strip()):
        raise SettingsError(f"MINTLINE_NATS_CREDENTIALS: {path} does not hold a user's JWT and then its nkey's seed")


def _is_user_seed(seed: str) -> bool:
    nkeys = import_module("nkeys")  # compiled and without types; loaded only where it is used
    try:
        nkeys.from_seed(bytearray(seed.encode())).wipe()
    except (nkeys.NkeysError, ValueError):
        return False
    return seed.startswith("SU")


def _tls(settings: Common) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.nats_ca or None)
    except OSError as error:
        raise SettingsError(f"MINTLINE_NATS_CA: {settings.nats_ca}: {_why(error)}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if settings.nats_cert:
        try:
            context.load_cert_chain(settings.nats_cert, settings.nats_key or None)
        except OSError as error:
            names = "MINTLINE_NATS_CERT, MINTLINE_NATS_KEY"
            raise SettingsError(f"{names}: {settings.nats_cert}, {settings.nats_key}: {_why(error)}") from error
    return context


def _read(name: str, path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"MINTLINE_{name}: {path}: {_why(error)}") from error


def _why(error: Exception) -> str:
    """Of a file that cannot be used; ssl's own errors tell nothing to people."""
    text = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else ""
    return text or "not a file of the kind that is needed"


def shown(urls: str) -> str:
    """Addresses without the login that may be in them."""
    return ",".join(url.rpartition("@")[2] for url in urls.split(","))


def servers(settings: Common) -> list[tuple[str, int]]:
    """Host and port of each address. Raises SettingsError."""
    found = []
    for url in settings.nats_url.split(","):
        text = url.strip()
        try:
            parts = urlsplit(text if "://" in text else f"nats://{text}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host:
            raise SettingsError(f"MINTLINE_NATS_URL: {shown(text)!r} is no address such as nats://127.0.0.1:4222")
        found.append((host, port or PORT_DEFAULT))
    return found
