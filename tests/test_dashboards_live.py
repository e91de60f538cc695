"""The dashboards' queries, put to a real Prometheus beside a running line: none fails, and each answers something."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from asyncio import to_thread
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ingest.market import Market
from ingest.simulator import serve
from observer.dashboards.__main__ import OUT
from portal.enrol import enrol
from runtime.bus import Bus
from runtime.embedded import free_port
from runtime.settings import SERVICES, Common
from runtime.testing import Broker, eventually
from runtime.web import fetch
from schemas.config import BotConfig
from schemas.events import Strategy

MONITORING = Path(__file__).resolve().parent.parent / "observer" / "monitoring"
PAGES = [json.loads(path.read_text()) for path in sorted(OUT.glob("*.json"))]
PARTITIONS = 4  # as the `bus` fixture declares
WITHIN_S = 180.0
CHOSEN = {"$__rate_interval": "1m", "$__range": "1h", "$job": ".+", "$instance": ".+", "$stream": ".+"}

NewLine = Callable[..., Any]  # the fixture's

# What may have no answer on a healthy line that has just begun: page, panel, and why.
MAY_BE_EMPTY = {
    ("mintline-system", "Waiting and delivery", "oldest"): "no notification waits",
    ("mintline-system", "Newest backup", ""): "none was made",
    ("mintline-system", "Last drill passed", ""): "there is no backup to restore",
    ("mintline-system", "Last report", ""): "it is made once a day",
    ("mintline-system", "Way of the alerts", ""): "there is no Alertmanager here",
    ("mintline-system", "Told within", ""): "there is no Alertmanager here",
    ("mintline-system", "Jobs", "Last run"): "no job has had its turn",
    ("mintline-system", "Jobs", "Last success"): "no job has had its turn",
    ("mintline-system", "CPU", "throttled"): "without a control group's limit there are no periods",
    **{
        ("mintline-system", f"Waiting for {what}", f"{tasks} tasks"): "the kernel may not tell"
        for what, tasks in [
            ("the CPU", "some"),
            ("memory", "some"),
            ("memory", "all"),
            ("the disk", "some"),
            ("the disk", "all"),
        ]
    },
    ("mintline-feed", "Oldest at work", "{{job}}"): "nothing is at work between two groups",
    ("mintline-bots", "Oldest at work", "{{instance}}"): "nothing is at work between two rounds",
    ("mintline-broker", "Lag", "{{stream}} {{durable}}"): "nothing waits to be acknowledged",
    ("mintline-broker", "Durable consumers", "Lag"): "nothing waits to be acknowledged",
}

pytestmark = pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed")


class Query(NamedTuple):
    """labels: which each series of its answer must have."""

    page: str
    panel: str
    legend: str
    text: str
    instant: bool
    labels: frozenset[str]


def queries() -> Iterator[Query]:
    for page in PAGES:
        for panel in page["panels"]:
            for target in panel.get("targets", []):
                text = target["expr"]
                for variable, value in CHOSEN.items():
                    text = text.replace(variable, value)
                labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"])) | columns(panel)
                yield Query(
                    page["uid"], panel["title"], target["legendFormat"], text, target["instant"], frozenset(labels)
                )


def columns(panel: dict[str, Any]) -> set[str]:
    """The labels by which a table's rows are told apart; some alerts are of no process, stream or consumer."""
    renamed = [one["options"].get("renameByName", {}) for one in panel.get("transformations") or []]
    found = {name for names in renamed for name in names if not name.startswith("Value")}
    return found - {"job", "stream", "durable"} if "alertname" in found else found


