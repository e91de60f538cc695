"""What a backup is, on paper: its name, its manifest, its sums, its verification, how long it is kept; pure.

    <name>/                  20261121-020000-000, the UTC time at which it began
        <STREAM>.snapshot    what JetStream's snapshot API gave, byte for byte
        <STREAM>.digests     the reference for the drill (`backup_digest.py`)
        manifest.json        Manifest
        SHA256SUMS           of all the files above, as `sha256sum -c` reads it; written last: without it, no backup
        verification.json    what the last drill found; rewritten by each

**Consistent with itself.** A stage appends what it did, then acknowledges; so what is acknowledged lies in the streams
behind it. The floors of all consumers are noted first, then streams are taken from the end of the line to its
beginning, and a restoration sets the consumers back to the noted floors: nothing that counts as done lacks its outcome,
no outcome lacks its cause, and what was done in between is found by reading back, as after any crash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, TypeVar

import msgspec

from observer.backup.digest import Range
from schemas import subjects

FORMAT = 1
MANIFEST, SUMS, VERIFICATION = "manifest.json", "SHA256SUMS", "verification.json"
PROBLEMS_MAX = 20

_NAME = re.compile(r"\d{8}-\d{6}-\d{3}\Z")
_FILE = re.compile(r"[A-Za-z0-9_.-]{1,200}\Z")
_SUM = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_.-]{1,200})\Z")

# From the end of the line to its beginning. What is not named here (streams of others, too) comes first.
_LINE = tuple(
    stream.name
    for stream in (
        subjects.COUNTS,  # names lines of ADVISORIES
        subjects.ADVISORIES,
        subjects.FOLDS,  # names lines of FILLS
        subjects.FILLS,  # settle signals
        subjects.SIGNALS,  # come of decisions, and name revisions of `bots`
        subjects.DECISIONS,
        subjects.TOKENS,
        subjects.BOTS,
        subjects.SESSIONS,  # of accounts
        subjects.ACCOUNTS,
    )
)

T = TypeVar("T")


class Damaged(ValueError):
    """A file of a backup is not what was written; the text says which, and how."""


class File(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    bytes: int
    sha256: str


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """A durable consumer. floor: the stream's sequence up to which all was acknowledged when the backup began, and to
    which a restoration sets it back; floor_after: the same after its stream's snapshot."""

    name: str
    floor: int
    floor_after: int


class StreamPart(msgspec.Struct, frozen=True, kw_only=True):
    """One stream. config, state: as JetStream gave them when the snapshot began. began: its life (runtime/lives.py);
    "" in backups of former versions.

    messages: read for the reference. settled, read, fleeting: see backup_digest.Comparison.
    """

    name: str
    config: dict[str, Any]
    state: dict[str, Any]
    snapshot: File
    digests: File
    messages: int
    settled: int
    read: int
    fleeting: tuple[Range, ...]
    consumers: tuple[Floor, ...]
    began: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """streams_listed: all that the broker had; exempt: those of them in memory, which have no snapshots."""

    format: int = FORMAT
    name: str
    started_at_ns: int
    finished_at_ns: int
    server_version: str
    streams_listed: int
    streams: tuple[StreamPart, ...]
    exempt: tuple[str, ...]

    @property
    def files(self) -> list[File]:
        return [file for part in self.streams for file in (part.snapshot, part.digests)]

    @property
    def size_bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def messages(self) -> int:
        return sum(part.messages for part in self.streams)


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What a drill found. server_version: of the scratch server. messages: compared one by one. unwitnessed: restored,
    and stored and deleted while the backup ran, so that there was nothing to compare them with."""

    name: str
    ok: bool
    at_ns: int
    duration_ns: int
    server_version: str
    streams: int
    messages: int
    unwitnessed: int
    problems: tuple[str, ...]


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A backup as a list shows it. manifest: None where it cannot be read; verification: None where no drill was.

    problem: why it cannot be trusted, "" for none known.
    """

    name: str
    manifest: Manifest | None
    verification: Verification | None
    problem: str = ""

    @property
    def verified(self) -> bool:
        return not self.problem and self.verification is not None and self.verification.ok


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What the backups that are there say, and nothing else. Times are 0 where there is none; the figures are the
    newest backup's. damaged: names of backups that cannot be read, or whose last drill failed."""

    kept: int = 0
    last_success_at_ns: int = 0
    last_verified_at_ns: int = 0
    size_bytes: int = 0
    duration_ns: int = 0
    streams: int = 0
    streams_listed: int = 0
    streams_exempt: int = 0
    damaged: tuple[str, ...] = ()


