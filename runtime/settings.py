"""Settings from the environment: read once, typed, injected. A wrong or misspelt variable is an error by its name.

What all processes share is read from `MINTLINE_<FIELD>`, what one service needs from `MINTLINE_<SERVICE>_<FIELD>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec

from schemas.subjects import MINT_PARTITIONS_MAX, PARTITIONS_DEFAULT, PARTITIONS_MAX

PREFIX = "MINTLINE_"
SERVICES = ("ingest", "analyze", "dispatch", "bots", "observer", "portal")

# 0 asks the system for a free port.
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]


class SettingsError(ValueError):
    """A setting that cannot be used; the text names the variable."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a service's own settings; each field has a default."""

    def check(self, common: Common) -> None:
        """What types cannot say. Raises SettingsError, which names the variable."""


class Common(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every process reads.

    nats_url: addresses of the broker, separated by commas.
    nats_credentials: a .creds file.
    nats_nkey: a file with the seed of an nkey.
    nats_user, nats_password: where the broker wants them.
    nats_ca: certificates of the authorities to trust, a PEM file; switches TLS on.
    nats_cert, nats_key: our own certificate and its key, PEM files, where the broker verifies clients.
    partitions: into how many parts users are divided; the same for all processes, and never changed afterwards.
    mint_partitions: into how many parts coins are divided for the analysis; the same for all processes.
    canary_interval_s: seconds between two canaries, messages that prove the line's way while no token comes; 0 for
        none. The same for all processes: ingest sends them, observer expects them.
    instance: tells several processes of one service apart.
    http_host: where `/livez`, `/readyz` and `/metrics` listen.
    http_port: their port; 0 takes a free one and logs it.
    log: json, text, or auto (text on a terminal).
    log_level: debug, info, warning or error.
    admin_allowed_ips: addresses and networks that may use the admin interface, separated by commas.
    data_dir: where a process keeps its files.
    trace_slow_s: where tracing is on (OTEL_… variables), a token that takes longer is traced whatever the sampler says.
    demo: whether market and money are simulated (set by `mintline up --demo`).
    """

    nats_url: str = "nats://127.0.0.1:4222"
    nats_credentials: str = ""
    nats_nkey: str = ""
    nats_user: str = ""
    nats_password: str = ""
    nats_ca: str = ""
    nats_cert: str = ""
    nats_key: str = ""
    partitions: Annotated[int, msgspec.Meta(ge=1, le=PARTITIONS_MAX)] = PARTITIONS_DEFAULT
    mint_partitions: Annotated[int, msgspec.Meta(ge=1, le=MINT_PARTITIONS_MAX)] = 1
    canary_interval_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 10.0
    instance: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,32}$")] = "0"
    http_host: str = "127.0.0.1"
    http_port: Port = 0
    log: Annotated[str, msgspec.Meta(pattern="^(auto|json|text)$")] = "auto"
    log_level: Annotated[str, msgspec.Meta(pattern="^(debug|info|warning|error)$")] = "info"
    admin_allowed_ips: str = "127.0.0.0/8,::1"
    data_dir: str = "data"
    trace_slow_s: Seconds = 2.0
    demo: bool = False


S = TypeVar("S", bound=Settings)


def load(kind: type[S], prefix: str, environ: Mapping[str, str], *, but_not: tuple[str, ...] = ()) -> S:
    """Read every variable that starts with `prefix` into `kind`.

    but_not: longer prefixes that belong to somebody else. Raises SettingsError, which names the variable.
    """
    names = {prefix + field.upper(): field for field in kind.__struct_fields__}
    given = {
        variable: text
        for variable, text in environ.items()
        if variable.startswith(prefix) and not variable.startswith(but_not or ("\x00",))
    }
    for variable in given:
        if variable not in names:
            raise SettingsError(f"{variable}: unknown setting; known: {', '.join(sorted(names))}")
    values = {}
    types = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for variable, text in given.items():
        field = names[variable]
        try:
            values[field] = msgspec.convert(text, types[field], strict=False)
        except msgspec.ValidationError as error:
            shown = "" if _is_secret(field) else f" (it is {text!r})"
            raise SettingsError(f"{variable}: {error}{shown}") from None
    return kind(**values)


def load_common(environ: Mapping[str, str]) -> Common:
    return load(Common, PREFIX, environ, but_not=tuple(f"{PREFIX}{service.upper()}_" for service in SERVICES))


def load_service(kind: type[S], service: str, environ: Mapping[str, str]) -> S:
    return load(kind, f"{PREFIX}{service.upper()}_", environ)


def _is_secret(field: str) -> bool:
    return any(word in field for word in ("key", "token", "password", "secret", "nkey", "credentials", "url"))
