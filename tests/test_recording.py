"""ingest/recording.py: a frame survives its line, to the nanosecond."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.recording import MalformedLine, Recorded, format_line, parse_line

DATA = Path(__file__).parents[2] / "shared" / "data"


@given(st.text(st.characters(codec="utf-8")), st.integers(0, 4_000_000_000 * 10**9))
def test_a_frame_survives_its_line(raw: str, seen_at_ns: int) -> None:
    line = format_line(raw, seen_at_ns)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert parse_line(line) == Recorded(seen_at_ns=seen_at_ns, raw=raw)


def test_a_line_is_what_the_contract_says() -> None:
    assert format_line(b'{"a":1}', 1_783_089_923_111_019_601) == (
        b'{"t_wall": 1783089923.111019601, "raw": "{\\"a\\":1}"}\n'
    )


@given(st.binary())
def test_bytes_that_are_no_text_are_recorded_as_text(raw: bytes) -> None:
    assert parse_line(format_line(raw, 5)).raw == raw.decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("t_wall", "seen_at_ns"),
    [
        ("1783089923.1110196", 1_783_089_923_111_019_600),  # a float's own text: seven digits
        ("1783089923", 1_783_089_923_000_000_000),
        ("1.7830899231110196e9", 1_783_089_923_111_019_600),
        ("0.0000000015", 2),  # beyond the nanosecond: half to even
    ],
)
def test_times_are_read_from_their_text(t_wall: str, seen_at_ns: int) -> None:
    assert parse_line(f'{{"slot": 7, "t_wall": {t_wall}, "raw": "x"}}').seen_at_ns == seen_at_ns


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("", "truncated"),
        ("[1]", "object"),
        ('{"raw": "x"}', "t_wall"),
        ('{"t_wall": 1}', "raw"),
        ('{"t_wall": "1", "raw": "x"}', "t_wall"),
        ('{"t_wall": -1, "raw": "x"}', "t_wall"),
        ('{"t_wall": null, "raw": "x"}', "t_wall"),
        ('{"t_wall": 1, "raw": 2}', "raw"),
        ('{"t_wall": 1, "raw": "' + "x" * 600_000 + '"}', "600024 bytes"),
    ],
)
def test_a_malformed_line_names_the_field_at_fault(line: str, names: str) -> None:
    with pytest.raises(MalformedLine, match=names):
        parse_line(line)


@given(st.binary() | st.text())
def test_anything_is_a_line_or_refused(line: bytes | str) -> None:
    try:
        parse_line(line)
    except MalformedLine:
        return


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("pumpportal_session_jouleka_2026-07-03.jsonl", 208),
        ("trades_shaped_from_chain_2026-07-04.jsonl", 112),  # with slot and onchain_ts beside ours
    ],
)
def test_the_recordings_are_read_whole(name: str, rows: int) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"the recording {name} is not here")
    lines = (DATA / name).read_bytes().splitlines()
    recorded = [parse_line(line) for line in lines]
    assert len(recorded) == rows
    assert [frame.raw for frame in recorded] == [json.loads(line)["raw"] for line in lines]
    assert min(frame.seen_at_ns for frame in recorded) > 1_783_000_000 * 10**9
