"""Where backups lie, as a folder and in a small S3 server on a real socket: whole or not at all, and found again."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from observer.backup import backups
from observer.backup import s3 as backup_s3
from observer.backup.backups import BackupSettings, store_of
from observer.backup.manifest import (
    MANIFEST,
    SUMS,
    VERIFICATION,
    File,
    Manifest,
    StreamPart,
    Verification,
    encode_manifest,
    name_at,
    seal,
    sums_text,
)  # fmt: skip
from observer.backup.s3 import S3Store
from observer.backup.store import BackupError, FolderStore, Store, look, look_all, only_one, write_synced
from runtime import telemetry, testing
from runtime.settings import Common, SettingsError
from runtime.wire import Out
from schemas.subjects import FILLS, stream_config

NOW = 1_763_690_400 * 10**9
BIG = b"snapshot" * 800_000  # more than one part of an upload
KEY, SECRET = "access", "secret-of-the-test"


class FakeS3(ThreadingHTTPServer):
    """What minio's client asks of an S3 server, and no more. refuse: keys that cannot be stored, by their end."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.refuse = ""
        self.order: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeS3

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self._answer(
            status,
            f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode(),
            Content_Type="application/xml",
        )

    def _asked(self) -> tuple[str, dict[str, list[str]], bytes] | None:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if f"Credential={KEY}/" not in self.headers.get("Authorization", ""):
            self._error(403, "AccessDenied")
        elif bucket != "bucket":
            self._error(404, "NoSuchBucket")
        elif body and self.headers["x-amz-content-sha256"] != hashlib.sha256(body).hexdigest():
            self._error(400, "XAmzContentSHA256Mismatch")
        else:
            return key, parse_qs(parts.query, keep_blank_values=True), body
        return None

    def do_PUT(self) -> None:
        asked = self._asked()
        if asked is None:
            return
        key, query, body = asked
        if self.server.refuse and key.endswith(self.server.refuse):
            self._error(507, "InsufficientStorage")
            return
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        if "uploadId" in query:
            self.server.uploads[query["uploadId"][0]][int(query["partNumber"][0])] = body
        else:
            self.server.objects[key] = body
            self.server.order.append(key)
        self._answer(200, ETag=etag)

    def do_POST(self) -> None:
        asked = self._asked()
        if asked is None:
            return
        key, query, _ = asked
        if "uploads" in query:
            self.server.uploads[key] = {}
            text = _xml("InitiateMultipartUploadResult", f"<UploadId>{key}</UploadId>", key)
        else:
            parts = self.server.uploads.pop(query["uploadId"][0])
            self.server.objects[key] = b"".join(parts[number] for number in sorted(parts))
            self.server.order.append(key)
            text = _xml("CompleteMultipartUploadResult", "<ETag>e</ETag>", key)
        self._answer(200, text.encode(), Content_Type="application/xml")

    def do_GET(self) -> None:
        asked = self._asked()
        if asked is None:
            return
        key, query, _ = asked
        if key:
            found = self.server.objects.get(key)
            if found is None:
                self._error(404, "NoSuchKey")
            else:
                etag = f'"{hashlib.md5(found).hexdigest()}"'
                self._answer(200, found, ETag=etag, Last_Modified="Fri, 21 Nov 2025 02:00:00 GMT")
            return
        prefix = query.get("prefix", [""])[0]
        rows = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(data)}</Size><ETag>e</ETag>"
            "<LastModified>2025-11-21T02:00:00.000Z</LastModified></Contents>"
            for name, data in sorted(self.server.objects.items())
            if name.startswith(prefix)
        )
        text = f"<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
        self._answer(200, text.encode(), Content_Type="application/xml")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        asked = self._asked()
        if asked is not None:
            self.server.objects.pop(asked[0], None)
            self.server.order.append(f"-{asked[0]}")
            self._answer(204)


def _xml(kind: str, inside: str, key: str) -> str:
    return f"<{kind}><Bucket>bucket</Bucket><Key>{key}</Key>{inside}</{kind}>"


@pytest.fixture
def s3() -> Iterator[FakeS3]:
    pytest.importorskip("minio", reason="the extra s3 is not installed")
    server = FakeS3()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def s3_store(s3: FakeS3, root: Path, **given: str) -> S3Store:
    options = {"endpoint": s3.endpoint, "region": "us-east-1", "access_key": KEY, "secret_key": SECRET, **given}
    return S3Store("s3://bucket/night/ly", root, **options)


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "backups")
    return s3_store(request.getfixturevalue("s3"), tmp_path / "here")


