"""observer/backup/manifest.py: names, sums, seals, the order of streams, floors, and how long what is kept."""

from __future__ import annotations

from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from observer.backup.manifest import (
    MANIFEST,
    Damaged,
    File,
    Floor,
    Kept,
    Manifest,
    State,
    StreamPart,
    Verification,
    decode_manifest,
    drill_config,
    encode_manifest,
    expired,
    file_of,
    is_name,
    name_at,
    parse_sums,
    seal,
    started_at_ns,
    state_of,
    sums_text,
    taking_order,
    unseal,
    wrong_floors,
    wrong_sums,
)  # fmt: skip
from schemas.subjects import STREAMS

HOUR, DAY = 3600 * 10**9, 86_400 * 10**9
NOW = 1_763_690_400 * 10**9
SUM = "0" * 64


def part(name: str = "FILLS", consumers: tuple[Floor, ...] = ()) -> StreamPart:
    return StreamPart(
        name=name, config={"name": name, "max_age": 5}, state={"last_seq": 3, "bytes": 10},
        snapshot=File(name=f"{name}.snapshot", bytes=100, sha256=SUM),
        digests=File(name=f"{name}.digests", bytes=24, sha256=SUM),
        messages=3, settled=3, read=3, fleeting=((1, 1),), consumers=consumers,
    )  # fmt: skip


def manifest(at_ns: int = NOW, streams: int = 1) -> Manifest:
    return Manifest(
        name=name_at(at_ns), started_at_ns=at_ns, finished_at_ns=at_ns + 5 * 10**9, server_version="2.15.1",
        streams_listed=streams + 1, streams=tuple(part(f"S{i}") for i in range(streams)), exempt=("MEMORY",),
    )  # fmt: skip


def verification(at_ns: int, *, ok: bool = True, taken_at_ns: int = NOW) -> Verification:
    return Verification(
        name=name_at(taken_at_ns), ok=ok, at_ns=at_ns, duration_ns=1, server_version="2.15.1", streams=1, messages=3,
        unwitnessed=0, problems=() if ok else ("S0: 1 missing (sequence 2)",),
    )  # fmt: skip


def kept(age_days: float, outcome: str = "verified") -> Kept:
    """outcome: verified, unverified, failed (its drill), unreadable."""
    at_ns = NOW - int(age_days * DAY)
    found = {"verified": True, "failed": False}.get(outcome)
    return Kept(
        name=name_at(at_ns),
        manifest=None if outcome == "unreadable" else manifest(at_ns),
        verification=None if found is None else verification(at_ns + HOUR, ok=found, taken_at_ns=at_ns),
        problem="manifest.json cannot be read" if outcome == "unreadable" else "",
    )


# Names


@given(st.integers(0, 4 * 10**18))
def test_a_name_tells_when_its_backup_began(at_ns: int) -> None:
    name = name_at(at_ns)
    assert is_name(name)
    assert started_at_ns(name) == at_ns // 1_000_000 * 1_000_000


def test_names_sort_by_time() -> None:
    assert sorted([name_at(NOW + DAY), name_at(NOW), name_at(NOW + 10**6)]) == [
        name_at(NOW), name_at(NOW + 10**6), name_at(NOW + DAY)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "..", "../20260101-000000-000", "20260101-000000-000\n", ".staged-20260101-000000-000"]
)
def test_what_is_no_name_is_refused(text: str) -> None:
    assert not is_name(text)


@pytest.mark.parametrize("stream", ["a/b", "..", "../up", ".hidden", "", "ü"])
def test_a_stream_cannot_name_a_file_elsewhere(stream: str) -> None:
    with pytest.raises(ValueError, match="no file can have"):
        file_of(stream, "snapshot")


# The order of streams


def test_streams_are_taken_from_the_end_of_the_line_to_its_beginning() -> None:
    order = taking_order([*(stream.name for stream in STREAMS), "OTHERS"])
    assert sorted(order) == sorted([*(stream.name for stream in STREAMS), "OTHERS"])
    place = order.index
    assert place("KV_folds") < place("FILLS") < place("SIGNALS") < place("DECISIONS") < place("TOKENS")
    assert place("SIGNALS") < place("KV_bots")  # a signal names a revision of the bucket
    assert place("KV_sessions") < place("KV_accounts")
    assert place("OTHERS") < place("FILLS")


# Files


def test_a_manifest_comes_back_as_it_was() -> None:
    assert decode_manifest(encode_manifest(manifest()), name_at(NOW)) == manifest()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (encode_manifest(manifest(NOW + DAY)), "is that of"),
        (encode_manifest(msgspec.structs.replace(manifest(), format=2)), "has format 2"),
        (encode_manifest(manifest()).replace(b"S0.snapshot", b"../snapshot"), "names the file"),
    ],
    ids=["empty", "binary", "another's", "of another format", "leads elsewhere"],
)
def test_a_manifest_that_cannot_be_used_is_damage(data: bytes, why: str) -> None:
    with pytest.raises(Damaged, match=why):
        decode_manifest(data, name_at(NOW))


SUMS_OF = {MANIFEST: sha256(b"1").hexdigest(), "FILLS.snapshot": sha256(b"2").hexdigest()}


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_no_flipped_byte_in_the_sums_goes_unnoticed() -> None:
    text = sums_text(SUMS_OF)
    assert parse_sums(text) == SUMS_OF
    for at in range(len(text)):
        try:
            found = parse_sums(flipped(text, at))
        except Damaged:
            continue
        assert wrong_sums(found, {**SUMS_OF}), f"byte {at}"


