"""From where on a value is a warning, and from where on it is critical: settings, read by `checks.py`."""

from __future__ import annotations

from typing import Annotated

import msgspec

from runtime.settings import Common, Settings, SettingsError

Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Span = Annotated[float, msgspec.Meta(gt=0)]


class Thresholds(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`_max` is the largest value that is good, `_min` the smallest; beyond `_critical` it is critical, in between a
    warning.

    cpu_percent_max, cpu_percent_critical: of all cores, mean of the last 30 s.
    memory_percent_max, memory_percent_critical: of the machine, or of the control group where that is less.
    disk_percent_max, disk_percent_critical: of the volume that holds the data.
    stalled_memory_percent_max, stalled_memory_percent_critical, stalled_io_percent_max, stalled_io_percent_critical:
        of the last minute, the time in which nothing could go on for want of memory, or of the disk.
    feed_silence_s_max, feed_silence_s_critical: seconds since TOKENS stored anything.
    tokens_per_minute_min, tokens_per_minute_critical: creations that TOKENS stored in the last minute.
    decisions_overdue_s_max, decisions_overdue_s_critical: seconds without a decision while tokens came.
    fills_overdue_s_max, fills_overdue_s_critical: seconds without a line of the ledger while a signal waited for one.
    process_silence_s_max, process_silence_s_critical: seconds since a process was heard.
    lag_s_max, lag_s_critical: age of the first message that a stage has not acknowledged; signals expire after 30 s.
    stall_s_max, stall_s_critical: seconds for which a consumer has had nine tenths of what it may have unacknowledged
        and acknowledged none, or for which nobody has fetched from it although messages wait.
    stream_percent_max, stream_percent_critical: of the room of a stream or bucket that refuses messages when full.
    replay_percent_min, replay_percent_critical: of its declared age that a full stream still holds.
    desync_users_max, desync_users_critical: users whose bot is not, or not everywhere, as it is wanted.
    backup_age_h_max, backup_age_h_critical: hours since the last backup succeeded.
    backup_unverified_d_max, backup_unverified_d_critical: days since a backup last passed its restore drill.
    vault_url: address of a HashiCorp Vault whose health is watched, e.g. https://vault:8200; empty for none.
    feed_budget_sol: what the feed may cost a day; 0 where nothing is set.
    feed_budget_percent_max, feed_budget_percent_critical: of that, at the pace of the last hour.
    """

    cpu_percent_max: Percent = 80.0
    cpu_percent_critical: Percent = 95.0
    memory_percent_max: Percent = 85.0
    memory_percent_critical: Percent = 95.0
    disk_percent_max: Percent = 90.0
    disk_percent_critical: Percent = 95.0
    stalled_memory_percent_max: Percent = 10.0
    stalled_memory_percent_critical: Percent = 40.0
    stalled_io_percent_max: Percent = 40.0
    stalled_io_percent_critical: Percent = 80.0
    feed_silence_s_max: Span = 60.0
    feed_silence_s_critical: Span = 300.0
    tokens_per_minute_min: Count = 5
    tokens_per_minute_critical: Count = 1
    decisions_overdue_s_max: Span = 300.0
    decisions_overdue_s_critical: Span = 900.0
    fills_overdue_s_max: Span = 30.0
    fills_overdue_s_critical: Span = 120.0
    process_silence_s_max: Span = 5.0
    process_silence_s_critical: Span = 15.0
    lag_s_max: Count = 10
    lag_s_critical: Count = 30
    stall_s_max: Span = 30.0
    stall_s_critical: Span = 120.0
    stream_percent_max: Percent = 80.0
    stream_percent_critical: Percent = 95.0
    replay_percent_min: Percent = 50.0
    replay_percent_critical: Percent = 10.0
    desync_users_max: Count = 0
    desync_users_critical: Count = 10
    backup_age_h_max: Span = 26.0
    backup_age_h_critical: Span = 50.0
    backup_unverified_d_max: Span = 8.0
    backup_unverified_d_critical: Span = 15.0
    vault_url: str = ""
    feed_budget_sol: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    feed_budget_percent_max: Annotated[float, msgspec.Meta(gt=0)] = 80.0
    feed_budget_percent_critical: Annotated[float, msgspec.Meta(gt=0)] = 100.0

    def check(self, common: Common) -> None:
        """Two limits in the wrong order would make every value a warning, or none."""
        if self.vault_url and not self.vault_url.startswith(("http://", "https://")):
            raise SettingsError("MINTLINE_OBSERVER_VAULT_URL: begins with http:// or https://")
        for field in self.__struct_fields__:
            stem, _, end = field.rpartition("_")
            if end != "critical":
                continue
            most, least = getattr(self, f"{stem}_max", None), getattr(self, f"{stem}_min", None)
            critical = getattr(self, field)
            if (most is not None and critical < most) or (least is not None and critical > least):
                which = "max" if most is not None else "min"
                raise SettingsError(
                    f"MINTLINE_OBSERVER_{field.upper()}: {critical:g} lies before "
                    f"MINTLINE_OBSERVER_{stem.upper()}_{which.upper()}, {most if most is not None else least:g}"
                )
