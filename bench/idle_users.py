"""What users cost who have a running bot and get no signal: memory by process, subscriptions at the broker.

`python bench idle_users [USERS ...] [--json]`: a real broker and real processes, fresh for each number of users. The
users are enrolled first, so that a start's reading back is part of it. The last column is what the most users cost more
than the fewest, a user. A minute and a half on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.show import heading, machine, table
from harness.usage import memory_bytes
from portal.demo import demo_users
from portal.enrol import enrol
from runtime.embedded import free_port
from runtime.settings import Common
from runtime.testing import Broker, Service, eventually
from runtime.web import fetch

USERS = (0, 10_000, 50_000)
SERVICES = ("dispatch", "bots", "observer", "portal")
REST_S = 8.0  # observer polls, processes report, the allocator gives back what a start needed
START_S_MAX = 60.0

Use = dict[str, int]


async def measure(users: int) -> Use:
    """Bytes by process, and the broker's subscriptions."""
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder) / "jetstream")
        broker.start()
        running: dict[str, Service] = {}
        try:
            await enrol(Common(nats_url=broker.url), demo_users(users))
            ports = {name: free_port() for name in SERVICES}
            for name, port in ports.items():
                running[name] = Service(
                    name, Path(folder) / f"{name}.log", MINTLINE_NATS_URL=broker.url, MINTLINE_DATA_DIR=folder,
                    MINTLINE_HTTP_PORT=str(port), MINTLINE_PORTAL_PORT=str(free_port()),
                )  # fmt: skip
                running[name].start()
            await eventually(lambda: _know(ports, users), f"the processes to know {users} users", START_S_MAX)
            await asyncio.sleep(REST_S)
            used = {name: memory_bytes(service.pid)[0] for name, service in running.items()}
            used["nats-server"] = memory_bytes(broker.pid)[0]
            _, body = await fetch(f"http://127.0.0.1:{broker.monitor_port}/varz", 5.0)
            return {**used, "subscriptions": json.loads(body)["subscriptions"]}
        finally:
            for service in running.values():
                service.kill()
            broker.kill()


async def _know(ports: Mapping[str, int], users: int) -> bool:
    wanted = {"dispatch": "users", "bots": "active_bots", "observer": "active_bots", "portal": ""}
    for name, port in ports.items():
        try:
            ready, _ = await fetch(f"http://127.0.0.1:{port}/readyz", 5.0)
            _, text = await fetch(f"http://127.0.0.1:{port}/metrics", 5.0)
        except (OSError, TimeoutError):
            return False
        if ready != 200 or (wanted[name] and f"mintline_{wanted[name]} {users:.1f}\n" not in text.decode()):
            return False
    return True


async def compare(numbers: list[int], console: Console) -> dict[str, Any]:
    found = {}
    for users in numbers:
        with console.status(f"{users:,} users"):
            found[users] = await measure(users)
    few, many = found[numbers[0]], found[numbers[-1]]
    each = {name: (many[name] - few[name]) / max(1, numbers[-1] - numbers[0]) for name in many}
    rows = [
        (name, *(_shown(name, found[users][name]) for users in numbers), f"{each[name]:,.0f}{_unit(name)}")
        for name in each
    ]
    table(
        console, "users without a signal",
        ("MB (PSS)", *(f"{users:,} users" for users in numbers), "a user"), rows,
        "Each process was started after the users were enrolled. subscriptions: all of them at the broker.",
    )  # fmt: skip
    return {"users": found, "each": each}


def _shown(name: str, value: int) -> str:
    return f"{value / (1 << 20):.1f}" if _unit(name) else f"{value:,}"


def _unit(name: str) -> str:
    return "" if name == "subscriptions" else " B"


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench idle_users", description=__doc__)
    parser.add_argument("users", type=int, nargs="*", default=list(USERS))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    console = Console(stderr=given.json)
    heading(console, machine())
    result = {"machine": machine(), **asyncio.run(compare(sorted(given.users), console))}
    if given.json:
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
