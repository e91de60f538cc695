"""The way of an alert, with the real programs: feed -> TOKENS -> observer's /metrics -> Prometheus -> Alertmanager ->
observer's outbox -> Telegram. The rules and routes are the ones we ship, with shorter waits."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ingest.market import Market
from ingest.simulator import Simulator, serve
from observer.notify.testing import BOT, BROKEN, SLOW, FakeTelegram
from runtime.embedded import free_port
from runtime.testing import Broker, eventually
from runtime.web import fetch

MONITORING = Path(__file__).resolve().parent.parent / "observer" / "monitoring"
TOKEN = "token-of-the-webhook"
WITHIN_S = 60.0

NewLine = Callable[..., Any]  # the fixture's

pytestmark = [
    pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed"),
    pytest.mark.skipif(
        not shutil.which("prometheus-alertmanager"), reason="Alertmanager is not installed (prometheus-alertmanager)"
    ),
]


def changed(text: str, *changes: tuple[str, str]) -> str:
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text)
        assert count, f"nothing in the file we ship is like {pattern}"
    return text


class Watchers:
    """Prometheus and Alertmanager, with our files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port, self._alerts_port = free_port(), free_port()
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, observer_port: int, *, canary: bool = False) -> None:
        if canary:  # each second instead of every 5 minutes
            self._write("rules/care.yml", (MONITORING / "rules" / "care.yml").read_text())
        rules = changed(
            (MONITORING / "rules" / "feed.yml").read_text(), (r"(FeedStale\n.*) > 60\n\s+for: 1m", r"\1 > 3")
        )
        self._write("rules/feed.yml", rules)
        self._write("prometheus.yml", changed(
            (MONITORING / "prometheus.yml").read_text(), (r"scrape_interval: \w+", "scrape_interval: 1s"),
            (r"scrape_timeout: \w+", "scrape_timeout: 1s"), (r"evaluation_interval: \w+", "evaluation_interval: 1s"),
            (r"127.0.0.1:9093", f"127.0.0.1:{self._alerts_port}"),
        ))  # fmt: skip
        self._write("targets.json", f'[{{"targets": ["127.0.0.1:{observer_port}"], "labels": {{"job": "observer"}}}}]')
        self._write("alertmanager.yml", changed(
            (MONITORING / "alertmanager.yml").read_text(), (r"group_wait: 30s", "group_wait: 1s"),
            (r"group_interval: 5m", "group_interval: 1s"),
            (r"group_interval: 1m\n      repeat_interval: 5m", "group_interval: 1s\n      repeat_interval: 1s"),
            (r"127.0.0.1:9095", f"127.0.0.1:{observer_port}"),
            (r"credentials: replace-me", f"credentials: {TOKEN}"),
        ))  # fmt: skip
        self._run(
            "prometheus-alertmanager", "--config.file=alertmanager.yml", "--storage.path=alertmanager",
            f"--web.listen-address=127.0.0.1:{self._alerts_port}", "--cluster.listen-address=",
        )  # fmt: skip
        self._run(
            "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=prometheus",
            f"--web.listen-address=127.0.0.1:{self._port}", "--rules.alert.resend-delay=1s",
        )  # fmt: skip

    async def knows(self, metric: str) -> bool:
        """Whether Prometheus has seen it."""
        try:
            return b'"result":[{' in (await fetch(f"http://127.0.0.1:{self._port}/api/v1/query?query={metric}", 2.0))[1]
        except (OSError, TimeoutError):
            return False

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def _write(self, name: str, text: str) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _run(self, *command: str) -> None:
        with (self._folder / f"{command[0]}.log").open("wb") as out:
            self._processes.append(subprocess.Popen(command, cwd=self._folder, stdout=out, stderr=out))


@pytest.fixture
def watchers(tmp_path: Path) -> Iterator[Watchers]:
    made = Watchers(tmp_path / "watchers")
    yield made
    made.stop()


