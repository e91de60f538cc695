"""Each process as a real child: bad settings, SIGTERM with and without a broker, a broker that comes late."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest

from runtime import testing
from runtime.embedded import free_port
from runtime.settings import SERVICES, Common, Settings, SettingsError, load, load_common
from runtime.testing import Service, eventually
from runtime.web import fetch

EXIT_S_MAX = 5.0


Make = Callable[..., Service]


@pytest.mark.parametrize("name", SERVICES)
def test_a_bad_setting_ends_the_process_with_status_2_and_its_name(name: str, service: Make) -> None:
    started = service(name, MINTLINE_PARTITIONS="many")
    started.start()
    assert started.wait() == 2
    assert f"mintline {name}: MINTLINE_PARTITIONS: Expected `int`, got `str` (it is 'many')" in started.text()


@pytest.mark.parametrize(
    ("name", "variable", "value", "told"),
    [
        ("bots", "MINTLINE_BOTS_LANDIN_MS", "0", "unknown setting; known: MINTLINE_BOTS_LANDING_MS, MINTLINE_BOTS_S"),
        ("dispatch", "MINTLINE_DISPATCH_SIGNAL_TTL_S", "-1", "Expected `float` > 0.0"),
        ("ingest", "MINTLINE_INGEST_FEED_URL", "https://x", "the feed's address is no ws:// or wss:// address"),
        ("portal", "MINTLINE_ADMIN_ALLOWED_IPS", "banana", "banana"),
    ],
)
async def test_a_service_names_its_own_bad_setting(
    broker: testing.Broker, service: Make, name: str, variable: str, value: str, told: str
) -> None:
    started = service(name, MINTLINE_NATS_URL=broker.url, **{variable: value})
    started.start()
    await eventually(lambda: not started.running, "the end of the process")
    assert started.wait() == 2
    assert variable in started.text()
    assert told in started.text()


@pytest.mark.parametrize("name", SERVICES)
async def test_sigterm_while_the_broker_is_away_ends_in_good_order(name: str, service: Make) -> None:
    port = free_port()
    started = service(name, MINTLINE_NATS_URL=f"nats://127.0.0.1:{free_port()}", MINTLINE_HTTP_PORT=str(port))
    started.start()
    await eventually(lambda: _status(port, "livez", 200), "the process to live")
    assert await _status(port, "readyz", 503)
    assert await _status(port, "metrics", 200)
    started.signal(signal.SIGTERM)
    assert started.wait(EXIT_S_MAX) == 0


@pytest.mark.parametrize("fault", ["stopped", "frozen"])
@pytest.mark.parametrize("name", SERVICES)
async def test_sigterm_after_losing_the_broker_ends_in_good_order(
    name: str, fault: str, broker: testing.Broker, service: Make
) -> None:
    port = free_port()
    started = service(
        name, MINTLINE_NATS_URL=broker.url, MINTLINE_HTTP_PORT=str(port), MINTLINE_PARTITIONS="4",
        **({"MINTLINE_INGEST_FEED_URL": "ws://127.0.0.1:9/none"} if name == "ingest" else {}),
        **({"MINTLINE_PORTAL_PORT": "0"} if name == "portal" else {}),
    )  # fmt: skip
    started.start()
    await eventually(lambda: _status(port, "readyz", 200), f"{name} to be ready\n{started.text()}")
    with broker.stopped() if fault == "stopped" else broker.frozen():
        started.signal(signal.SIGTERM)
        assert started.wait(EXIT_S_MAX) == 0, started.text()


async def test_a_broker_that_comes_late_is_waited_for(broker: testing.Broker, service: Make) -> None:
    port = free_port()
    started = service("dispatch", MINTLINE_NATS_URL=broker.url, MINTLINE_HTTP_PORT=str(port))
    with broker.stopped():
        started.start()
        await eventually(lambda: _status(port, "readyz", 503), "the process to live")
    await eventually(lambda: _status(port, "readyz", 200), "the process to be ready")
    started.signal(signal.SIGTERM)
    assert started.wait(EXIT_S_MAX) == 0


def test_logs_are_json_lines_with_what_people_grep_for(service: Make) -> None:
    started = service("dispatch", MINTLINE_NATS_URL=f"nats://127.0.0.1:{free_port()}")
    started.start()
    started.signal(signal.SIGTERM)
    started.wait()
    for line in started.text().splitlines():
        assert {"time", "level", "service", "event"} <= json.loads(line).keys()


async def _status(port: int, path: str, wanted: int) -> bool:
    try:
        status, _ = await fetch(f"http://127.0.0.1:{port}/{path}", 2.0)
    except (OSError, TimeoutError):
        return False
    return status == wanted


class Own(Settings, frozen=True, kw_only=True):
    wait_s: float = 1.0
    api_key: str = ""
    limit: int = 3


def test_settings_are_typed_and_have_defaults() -> None:
    assert load(Own, "MINTLINE_X_", {}) == Own()
    assert load(Own, "MINTLINE_X_", {"MINTLINE_X_WAIT_S": "2.5", "OTHER": "x"}) == Own(wait_s=2.5)


def test_a_secret_setting_is_never_repeated() -> None:
    with pytest.raises(SettingsError) as raised:
        load(Own, "MINTLINE_X_", {"MINTLINE_X_LIMIT": "three"})
    assert "three" in str(raised.value)
    common = load_common({"MINTLINE_NATS_PASSWORD": "hunter2"})
    assert common.nats_password == "hunter2"


def test_another_services_variables_are_not_ours_to_judge() -> None:
    assert load_common({"MINTLINE_INGEST_FEED_URL": "x"}) == Common()
    with pytest.raises(SettingsError, match="MINTLINE_NATS_URI: unknown setting"):
        load_common({"MINTLINE_NATS_URI": "x"})
