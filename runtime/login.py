"""How we log in at the broker and what we trust: files of the settings -> options of the connection."""

from __future__ import annotations

import ssl
from importlib import import_module
from pathlib import Path
from typing import Any

from runtime.settings import Common, SettingsError


def connection_options(settings: Common) -> dict[str, Any]:
    """Login and TLS as nats-py wants them. Raises SettingsError, which names the variable of a file at fault."""
    options: dict[str, Any] = {}
    if settings.nats_credentials:
        _read("NATS_CREDENTIALS", settings.nats_credentials, "-----BEGIN USER NKEY SEED-----")
        options["user_credentials"] = settings.nats_credentials
    if settings.nats_nkey:
        seed = _read("NATS_NKEY", settings.nats_nkey, "SU").strip()
        nkeys = import_module("nkeys")  # compiled and without types; loaded only where it is used

        try:
            nkeys.from_seed(bytearray(seed.encode())).wipe()
        except (nkeys.NkeysError, ValueError) as error:
            raise SettingsError(f"MINTLINE_NATS_NKEY: {settings.nats_nkey} holds no seed of a user's nkey") from error
        options["nkeys_seed_str"] = seed
    if settings.nats_user:
        options["user"], options["password"] = settings.nats_user, settings.nats_password
    if settings.nats_ca or settings.nats_cert or "tls://" in settings.nats_url:
        options["tls"] = _tls(settings)
    return options


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


def _read(name: str, path: str, wanted: str) -> str:
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"MINTLINE_{name}: {path}: {_why(error)}") from error
    if wanted not in text:
        raise SettingsError(f"MINTLINE_{name}: {path} holds no {wanted}")
    return text


def _why(error: Exception) -> str:
    """Of a file that cannot be used; ssl's own errors tell nothing to people."""
    text = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else ""
    return text or "no PEM file of the kind that is needed"


def shown(urls: str) -> str:
    """Addresses without the login that may be in them."""
    return ",".join(url.rpartition("@")[2] for url in urls.split(","))