async def watched(line: Any, simulator: Simulator, telegram: FakeTelegram, watchers: Watchers) -> None:
    """A feed that is heard, and everybody who watches it."""
    await line.start(
        "observer",
        MINTLINE_OBSERVER_MEASURE_INTERVAL_S="0.5",
        MINTLINE_OBSERVER_ALERT_HOLD_S="3600",  # its own findings would tell of the feed, too
        MINTLINE_OBSERVER_ALERT_WEBHOOK_TOKEN=TOKEN,
        MINTLINE_OBSERVER_TELEGRAM_BOT_TOKEN=BOT,
        MINTLINE_OBSERVER_TELEGRAM_CHATS="5",
        MINTLINE_OBSERVER_TELEGRAM_URL=telegram.url,
        MINTLINE_OBSERVER_TELEGRAM_TIMEOUT_S="2",
    )
    await line.start("ingest", MINTLINE_INGEST_FEED_URL=simulator.url, MINTLINE_INGEST_API_KEY="key")
    watchers.start(line.port("observer"))
    await eventually(
        lambda: watchers.knows("mintline_feed_last_message_timestamp_seconds"), "Prometheus sees the feed", WITHIN_S
    )


async def test_a_feed_that_falls_silent_is_told_once_and_so_is_its_end_though_telegram_stumbles(
    broker: Broker, new_line: NewLine, watchers: Watchers
) -> None:
    async with FakeTelegram().listening() as telegram, serve(Market(1), speed=20) as simulator:
        telegram.script.extend([SLOW, BROKEN, telegram.hang])
        line = new_line(broker)
        await watched(line, simulator, telegram, watchers)
        with simulator.silent():
            await eventually(lambda: bool(telegram.texts), "the silence is told", WITHIN_S)
        await eventually(lambda: len(telegram.texts) > 1, "its end is told", WITHIN_S)
        first, second = telegram.texts
        assert "MintlineFeedStale" in first
        assert "docs/runbooks/MintlineFeedStale.md" in first
        assert "d/mintline-feed" in first
        assert "MintlineFeedStale" in second
        assert "RESOLVED" in second
        assert not telegram.script, "Telegram stumbled as it should"


async def test_an_observer_that_is_killed_while_it_tells_tells_it_all_the_same(
    broker: Broker, new_line: NewLine, watchers: Watchers
) -> None:
    async with FakeTelegram().listening() as telegram, serve(Market(1), speed=20) as simulator:
        line = new_line(broker)
        await watched(line, simulator, telegram, watchers)
        observer = line.services["observer"]

        async def killed(_: dict[str, Any]) -> None:
            observer.kill()

        telegram.script.append(killed)
        with simulator.silent():
            await eventually(lambda: not observer.running, "it is killed while it sends", WITHIN_S)
            observer.start()
            await eventually(lambda: bool(telegram.texts), "the silence is told", WITHIN_S)
        await eventually(lambda: any("RESOLVED" in text for text in telegram.texts), "its end is told", WITHIN_S)
        assert "MintlineFeedStale" in telegram.texts[0]
        assert telegram.texts[0].startswith("possible repeat")  # nobody knows what became of the first try


async def test_the_canary_goes_from_prometheus_into_its_chat_and_back_again_and_again(
    broker: Broker, new_line: NewLine, watchers: Watchers
) -> None:
    async with FakeTelegram().listening() as telegram:
        line = new_line(broker)
        await line.start(
            "observer",
            MINTLINE_OBSERVER_ALERT_HOLD_S="3600",
            MINTLINE_OBSERVER_ALERT_WEBHOOK_TOKEN=TOKEN,
            MINTLINE_OBSERVER_TELEGRAM_BOT_TOKEN=BOT,
            MINTLINE_OBSERVER_TELEGRAM_CANARY_CHAT="77",
            MINTLINE_OBSERVER_TELEGRAM_URL=telegram.url,
        )
        watchers.start(line.port("observer"), canary=True)
        await eventually(lambda: len(telegram.delivered) > 2, "three canaries in their chat", WITHIN_S)
        round_trip = "mintline_alert_path_last_round_trip_timestamp_seconds"
        await eventually(lambda: watchers.knows(round_trip), "Prometheus knows when the last one arrived", WITHIN_S)
        assert {message["chat_id"] for message in telegram.delivered} == {77}
        assert [chat for chat, _ in telegram.deleted] == [77] * len(telegram.deleted)
        assert telegram.deleted
