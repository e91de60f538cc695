"""A one-time admin link: its code on stdout, for whoever may reach the broker. `mintline up` prints it at start."""

from __future__ import annotations

import asyncio
import os
import sys

from portal.access import Role
from portal.store import Store
from runtime.asking import connected, failing
from runtime.settings import Common, load_common


async def issue(common: Common) -> str:
    """A new link's code. Raises Unavailable, BusError, TimeoutError."""
    async with connected(common, "mintline-link") as bus:
        return await Store(bus).add_link(Role.ADMIN)


def cli(*, base: str = "") -> None:
    """Print a one-time admin link's code: whoever opens the link first is logged in as admin.

    Parameters
    ----------
    base
        The portal's address, e.g. http://localhost:5001; prints the whole link.
    """
    with failing("link"):
        code = asyncio.run(issue(load_common(os.environ)))
    base = base.rstrip("/")
    sys.stdout.write(f"{base}/admin/enter?code={code}\n" if base else f"{code}\n")