def stage(root: Path, at_ns: int = NOW, snapshot: bytes = BIG) -> tuple[Path, str]:
    """A folder with all files of a backup, as `backup_take` leaves it."""
    name = name_at(at_ns)
    staged = root / f".staged-{name}"
    staged.mkdir(parents=True)
    files = {"S.snapshot": snapshot, "S.digests": b"d" * 24}
    kept = [File(name=n, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for n, data in files.items()]
    part = StreamPart(
        name="S", config={"name": "S"}, state={"last_seq": 1, "bytes": 1}, snapshot=kept[0], digests=kept[1],
        messages=1, settled=1, read=1, fleeting=(), consumers=(),
    )  # fmt: skip
    files[MANIFEST] = encode_manifest(
        Manifest(name=name, started_at_ns=at_ns, finished_at_ns=at_ns + 1, server_version="2", streams_listed=1,
                 streams=(part,), exempt=())
    )  # fmt: skip
    files[SUMS] = sums_text({n: hashlib.sha256(data).hexdigest() for n, data in files.items()})
    for n, data in files.items():
        write_synced(staged / n, data)
    return staged, name


def verified(name: str) -> bytes:
    return seal(
        Verification(name=name, ok=True, at_ns=NOW, duration_ns=1, server_version="2", streams=1, messages=1,
                     unwitnessed=0, problems=())
    )  # fmt: skip


def test_what_is_kept_is_listed_read_fetched_and_removed(store: Store) -> None:
    store.root.mkdir()
    assert store.names() == []
    staged, name = stage(store.root)
    store.keep(staged, name)
    assert not staged.exists()
    assert store.names() == [name]
    assert not look(store, name).verified
    store.write(name, VERIFICATION, verified(name))
    kept = look_all(store)
    assert [one.name for one in kept] == [name]
    assert kept[0].verified
    with store.fetch(name) as folder:
        assert (folder / "S.snapshot").read_bytes() == BIG
        assert {path.name for path in folder.iterdir()} == {"S.snapshot", "S.digests", MANIFEST, SUMS, VERIFICATION}
    later, newer = stage(store.root, NOW + 10**9)
    store.keep(later, newer)
    assert store.names() == [name, newer]
    store.remove(name)
    assert store.names() == [newer]
    with pytest.raises(FileNotFoundError), store.fetch(name):
        pass
    with pytest.raises(FileNotFoundError):
        store.read(name, SUMS)
    assert [path.name for path in store.root.iterdir() if path.name.startswith(".fetched")] == []


@pytest.mark.parametrize("file", [MANIFEST, SUMS, VERIFICATION])
def test_a_flipped_byte_in_a_small_file_is_seen_by_looking(store: Store, file: str) -> None:
    store.root.mkdir()
    staged, name = stage(store.root, snapshot=b"small")
    store.keep(staged, name)
    store.write(name, VERIFICATION, verified(name))
    data = store.read(name, file)
    for at in (3, len(data) // 2, len(data) - 2):
        store.write(name, file, data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        kept = look(store, name)
        assert kept.problem, f"{file} at {at}"
        assert not kept.verified
    store.write(name, file, data)
    assert look(store, name).verified


def test_what_was_left_behind_is_no_backup_and_goes(store: Store) -> None:
    store.root.mkdir()
    staged, name = stage(store.root, snapshot=b"small")
    assert store.names() == []
    (store.root / ".drill-1").mkdir()
    (store.root / "notes.txt").write_text("somebody's")
    with only_one(store):
        assert not staged.exists()
        assert not (store.root / ".drill-1").exists()
    assert (store.root / "notes.txt").exists()
    assert name not in store.names()


def test_only_one_works_in_a_store(store: Store) -> None:
    with only_one(store), pytest.raises(BackupError, match="at work"), only_one(store):
        pass
    with only_one(store):
        pass


def test_a_folder_without_its_sums_is_damage(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    staged, name = stage(tmp_path, snapshot=b"small")
    store.keep(staged, name)
    (tmp_path / name / SUMS).unlink()
    assert "missing" in look(store, name).problem


# S3


def test_the_sums_are_put_last_and_removed_first(s3: FakeS3, tmp_path: Path) -> None:
    store = s3_store(s3, tmp_path)
    staged, name = stage(tmp_path, snapshot=b"small")
    store.keep(staged, name)
    assert s3.order[-1] == f"night/ly/{name}/{SUMS}"
    assert len(s3.order) == 4
    s3.order.clear()
    store.remove(name)
    assert s3.order[0] == f"-night/ly/{name}/{SUMS}"
    assert s3.objects == {}


def test_an_upload_that_broke_off_is_no_backup_and_goes_after_a_day(s3: FakeS3, tmp_path: Path) -> None:
    store = s3_store(s3, tmp_path)
    s3.refuse = SUMS
    staged, name = stage(tmp_path, telemetry.now_ns(), snapshot=b"small")
    with pytest.raises(OSError, match="InsufficientStorage"):
        store.keep(staged, name)
    old, old_name = stage(tmp_path, NOW, snapshot=b"small")
    with pytest.raises(OSError, match="InsufficientStorage"):
        store.keep(old, old_name)
    assert len(s3.objects) == 6
    assert store.names() == []
    with only_one(store):
        pass
    assert {re.split("/", key)[2] for key in s3.objects} == {name}


def test_a_wrong_login_is_an_error_in_one_sentence_without_the_secret(s3: FakeS3, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="AccessDenied") as caught:
        s3_store(s3, tmp_path, access_key="other").names()
    assert SECRET not in str(caught.value)


def test_a_server_that_is_not_there_is_an_error(s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_s3, "RETRIES_MAX", 0)
    with pytest.raises(OSError, match="s3://bucket/night/ly/"):
        s3_store(s3, tmp_path, endpoint="http://127.0.0.1:9").names()


async def test_a_backup_in_s3_is_proved_found_damaged_and_restored(
    broker: testing.Broker, s3: FakeS3, tmp_path: Path
) -> None:
    settings = BackupSettings(
        backup_url="s3://bucket/nightly", backup_s3_endpoint=s3.endpoint, backup_s3_access_key=KEY,
        backup_s3_secret_key=SECRET, backup_disk_reserve_bytes=0,
    )  # fmt: skip
    common = Common(nats_url=broker.url, data_dir=str(tmp_path / "data"))
    async with testing.bus(broker, declared=False) as bus:
        await bus.api("STREAM.CREATE.FILLS", stream_config(FILLS, 4))
        await bus.append([Out(f"fills.u{i}", b"%d" % i) for i in range(100)])
        manifest = await backups.backup(common, settings)
        assert {key.split("/")[1] for key in s3.objects} == {manifest.name}
        (kept,) = await backups.kept(common, settings)
        assert kept.verified
        await bus.api("STREAM.DELETE.FILLS")
        report = await backups.restore(common, settings)
        assert [(one.name, one.messages) for one in report.streams] == [("FILLS", 100)]
        key = f"nightly/{manifest.name}/FILLS.snapshot"
        s3.objects[key] = s3.objects[key][:-1] + b"?"
        found = await backups.verify(common, settings)
        assert found.problems == ("FILLS.snapshot is not what was written: its sha256 differs",)
        assert sorted(path.name for path in (tmp_path / "data" / "backups").iterdir()) == [".lock"]


# Settings


def test_backups_lie_in_the_data_directory_unless_told(tmp_path: Path) -> None:
    common = Common(data_dir=str(tmp_path))
    assert store_of(common, BackupSettings()).root == tmp_path / "backups"
    assert store_of(common, BackupSettings(backup_url="/elsewhere")).root == Path("/elsewhere")
    assert store_of(common, BackupSettings(backup_url="file:///elsewhere")).root == Path("/elsewhere")


def test_an_s3_url_is_an_s3_store(tmp_path: Path) -> None:
    pytest.importorskip("minio", reason="the extra s3 is not installed")
    store = store_of(Common(data_dir=str(tmp_path)), BackupSettings(backup_url="s3://bucket/nightly"))
    assert isinstance(store, S3Store)
    assert store.where == "s3://bucket/nightly/"


@pytest.mark.parametrize(
    "given",
    [{"backup_url": "ftp://x"}, {"backup_url": "s3://"}, {"backup_url": "s3://b", "backup_s3_endpoint": "host:9000"}],
)
def test_an_address_that_is_none_is_named(given: dict[str, str]) -> None:
    pytest.importorskip("minio", reason="the extra s3 is not installed")
    with pytest.raises(SettingsError, match="MINTLINE_OBSERVER_BACKUP_URL"):
        BackupSettings(**given).check(Common())  # type: ignore[arg-type]


def test_without_the_extra_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("observer.backup.backups.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="extra `s3`"):
        BackupSettings(backup_url="s3://bucket").check(Common())
