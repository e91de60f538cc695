"""A broker of somebody else's: TLS 1.3, nkeys, passwords, .creds files; and what is said when one does not fit."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ingest.market import Market
from ingest.simulator import serve
from runtime.bus import Bus
from runtime.declare import declare
from runtime.embedded import broker_config
from runtime.settings import Common
from runtime.testing import Broker, Service, eventually

nkeys = pytest.importorskip("nkeys", reason="the nkeys library is not installed")

EXIT_S_MAX = 5.0
PARTITIONS = 2
PASSWORD = "pa55-word"  # what a log must not show

Make = Callable[..., Service]
NewLine = Callable[..., Any]  # the fixture's
Environ = dict[str, str]


class Secured(Broker):
    """The repository's configuration, with other access to it."""

    def __init__(self, data_dir: Path, access: str) -> None:
        super().__init__(data_dir, data_dir.parent / "broker.conf")
        self.allow(access)

    def allow(self, access: str) -> None:
        """Other access from the next start or reload on."""
        base = broker_config().read_text().replace("authorization { timeout: 3 }", "")
        self.config.write_text(f"{base}\n{access}\n")

    def reload(self, access: str) -> None:
        self.allow(access)
        self.signal(signal.SIGHUP)

    def refusals(self) -> int:
        """Connections that did not get through login or handshake."""
        return sum("authentication error" in line or "TLS handshake error" in line for line in self.log().splitlines())


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Callable[[str], Secured]]:
    made: list[Secured] = []

    def start(access: str) -> Secured:
        made.append(Secured(tmp_path / "broker", access))
        made[-1].start()
        return made[-1]

    yield start
    for broker in made:
        broker.kill()


# Keys and certificates


