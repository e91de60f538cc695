"""Backups in a bucket that speaks S3: `s3://<bucket>/<prefix>`. Needs the extra `s3`, loaded when it is used.

There is no renaming in S3. SHA256SUMS is put last and removed first: a prefix without it is no backup.
Everything here blocks; minio's client retries by itself, within limits.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from observer.backup.manifest import SUMS, is_name, started_at_ns
from observer.backup.store import FETCHED, sweep_folder
from runtime import telemetry

CONNECT_S_MAX, READ_S_MAX = 10.0, 60.0
RETRIES_MAX = 3
PART_BYTES = 16 << 20
LEFT_OVER_NS = 86_400_000_000_000  # what is younger may be on its way from another machine


class S3Store:
    """root: a folder on this machine, for staging, drills and the lock.

    Raises ImportError where the extra is missing, ValueError for an address that is none.
    """

    def __init__(self, url: str, root: Path, *, endpoint: str, region: str, access_key: str, secret_key: str) -> None:
        minio, urllib3 = import_module("minio"), import_module("urllib3")
        self._errors: tuple[type[Exception], ...] = (minio.error.MinioException, urllib3.exceptions.HTTPError)
        self._no_such: type[Exception] = minio.error.S3Error
        bucket, at = urlsplit(url), urlsplit(endpoint)
        if not bucket.netloc or at.scheme not in ("http", "https") or not at.netloc:
            raise ValueError("s3://<bucket>/<prefix> and an endpoint http(s)://<host> are needed")
        self._bucket = bucket.netloc
        self._prefix = f"{bucket.path.strip('/')}/".lstrip("/")
        self._client: Any = minio.Minio(
            at.netloc,
            access_key=access_key,
            secret_key=secret_key,
            region=region,
            secure=at.scheme == "https",
            http_client=urllib3.PoolManager(
                timeout=urllib3.Timeout(connect=CONNECT_S_MAX, read=READ_S_MAX),
                retries=urllib3.Retry(total=RETRIES_MAX, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
            ),
        )
        self.root = root
        self.where = f"s3://{self._bucket}/{self._prefix}"

    def names(self) -> list[str]:
        return sorted(name for name, files in self._objects().items() if SUMS in files)

    def read(self, name: str, file: str) -> bytes:
        with self._translated(f"{name}/{file}"):
            response = self._client.get_object(self._bucket, self._key(name, file))
            try:
                return bytes(response.read())
            finally:
                response.close()
                response.release_conn()

    def write(self, name: str, file: str, data: bytes) -> None:
        with self._translated(f"{name}/{file}"):
            self._client.put_object(self._bucket, self._key(name, file), io.BytesIO(data), len(data))

    def keep(self, staged: Path, name: str) -> None:
        for path in sorted(staged.iterdir(), key=lambda path: (path.name == SUMS, path.name)):
            with self._translated(f"{name}/{path.name}"):
                self._client.fput_object(
                    self._bucket, self._key(name, path.name), str(path), part_size=PART_BYTES, num_parallel_uploads=1
                )
        shutil.rmtree(staged)

    @contextlib.contextmanager
    def fetch(self, name: str) -> Iterator[Path]:
        files = self._objects(name).get(name, [])
        if SUMS not in files:
            raise FileNotFoundError(f"there is no backup {name} in {self.where}")
        folder = self.root / f"{FETCHED}{name}"
        folder.mkdir()
        try:
            for file in files:
                with self._translated(f"{name}/{file}"):
                    self._client.fget_object(self._bucket, self._key(name, file), str(folder / file))
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self, name: str) -> None:
        files = self._objects(name).get(name, [])
        for file in sorted(files, key=lambda file: (file != SUMS, file)):
            with self._translated(f"{name}/{file}"):
                self._client.remove_object(self._bucket, self._key(name, file))

    def sweep(self) -> None:
        sweep_folder(self.root)
        for name, files in self._objects().items():
            if SUMS not in files and started_at_ns(name) < telemetry.now_ns() - LEFT_OVER_NS:
                self.remove(name)

    def _key(self, name: str, file: str) -> str:
        return f"{self._prefix}{name}/{file}"

    def _objects(self, name: str = "") -> dict[str, list[str]]:
        """Files by backup; of one of them, or of all."""
        found: dict[str, list[str]] = {}
        with self._translated(self.where):
            prefix = f"{self._prefix}{name}/" if name else self._prefix
            for one in self._client.list_objects(self._bucket, prefix=prefix, recursive=True):
                backup, _, file = one.object_name[len(self._prefix) :].partition("/")
                if is_name(backup) and file and "/" not in file:
                    found.setdefault(backup, []).append(file)
        return found

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """minio's errors as OSError."""
        try:
            yield
        except self._no_such as error:
            code = getattr(error, "code", "")
            if code in ("NoSuchKey", "NoSuchObject"):
                raise FileNotFoundError(f"{what} is not in {self.where}") from None
            raise OSError(f"{self.where}: {code}: {getattr(error, 'message', error)}") from None
        except self._errors as error:
            raise OSError(f"{self.where}: {type(error).__name__}: {error}") from None
