"""A one-time admin link: its code on stdout, for whoever may reach the broker. `mintline up` prints it at start."""

from __future__ import annotations

import asyncio
import os
import sys

from portal.access import Role
from portal.store import Store
from runtime.bus import Bus, BusError, Unavailable
from runtime.settings import Common, SettingsError, load_common
from runtime.standalone import fail

CONNECT_S_MAX = 10.0


async def issue(common: Common) -> str:
    """A new link's code. Raises Unavailable, BusError, TimeoutError."""
    bus = Bus(lambda event, **fields: None)
    try:
        await asyncio.wait_for(bus.open(common, "mintline-link"), CONNECT_S_MAX)
        return await Store(bus).add_link(Role.ADMIN)
    finally:
        await bus.close()


def cli(*, base: str = "") -> None:
    """Print a one-time admin link's code: whoever opens the link first is logged in as admin.

    Parameters
    ----------
    base
        The portal's address, e.g. http://localhost:5001; prints the whole link.
    """
    try:
        code = asyncio.run(issue(load_common(os.environ)))
    except SettingsError as error:
        fail(f"link: {error}", 2)
    except (Unavailable, BusError, TimeoutError, OSError) as error:
        fail(f"link: {str(error) or 'the broker does not answer (MINTLINE_NATS_URL)'}", 1)
    base = base.rstrip("/")
    sys.stdout.write(f"{base}/admin/enter?code={code}\n" if base else f"{code}\n")
