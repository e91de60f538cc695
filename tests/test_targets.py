"""`mintline targets`: what Prometheus reads is what `mintline up` wrote down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from observer import targets
from runtime.settings import SERVICES


def endpoints(tmp_path: Path, **metrics: str) -> Path:
    (tmp_path / "endpoints.json").write_text(json.dumps({"nats": "nats://127.0.0.1:4222", "metrics": metrics}))
    return tmp_path


def test_each_process_is_a_job_of_its_own_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {service: f"http://127.0.0.1:{9101 + n}/metrics" for n, service in enumerate(SERVICES)}
    targets.cli(data_dir=endpoints(tmp_path, **metrics))
    told = json.loads(capsys.readouterr().out)
    assert [(one["labels"]["job"], one["targets"]) for one in told] == [
        (service, [f"127.0.0.1:{9101 + n}"]) for n, service in enumerate(SERVICES)
    ]


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "targets.json"
    out.write_text("[")
    targets.cli(data_dir=endpoints(tmp_path, ingest="http://[::1]:9101/metrics"), out=out)
    assert json.loads(out.read_text()) == [{"targets": ["[::1]:9101"], "labels": {"job": "ingest"}}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["endpoints.json", "targets.json"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no"),
        ("{", "endpoints.json"),
        ('{"nats": "x"}', "metrics"),
        ('{"metrics": {"ingest": "127.0.0.1:9101"}}', "is not http://HOST:PORT/metrics"),
        ('{"metrics": {"ingest": "http://host:port/metrics"}}', "endpoints.json"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "endpoints.json").write_text(text)
    with pytest.raises(SystemExit) as ended:
        targets.cli(data_dir=tmp_path)
    assert ended.value.code == 1
    err = capsys.readouterr().err
    assert err.startswith("mintline targets: ")
    assert said in err
    assert err.count("\n") == 1