def test_sums_name_what_differs_and_what_is_missing() -> None:
    assert wrong_sums(SUMS_OF, {**SUMS_OF, "more": "x"}) == []
    assert wrong_sums(SUMS_OF, {MANIFEST: SUM}) == [
        "FILLS.snapshot is missing", "manifest.json is not what was written: its sha256 differs"
    ]  # fmt: skip


def test_no_flipped_byte_in_a_verification_goes_unnoticed() -> None:
    data = seal(verification(NOW))
    assert unseal(data, name_at(NOW)) == verification(NOW)
    for at in range(len(data)):
        with pytest.raises(Damaged):
            unseal(flipped(data, at), name_at(NOW))


def test_a_verification_of_another_backup_is_none() -> None:
    with pytest.raises(Damaged, match="is that of"):
        unseal(seal(verification(NOW)), name_at(NOW + DAY))


# The drill


def test_nothing_ends_by_its_age_in_a_drill() -> None:
    config = {
        "name": "S",
        "max_age": 5,
        "allow_msg_ttl": True,
        "subject_delete_marker_ttl": 1,
        "num_replicas": 3,
        "max_bytes": 7,
    }
    assert drill_config(config) == {"name": "S", "max_age": 0, "num_replicas": 1, "max_bytes": 7}


@pytest.mark.parametrize(
    ("restored", "first", "problem"),
    [
        ({"p0": 10}, 1, ""),
        ({"p0": 15}, 1, ""),
        ({"p0": 9}, 1, "floor 9"),
        ({"p0": 16}, 1, "floor 16"),
        ({"p0": 16}, 17, ""),  # all before it is gone
        ({}, 1, "was not restored"),
        ({"p0": 12, "f-1": 3}, 1, ""),  # consumers that are not durable are nobody's business
    ],
)
def test_a_floor_lies_between_those_noted(restored: dict[str, int], first: int, problem: str) -> None:
    problems = wrong_floors(part(consumers=(Floor(name="p0", floor=10, floor_after=15),)), restored, first)
    assert bool(problems) == bool(problem)
    assert all(problem in text for text in problems)


# How long what is kept


@pytest.mark.parametrize(
    ("backups", "keep_min", "gone"),
    [
        ([], 1, []),
        ([kept(1)], 1, []),
        ([kept(30)], 1, []),  # the last verified one is never removed
        ([kept(30), kept(8)], 1, [30]),  # the older of two verified ones
        ([kept(30), kept(8)], 2, []),
        ([kept(30), kept(8), kept(1)], 2, [30]),
        ([kept(30), kept(1, "unverified")], 1, []),  # nothing newer is proven
        ([kept(30), kept(20), kept(1, "failed")], 1, [30]),
        ([kept(30, "unverified"), kept(20, "failed"), kept(10, "unreadable"), kept(1)], 1, [30, 20, 10]),
        ([kept(30, "unverified"), kept(20, "failed")], 1, []),
        ([kept(8), kept(7.5), kept(6.9), kept(0)], 1, [8, 7.5]),
        ([kept(9), kept(8, "unverified"), kept(7.5, "failed")], 1, []),  # newer than the only verified one
    ],
)  # fmt: skip
def test_what_is_old_goes_once_a_newer_one_is_verified(backups: list[Kept], keep_min: int, gone: list[float]) -> None:
    assert expired(backups, NOW, 7 * DAY, keep_min) == [name_at(NOW - int(days * DAY)) for days in gone]


OUTCOMES = st.sampled_from(["verified", "unverified", "failed", "unreadable"])


@given(
    st.lists(st.tuples(st.integers(0, 40), OUTCOMES), max_size=12, unique_by=lambda pair: pair[0]), st.integers(1, 3)
)
def test_whatever_happened_verified_backups_remain_and_young_ones_stay(
    found: list[tuple[int, str]], keep_min: int
) -> None:
    backups = [kept(age, outcome) for age, outcome in found]
    gone = set(expired(backups, NOW, 7 * DAY, keep_min))
    verified = [backup for backup in backups if backup.verified]
    left = [backup for backup in verified if backup.name not in gone]
    assert len(left) >= min(keep_min, len(verified))
    assert all(started_at_ns(name) < NOW - 7 * DAY for name in gone)
    if gone:
        assert max(backup.name for backup in left) > max(gone)


# What the figures say


def test_figures_come_of_what_is_there() -> None:
    assert state_of([]) == State()
    newest = manifest(NOW)
    found = state_of([kept(2), kept(1, "failed"), kept(0, "unverified")])
    assert found == State(
        kept=3, last_success_at_ns=newest.finished_at_ns, last_verified_at_ns=NOW - 2 * DAY + HOUR,
        size_bytes=124, duration_ns=5 * 10**9, streams=1, streams_listed=2, streams_exempt=1,
        damaged=(name_at(NOW - DAY),),
    )  # fmt: skip


def test_an_unreadable_backup_is_damage_and_no_success() -> None:
    found = state_of([kept(1), kept(0, "unreadable")])
    assert found.last_success_at_ns == NOW - DAY + 5 * 10**9
    assert found.damaged == (name_at(NOW),)
