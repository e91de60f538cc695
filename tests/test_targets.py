"""`mintline targets`, and what `mintline up` keeps for Prometheus: with the real programs, and nothing in between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from runtime import targets
from runtime.embedded import free_port
from runtime.settings import SERVICES
from runtime.testing import Service, eventually
from runtime.web import fetch

MONITORING = Path(__file__).resolve().parent.parent / "observer" / "monitoring"
START_S_MAX = 60.0


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


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[str]:
    """Its address. It has our own file, in its own place, and asks more often."""
    shutil.copytree(MONITORING, tmp_path / "observer" / "monitoring")
    config, port = tmp_path / "observer" / "monitoring" / "prometheus.yml", free_port()
    config.write_text(config.read_text().replace(": 15s", ": 1s").replace(": 10s", ": 1s"))
    command = [
        "prometheus", f"--config.file={config.relative_to(tmp_path)}", "--storage.tsdb.path=prometheus",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (
        (tmp_path / "prometheus.log").open("wb") as out,
        subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out) as running,
    ):
        yield f"http://127.0.0.1:{port}"
        running.kill()


async def started(prometheus: str) -> dict[str, str]:
    """The jobs that answer, and when each started, as Prometheus knows it."""
    query = quote("mintline_process_start_time_seconds and on (job, instance) up == 1")
    try:
        status, body = await fetch(f"{prometheus}/api/v1/query?query={query}", 5.0)
    except (OSError, TimeoutError):
        return {}
    if status != 200:  # it is not ready
        return {}
    return {one["metric"]["job"]: one["value"][1] for one in json.loads(body)["data"]["result"]}


@pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed")
async def test_prometheus_needs_no_other_command_beside_mintline_up(
    service: Callable[..., Service], tmp_path: Path, prometheus: str
) -> None:
    """On whatever ports, also once a process was killed; until the end."""
    data_dir = tmp_path / "data" / "demo"
    up = service("runtime.commands")
    up.start("up", "--demo", "--users", "1", "--data-dir", str(data_dir), "--speed", "20")
    seen: dict[str, str] = {}

    async def all_there() -> bool:
        seen.clear()
        seen.update(await started(prometheus))
        return seen.keys() == set(SERVICES)

    await eventually(all_there, "all six to be asked", START_S_MAX)
    before = seen["dispatch"]
    os.kill(json.loads((data_dir / "endpoints.json").read_text())["pids"]["dispatch"], signal.SIGKILL)

    async def again() -> bool:
        return await all_there() and seen["dispatch"] != before

    await eventually(again, "dispatch's next life to be asked", START_S_MAX)
    up.signal(signal.SIGTERM)
    assert up.wait() == 0
    assert not (data_dir / "targets.json").exists()