def name_at(now_ns: int) -> str:
    at = datetime.fromtimestamp(now_ns // 1_000_000_000, UTC)
    return f"{at:%Y%m%d-%H%M%S}-{now_ns // 1_000_000 % 1000:03d}"


def is_name(text: str) -> bool:
    return bool(_NAME.match(text))


def started_at_ns(name: str) -> int:
    """When a backup began, by its name: also where its manifest cannot be read."""
    at = datetime.strptime(name[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
    return int(at.timestamp()) * 1_000_000_000 + int(name[16:]) * 1_000_000


def file_of(stream: str, kind: str) -> str:
    """Raises ValueError for a stream whose name cannot be a file's."""
    name = f"{stream}.{kind}"
    if not _FILE.match(name) or name.startswith("."):
        raise ValueError(f"stream {stream!r} has a name that no file can have")
    return name


def taking_order(names: Iterable[str]) -> list[str]:
    place = {name: index for index, name in enumerate(_LINE, 1)}
    return sorted(names, key=lambda name: (place.get(name, 0), name))


def encode_manifest(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def decode_manifest(data: bytes, name: str) -> Manifest:
    """Raises Damaged."""
    manifest = _decode(data, Manifest, MANIFEST)
    if manifest.format != FORMAT:
        raise Damaged(f"{MANIFEST} has format {manifest.format}, and this program knows {FORMAT}")
    if manifest.name != name:
        raise Damaged(f"{MANIFEST} is that of {manifest.name[:40]}")
    for file in manifest.files:
        if not _FILE.match(file.name) or file.name.startswith("."):
            raise Damaged(f"{MANIFEST} names the file {file.name[:40]!r}")
    return manifest


def sums_text(sums: Mapping[str, str]) -> bytes:
    """The text of SHA256SUMS. sums: sha256 in hex by file."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()


def parse_sums(data: bytes) -> dict[str, str]:
    """Raises Damaged unless it is exactly what `sums_text` wrote."""
    found = {}
    for line in data.decode("utf-8", "replace").splitlines():
        match = _SUM.match(line)
        if match is None:
            raise Damaged(f"{SUMS} has a line that is none: {line[:80]!r}")
        found[match.group(2)] = match.group(1)
    if MANIFEST not in found or sums_text(found) != data:
        raise Damaged(f"{SUMS} is not as it was written")
    return found


def sums_of(manifest: Manifest, data: bytes) -> dict[str, str]:
    """sha256 of every file. data: the manifest as it is in its file."""
    return {**{file.name: file.sha256 for file in manifest.files}, MANIFEST: sha256(data).hexdigest()}


def read_manifest(data: bytes, sums: bytes, name: str) -> Manifest:
    """The manifest, which agrees with the sums in everything. Raises Damaged."""
    if parse_sums(sums)[MANIFEST] != sha256(data).hexdigest():
        raise Damaged(f"{MANIFEST} is not what was written: its sha256 differs")
    manifest = decode_manifest(data, name)
    if sums_text(sums_of(manifest, data)) != sums:
        raise Damaged(f"{SUMS} is not as it was written")
    return manifest


def wrong_sums(written: Mapping[str, str], found: Mapping[str, str | None]) -> list[str]:
    """Each file that is not what was written. found: sums of the files that are there, None for one that is not."""
    problems = []
    for name, digest in sorted(written.items()):
        actual = found.get(name)
        if actual is None:
            problems.append(f"{name} is missing")
        elif actual != digest:
            problems.append(f"{name} is not what was written: its sha256 differs")
    return problems


def seal(verification: Verification) -> bytes:
    """With its own sum in front: a flipped digit must not pass for another time."""
    body = msgspec.json.encode(verification)
    return sha256(body).hexdigest().encode() + b"\n" + body + b"\n"


def unseal(data: bytes, name: str) -> Verification:
    """Raises Damaged."""
    digest, _, body = data.partition(b"\n")
    if not body.endswith(b"\n") or sha256(body[:-1]).hexdigest().encode() != digest:
        raise Damaged(f"{VERIFICATION} is not what was written")
    verification = _decode(body, Verification, VERIFICATION)
    if verification.name != name:
        raise Damaged(f"{VERIFICATION} is that of {verification.name[:40]}")
    return verification


def _decode(data: bytes, kind: type[T], file: str) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Damaged(f"{file} cannot be read: {error}") from None


def drill_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A stream's configuration for the scratch server: nothing ends by its age, or the copy of an hour's signals would
    be empty when it is compared; and nothing that needs other servers."""
    left_out = {"mirror", "sources", "republish", "placement", "subject_delete_marker_ttl", "allow_msg_ttl"}
    kept = {field: value for field, value in config.items() if field not in left_out}
    return {**kept, "max_age": 0, "num_replicas": 1}


def wrong_floors(part: StreamPart, restored: Mapping[str, int], first_sequence: int) -> list[str]:
    """Each durable consumer that is missing, or whose floor is not between those noted. restored: floors by name.

    first_sequence: of the restored stream; a floor before it means the same as one just before it.
    """
    problems = []
    for consumer in part.consumers:
        floor = restored.get(consumer.name)
        low = min(consumer.floor, consumer.floor_after)
        high = max(consumer.floor, consumer.floor_after, first_sequence - 1)
        if floor is None:
            problems.append(f"{part.name}: consumer {consumer.name} was not restored")
        elif not low <= floor <= high:
            problems.append(f"{part.name}: consumer {consumer.name} has the floor {floor}, not {low} to {high}")
    return problems


def expired(kept: Sequence[Kept], now_ns: int, keep_ns: int, keep_min: int) -> list[str]:
    """Names of the backups that may go: older than `keep_ns`, with a newer verified one, and not among the newest
    `keep_min` verified ones."""
    verified = sorted(backup.name for backup in kept if backup.verified)
    if not verified:
        return []
    held = set(verified[-max(1, keep_min) :])
    return sorted(
        backup.name
        for backup in kept
        if backup.name < verified[-1] and backup.name not in held and started_at_ns(backup.name) < now_ns - keep_ns
    )


def state_of(kept: Sequence[Kept]) -> State:
    readable = [backup.manifest for backup in kept if backup.manifest is not None]
    newest = max(readable, key=lambda manifest: manifest.name, default=None)
    verified = [backup.verification.at_ns for backup in kept if backup.verified and backup.verification is not None]
    failed = (b for b in kept if b.problem or (b.verification is not None and not b.verification.ok))
    state = State(
        kept=len(kept),
        last_verified_at_ns=max(verified, default=0),
        damaged=tuple(sorted(backup.name for backup in failed)),
    )
    if newest is None:
        return state
    return msgspec.structs.replace(
        state,
        last_success_at_ns=newest.finished_at_ns,
        size_bytes=newest.size_bytes,
        duration_ns=newest.finished_at_ns - newest.started_at_ns,
        streams=len(newest.streams),
        streams_listed=newest.streams_listed,
        streams_exempt=len(newest.exempt),
    )
