"""What tests of backups share: settings that leave no room, and a broker to restore into."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from observer.backup.backups import BackupSettings
from runtime.embedded import broker_config
from runtime.settings import Common
from runtime.testing import Broker

SETTINGS = BackupSettings(backup_disk_reserve_bytes=0, backup_s_max=120.0)
PARTITIONS = 4


def common(broker: Broker, tmp_path: Path) -> Common:
    return Common(nats_url=broker.url, data_dir=str(tmp_path / "data"), partitions=PARTITIONS)


@contextlib.asynccontextmanager
async def another(tmp_path: Path) -> AsyncIterator[Broker]:
    """A broker that does not sync each message, so that a restoration is quick."""
    text = broker_config().read_text().replace("sync_interval: always", 'sync_interval: "1s"')
    config = tmp_path / "unsynced.conf"
    config.write_text(text)
    broker = Broker(tmp_path / "another", config)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()