class Prometheus:
    """With the rules and the configuration that we ship; it asks each second."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._url = f"http://127.0.0.1:{free_port()}"
        self._targets = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, ports: dict[str, int]) -> None:
        self.aim(ports)
        shutil.copytree(MONITORING / "rules", self._folder / "rules")
        text = (MONITORING / "prometheus.yml").read_text()
        text, count = re.subn(r"(scrape_interval|scrape_timeout|evaluation_interval): \w+", r"\1: 1s", text)
        assert count == 3
        (self._folder / "prometheus.yml").write_text(text)
        command = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
                   "--enable-feature=exemplar-storage",
                   f"--web.listen-address={self._url.removeprefix('http://')}"]  # fmt: skip
        with (self._folder / "log").open("wb") as out:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=out, stderr=out)

    def aim(self, ports: dict[str, int]) -> None:
        """It reads its targets again when they change."""
        targets = [{"targets": [f"127.0.0.1:{port}"], "labels": {"job": name}} for name, port in ports.items()]
        unfinished = self._folder / "targets.new"
        unfinished.write_text(json.dumps(targets))
        unfinished.replace(self._folder / "targets.json")
        self._targets = len(targets)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def sees_all(self) -> bool:
        try:
            ready = (await fetch(f"{self._url}/-/ready", 5.0))[0] == 200
        except (OSError, TimeoutError):
            return False
        return ready and len((await to_thread(self.ask, "query", query="up == 1"))["result"]) == self._targets

    def ask(self, path: str, **arguments: str) -> Any:
        """The data of its answer."""
        body = urllib.parse.urlencode(arguments).encode()
        try:
            with urllib.request.urlopen(f"{self._url}/api/v1/{path}", body, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{arguments}: {error.read().decode()}") from error

    def examples(self, metric: str) -> set[str]:
        """The traces of a histogram's examples."""
        now = time.time()
        found = self.ask("query_exemplars", query=metric, start=f"{now - 300}", end=f"{now}")
        return {example["labels"].get("trace_id", "") for one in found for example in one["exemplars"]}

    def values(self, query: str) -> set[str]:
        """Of a variable: `label_values(series, label)`."""
        series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups()  # type: ignore[union-attr]
        return {one[label] for one in self.ask("series", **{"match[]": series})}

    def series(self, query: Query) -> list[dict[str, str]]:
        """The labels of each series that a panel would draw; it is asked at a moment and over a time."""
        now = time.time()
        at = self.ask("query", query=query.text)["result"]
        over = self.ask("query_range", query=query.text, start=f"{now - 60}", end=f"{now}", step="5")["result"]
        return [one["metric"] for one in (at if query.instant else over)]


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    folder = tmp_path / "prometheus"
    folder.mkdir()
    made = Prometheus(folder)
    yield made
    made.stop()


async def test_every_query_of_every_panel_is_answered_by_prometheus(
    broker: Broker, bus: Bus, new_line: NewLine, prometheus: Prometheus
) -> None:
    wanted = list(queries())
    unanswered = [one for one in wanted if one[:3] not in MAY_BE_EMPTY]
    assert len(wanted) == len(unanswered) + len(MAY_BE_EMPTY), "MAY_BE_EMPTY names a query that is none"
    config = BotConfig(strategy=Strategy.SNIPER, min_score=0, max_hold_seconds=2)  # it buys all, and sells soon
    await enrol(Common(nats_url=broker.url, partitions=PARTITIONS), [(f"u{number}", config) for number in range(3)])
    door = free_port()
    line = new_line(
        broker, partitions=PARTITIONS, MINTLINE_OBSERVER_MONITOR_URL=f"http://127.0.0.1:{broker.monitor_port}",
        MINTLINE_OBSERVER_MEASURE_INTERVAL_S="0.5", MINTLINE_BOTS_LANDING_MS="0", MINTLINE_PORTAL_PORT=str(door),
        MINTLINE_CANARY_INTERVAL_S="1",
    )  # fmt: skip
    await line.start("analyze", "dispatch", "bots", "observer", "portal")
    prometheus.start({name: line.port(name) for name in SERVICES if name != "ingest"})
    await eventually(prometheus.sees_all, "Prometheus to see the line before anything happens", WITHIN_S)

    async def answered() -> bool:
        nonlocal unanswered
        with suppress(OSError, TimeoutError):
            await fetch(f"http://127.0.0.1:{door}/admin", 10.0)  # a stranger: it must rise while it is watched
        unanswered = [one for one in unanswered if not await to_thread(prometheus.series, one)]
        return not unanswered

    async with serve(Market(seed=7), speed=50) as simulator:
        await line.start("ingest", MINTLINE_INGEST_FEED_URL=simulator.url, MINTLINE_INGEST_API_KEY="demo")
        prometheus.aim({name: line.port(name) for name in SERVICES})
        try:
            await eventually(answered, "all queries to be answered", WITHIN_S)
        except AssertionError as error:
            shown = "\n".join(f"{one.page}, {one.panel}, {one.legend}: {one.text}" for one in unanswered)
            raise AssertionError(f"no answer to\n{shown}") from error
        for one in wanted:
            found = await to_thread(prometheus.series, one)
            assert all(labels.keys() >= one.labels for labels in found), f"{one.page}, {one.panel}: {one.legend}"
        for metric in ("frame_to_fill", "stage_duration"):
            traces = await to_thread(prometheus.examples, f"mintline_{metric}_seconds_bucket")
            assert traces, f"{metric} has no examples"
            assert all(re.fullmatch("[0-9a-f]{32}", trace) for trace in traces)
        for page in PAGES:
            for one in page["templating"]["list"][1:]:
                asked = one["query"]["query"].replace("$job", CHOSEN["$job"])
                assert await to_thread(prometheus.values, asked), f"{page['uid']}: {one['name']} has no values"
