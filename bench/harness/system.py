"""mintline as an installation has it: all six processes, demo users, default settings."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from harness.arms import Arm
from harness.line import EVERYTHING, Line
from harness.measure import MakeArm
from portal.demo import demo_users


def whole_system(users: int) -> MakeArm:
    return partial(_system, users=users)


def _system(directory: Path, users: int) -> Arm:
    return Line(directory, list(demo_users(users)), waits=None, services=EVERYTHING, witnessed=False)