class Key:
    """A new nkey. kind: U user, A account, O operator."""

    def __init__(self, kind: str) -> None:
        prefix = {"U": nkeys.PREFIX_BYTE_USER, "A": nkeys.PREFIX_BYTE_ACCOUNT, "O": nkeys.PREFIX_BYTE_OPERATOR}[kind]
        self.seed = bytes(nkeys.encode_seed(os.urandom(32), prefix)).decode()
        self._pair = nkeys.from_seed(bytearray(self.seed.encode()))
        self.public: str = self._pair.public_key.decode()

    def issue(self, kind: str, to: Key, **claims: Any) -> str:
        """A JWT of NATS' decentralised authorization (version 2), signed by this key."""
        body = {
            "jti": to.public, "iat": int(time.time()), "iss": self.public, "sub": to.public, "name": kind,
            "nats": {**claims, "type": kind, "version": 2},
        }  # fmt: skip
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = ".".join(_base64(json.dumps(part).encode()) for part in (head, body))
        return f"{text}.{_base64(self._pair.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Authority:
    """Makes certificates with the openssl command."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self.ca = directory / "ca.pem"
        self._run("req", "-x509", *self._new("ca.key"), "-subj", "/CN=test authority", "-out", "ca.pem", "-days", "2",
                  "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip

    def certificate(self, name: str, addresses: str) -> tuple[Path, Path]:
        """A certificate and its key. addresses: as in subjectAltName."""
        (self._directory / "extensions").write_text(
            f"subjectAltName={addresses}\nextendedKeyUsage=serverAuth,clientAuth\nauthorityKeyIdentifier=keyid\n"
        )
        self._run("req", "-new", *self._new(f"{name}.key"), "-subj", f"/CN={name}", "-out", f"{name}.csr")
        self._run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                  "-days", "2", "-extfile", "extensions", "-out", f"{name}.pem")  # fmt: skip
        return self._directory / f"{name}.pem", self._directory / f"{name}.key"

    @staticmethod
    def _new(key: str) -> tuple[str, ...]:
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key)

    def _run(self, *arguments: str) -> None:
        command = ["openssl", *arguments]
        done = subprocess.run(command, cwd=self._directory, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl command to make certificates with")
    return Authority(tmp_path_factory.mktemp("authority") / "pki")


def tls(authority: Authority, *, addresses: str = "IP:127.0.0.1", more: str = "", version: str = "1.3") -> str:
    certificate, key = authority.certificate("server", addresses)
    return f'tls {{ cert_file: "{certificate}", key_file: "{key}", min_version: "{version}", timeout: 3, {more} }}'


def user_password(password: str = PASSWORD) -> str:
    return f'authorization {{ users: [ {{ user: "line", password: "{password}" }} ] }}'


def nkey_user(key: Key) -> str:
    return f"authorization {{ users: [ {{ nkey: {key.public} }} ] }}"


# Each way in: what the broker is told, and what our processes are told.


def _nkey_over_tls(authority: Authority, directory: Path) -> tuple[str, Environ]:
    key = Key("U")
    (directory / "line.nk").write_text(f"{key.seed}\n")
    environ = {"MINTLINE_NATS_NKEY": str(directory / "line.nk"), "MINTLINE_NATS_CA": str(authority.ca)}
    return f"{tls(authority)}\n{nkey_user(key)}", environ


def _client_certificate(authority: Authority, directory: Path) -> tuple[str, Environ]:
    certificate, key = authority.certificate("line", "DNS:line")
    environ = {
        "MINTLINE_NATS_CA": str(authority.ca),
        "MINTLINE_NATS_CERT": str(certificate),
        "MINTLINE_NATS_KEY": str(key),
    }
    return tls(authority, more=f'verify: true, ca_file: "{authority.ca}"'), environ


def _password(authority: Authority, directory: Path) -> tuple[str, Environ]:
    return user_password(), {"MINTLINE_NATS_USER": "line", "MINTLINE_NATS_PASSWORD": PASSWORD}


def _password_in_the_address(authority: Authority, directory: Path) -> tuple[str, Environ]:
    return user_password(), {"MINTLINE_NATS_URL": f"nats://line:{PASSWORD}@127.0.0.1:PORT"}


def _creds_file(authority: Authority, directory: Path) -> tuple[str, Environ]:
    operator, system, account, user = Key("O"), Key("A"), Key("A"), Key("U")
    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf", "streams", "consumer"), -1)
    room = {"mem_storage": 1 << 28, "disk_storage": 20 * 10**9}
    accounts = {
        system.public: operator.issue("account", system, limits={**limits, "wildcards": True}),
        account.public: operator.issue("account", account, limits={**limits, **room, "wildcards": True}),
    }
    access = (
        f"operator: {operator.issue('operator', operator, system_account=system.public)}\n"
        f"system_account: {system.public}\nresolver: MEMORY\nresolver_preload: {json.dumps(accounts)}"
    )
    login = account.issue("user", user, pub={}, sub={}, subs=-1, data=-1, payload=-1)
    path = directory / "line.creds"
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{login}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )
    return access, {"MINTLINE_NATS_CREDENTIALS": str(path)}


WAYS = [_nkey_over_tls, _client_certificate, _password, _password_in_the_address, _creds_file]


def common(environ: Environ) -> Common:
    """The same settings for a bus of our own."""
    given = {name.removeprefix("MINTLINE_").lower(): value for name, value in environ.items()}
    return Common(**{**given, "partitions": PARTITIONS})


def environ_of(broker: Broker, environ: Environ) -> Environ:
    given = {name: value.replace("PORT", str(broker.port)) for name, value in environ.items()}
    return {"MINTLINE_NATS_URL": broker.url, **given}


def complaints(service: Service, event: str = "broker_error") -> list[dict[str, Any]]:
    """What it says of the broker."""
    lines = [json.loads(line) for line in service.text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


@pytest.mark.parametrize("way", WAYS)
async def test_the_line_works_and_survives_a_restart_of_the_broker(
    way: Callable[[Authority, Path], tuple[str, Environ]],
    authority: Authority,
    secured: Callable[[str], Secured],
    new_line: NewLine,
    tmp_path: Path,
) -> None:
    access, given = way(authority, tmp_path)
    broker = secured(access)
    environ = environ_of(broker, given)
    bus = Bus(lambda event, **fields: None)
    await asyncio.wait_for(bus.open(common(environ), "test"), 10)
    try:
        await declare(bus, PARTITIONS)

        async def decided(more_than: int) -> bool:
            return bus.connected and (await bus.stream_info("DECISIONS"))["state"]["messages"] > more_than

        async with serve(Market(1), speed=100) as simulator:
            line = new_line(broker, partitions=PARTITIONS, **environ, MINTLINE_INGEST_FEED_URL=simulator.url)
            await line.start("ingest", "analyze")
            await eventually(lambda: decided(5), "decisions")
            before = (await bus.stream_info("DECISIONS"))["state"]["messages"]
            with broker.stopped():
                for name in line.services:
                    await line.ready(name, False)
            await eventually(lambda: decided(before + 5), "decisions after the restart")
            await line.ready("analyze")
    finally:
        await bus.close()
    assert not any(PASSWORD in made.text() for made in line.services.values())


# What is wrong


class Wrong:
    """What the broker and a process are told, and a piece of the sentence that the process says."""

    def __init__(self, access: str, environ: Environ, said: str) -> None:
        self.access, self.environ, self.said = access, environ, said


def _wrong(name: str, authority: Authority, directory: Path) -> Wrong:
    ca, password = {"MINTLINE_NATS_CA": str(authority.ca)}, {"MINTLINE_NATS_USER": "line"}
    stranger = directory / "stranger.nk"
    stranger.write_text(Key("U").seed)
    if name == "unknown nkey":
        return Wrong(nkey_user(Key("U")), {"MINTLINE_NATS_NKEY": str(stranger)}, "Authorization Violation")
    if name == "wrong password":
        environ = {**password, "MINTLINE_NATS_PASSWORD": f"{PASSWORD}-of-yesterday"}
        return Wrong(user_password(), environ, "Authorization Violation")
    if name == "no login":
        return Wrong(user_password(), {}, "Authorization Violation")
    if name == "another authority":
        other = Authority(directory / "other")
        return Wrong(tls(authority), {"MINTLINE_NATS_CA": str(other.ca)}, "CERTIFICATE_VERIFY_FAILED")
    if name == "no authority named":
        return Wrong(tls(authority), {}, "CERTIFICATE_VERIFY_FAILED")
    if name == "another host":
        return Wrong(tls(authority, addresses="DNS:broker.example"), ca, "IP address mismatch")
    if name == "no certificate of ours":
        return Wrong(tls(authority, more=f'verify: true, ca_file: "{authority.ca}"'), ca, "CERTIFICATE_REQUIRED")
    if name == "no TLS there":
        return Wrong(user_password(), {**ca, **password, "MINTLINE_NATS_PASSWORD": PASSWORD}, "TLS is wanted")
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("dispatch", "unknown nkey"),
        ("dispatch", "wrong password"),
        ("dispatch", "no login"),
        ("dispatch", "another authority"),
        ("dispatch", "no authority named"),
        ("dispatch", "another host"),
        ("dispatch", "no certificate of ours"),
        ("dispatch", "no TLS there"),
        ("ingest", "unknown nkey"),  # which does not wait for the broker
    ],
)
async def test_what_is_wrong_is_told_once_and_tried_again(
    kind: str, name: str, authority: Authority, secured: Callable[[str], Secured], new_line: NewLine, tmp_path: Path
) -> None:
    wrong = _wrong(name, authority, tmp_path)
    broker = secured(wrong.access)
    environ = environ_of(broker, wrong.environ)
    line = new_line(broker, partitions=PARTITIONS, **environ, MINTLINE_INGEST_FEED_URL="ws://127.0.0.1:9/none")
    started = line.launch(kind)
    await eventually(lambda: bool(complaints(started)), f"a word about it: {started.text()}")
    if name != "no TLS there":  # there we leave before anything is said
        await eventually(lambda: broker.refusals() > 1, "another attempt")
    (told,) = complaints(started)
    assert wrong.said in told["reason"]
    assert told["at"] == broker.url
    # Without a certificate of ours the handshake is over before the refusal, which a reset may overtake.
    assert len(complaints(started, "broker_unreachable")) <= (name == "no certificate of ours")
    assert (await line.get(kind, "readyz"))[0] == 503
    assert PASSWORD not in started.text()
    started.signal(signal.SIGTERM)
    assert started.wait(EXIT_S_MAX) == 0, started.text()


async def test_an_older_tls_is_refused(authority: Authority, service: Make) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.certificate("old", "IP:127.0.0.1"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"nats://127.0.0.1:{listening.getsockname()[1]}"

        def old() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(INFO % b"true")
                with pytest.raises(ssl.SSLError), context.wrap_socket(connection, server_side=True):
                    pass

        started = service("dispatch", MINTLINE_NATS_URL=url, MINTLINE_NATS_CA=str(authority.ca))
        started.start()
        await asyncio.to_thread(old)
        await eventually(lambda: bool(complaints(started)), f"a word about it: {started.text()}")
        assert "PROTOCOL_VERSION" in complaints(started)[0]["reason"]
        started.signal(signal.SIGTERM)
        assert started.wait(EXIT_S_MAX) == 0


INFO = b'INFO {"server_id":"x","version":"2.15.1","headers":true,"max_payload":1048576,"tls_required":%s}\r\n'


async def test_no_password_goes_to_a_broker_without_tls_when_tls_is_wanted(authority: Authority) -> None:
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO % b"false")
        heard.append(await reader.read())
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    told: list[str] = []
    bus = Bus(lambda event, **fields: told.append(event))
    url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    login = Common(nats_url=url, nats_user="line", nats_password=PASSWORD, nats_ca=str(authority.ca))
    opening = asyncio.create_task(bus.open(login, "test"))
    await eventually(lambda: bool(heard), "the first attempt")
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    await bus.close()
    server.close()
    await server.wait_closed()
    assert heard[0] == b""
    assert told == ["broker_error"]


@pytest.mark.parametrize("error", ["Authorization Violation", "User Authentication Expired", "maximum connections"])
async def test_an_error_that_the_broker_sends_ends_the_connection_and_not_the_client(error: str) -> None:
    """nats-py itself gives up here for good."""
    connections = 0

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        first = connections == 1
        writer.write(INFO % b"false")
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                if line.startswith(b"PING"):
                    writer.write(b"PONG\r\n")
                if line.startswith(b"SUB") and first:
                    writer.write(f"-ERR '{error}'\r\n".encode())
        writer.close()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    told: list[tuple[str, Any]] = []
    bus = Bus(lambda event, **fields: told.append((event, fields.get("reason"))))
    await bus.open(Common(nats_url=f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"), "test")
    await eventually(lambda: connections == 2 and bus.connected, "another connection")
    await bus.close()
    server.close()
    await server.wait_closed()
    assert [event for event, _ in told] == ["broker_error", "broker_lost", "broker_back"]
    assert error.lower() in told[0][1]


async def test_a_login_that_is_allowed_later_is_taken(
    secured: Callable[[str], Secured], new_line: NewLine, tmp_path: Path
) -> None:
    key = Key("U")
    (tmp_path / "line.nk").write_text(key.seed)
    broker = secured(nkey_user(Key("U")))
    line = new_line(broker, partitions=PARTITIONS, MINTLINE_NATS_NKEY=str(tmp_path / "line.nk"))
    started = line.launch("dispatch")
    await eventually(lambda: bool(complaints(started)), "the refusal")
    broker.reload(nkey_user(key))
    await line.ready("dispatch")

    broker.reload(nkey_user(Key("U")))  # taken away while connected
    await line.ready("dispatch", False)
    await eventually(lambda: len(complaints(started)) > 1, "a word about it")
    broker.reload(nkey_user(key))
    await line.ready("dispatch")
    started.signal(signal.SIGTERM)
    assert started.wait(EXIT_S_MAX) == 0
