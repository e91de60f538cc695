"""System Health: the six processes, the host, and what tells people; pure."""

from __future__ import annotations

from observer.dashboards.board import Board, Row
from observer.dashboards.limits import ANY_IS_BAD, ANY_IS_FAIR, BAD, DAY_S, FAIR, GOOD, HOUR_S, PERCENT, PLAIN, Limits
from observer.dashboards.panels import (
    BYTES,
    BYTES_A_SECOND,
    COUNT,
    EVENTS,
    RATIO,
    REQUESTS,
    SECONDS,
    SINCE,
    UP_OR_DOWN,
    YES_OR_NO,
    Column,
    dial,
    lines,
    rows,
    states,
    tile,
)
from observer.dashboards.promql import OFTEN, SHOWN, age, most, per_second, quantile, risen, share, total
from observer.figures import SERVICES

_OURS = f'job=~"{"|".join(SERVICES)}"'  # where all is chosen, Prometheus has other targets, too
_LEVELS = {"good": GOOD, "warning": FAIR, "critical": BAD, "unknown": "purple"}
_STATUSES = {"2xx": GOOD, "3xx": PLAIN, "4xx": FAIR, "5xx": BAD}
_FIRING = 'ALERTS{alertname=~"Mintline.+", alertstate="firing"'
_CPU, _MEMORY, _DISK = (
    "min (mintline_host_cpu_usage_ratio)",
    "max (mintline_host_memory_working_set_bytes / (mintline_host_memory_limit_bytes > 0))",
    "max (1 - mintline_host_disk_available_bytes / (mintline_host_disk_size_bytes > 0))",
)

_DISK_TOMORROW = (
    "max (1 - predict_linear(mintline_host_disk_available_bytes[1h], 86400) / (mintline_host_disk_size_bytes > 0))"
)


def board(limits: Limits) -> Board:
    return Board(
        uid="mintline-system",
        title="System Health",
        about="The six processes and what they run on; alerts, notifications, jobs and backups.",
        jobs="mintline_process_ready",
        rows=(_glance(limits), _portal(limits), _processes(limits), _troubles(limits), _host(limits), _told(limits),
              _jobs(), _backups(limits)),
    )  # fmt: skip


def _glance(limits: Limits) -> Row:
    def firing(severity: str) -> str:
        return f'count({_FIRING}, severity="{severity}"}}) or vector(0)'

    down = f"count(max by (job) (up{{{_OURS}}}) == 0) or vector(0)"
    idle = f"count({most('process_ready', 'job')} == 0) or vector(0)"
    return Row("At a glance", (
        tile("Processes down", "Services of which no instance answers Prometheus.", COUNT, down, steps=ANY_IS_BAD),
        tile("Not ready", "Services that answer and do not work.", COUNT, idle, steps=ANY_IS_FAIR),
        tile("Broker", "Whether any process is connected to it.", COUNT, most("broker_up"), means=UP_OR_DOWN),
        tile("Critical alerts", "Alerts that fire now, critical ones.", COUNT, firing("critical"), steps=ANY_IS_BAD),
        tile("Warnings", "Alerts that fire now, warnings.", COUNT, firing("warning"), steps=ANY_IS_FAIR),
        dial("CPU", "Of the CPU time that may be used.", _CPU, steps=limits.check("cpu_percent", PERCENT)),
        dial("Memory", "Of the memory that may be used.", _MEMORY, steps=limits.check("memory_percent", PERCENT)),
        dial("Disk", "Of the volume that holds the data.", _DISK, steps=limits.check("disk_percent", PERCENT)),
    ))  # fmt: skip


def _portal(limits: Limits) -> Row:
    failed = share('requests_total{status="5xx"}', "requests_total")
    return Row("Portal: rate and errors", (
        lines("Requests", "Answered by the portal, by class of HTTP status.", REQUESTS,
              {"{{status}}": per_second("requests_total", "status")}, stacked=True, colours=_STATUSES),
        lines("Failed requests", "Share that was answered with an error of ours (5xx). The line is where "
              "MintlinePortalErrors begins.", RATIO, {"5xx": failed}, steps=limits.alert("MintlinePortalErrors")),
        lines("Refused requests", "Requests and logins that the portal refused, by reason or way.", COUNT,
              {"{{reason}}": risen("requests_refused_total", "reason"),
               "login by {{way}}": risen('logins_total{outcome="refused"}', "way"),
               "observer did not answer": risen("observer_silent_total"),
               "bots did not answer": risen("bots_silent_total")}, bars=True, stacked=True),
    ))  # fmt: skip


def _processes(limits: Limits) -> Row:
    each = ("job", "instance")
    columns = (
        Column("Up", f"max by (job, instance) (up{{{_OURS}}})", means=YES_OR_NO),
        Column("Ready", most("process_ready", *each), means=YES_OR_NO),
        Column("Broker", most("broker_up", *each), means=UP_OR_DOWN),
        Column("Started", f"1000 * {most('process_start_time_seconds', *each)}", SINCE),
        Column("CPU", per_second("process_cpu_seconds_total", *each), RATIO),
        Column("Memory", most("process_resident_memory_bytes", *each), BYTES),
        Column("Files of limit", "max by (job, instance) (mintline_process_open_fds / mintline_process_max_fds)",
               RATIO),
        Column("Loop late, p99", quantile(0.99, "event_loop_lag_seconds", *each), SECONDS,
               limits.alert("MintlineEventLoopLag")),
        Column("Samples", f"max by (job, instance) (scrape_samples_post_metric_relabeling{{{_OURS}}})", COUNT,
               limits.alert("MintlineSeriesBudget")),
    )  # fmt: skip
    return Row("Processes", (
        rows("Processes", "Each instance, as Prometheus sees it and as it says of itself.",
             {"job": "Process", "instance": "Instance"}, columns, first="Process"),
        states("Ready", "When each process did its work.", {"{{job}}": most("process_ready", "job")}, YES_OR_NO,
               height=7),
        lines("CPU", "Cores that each process uses.", COUNT,
              {"{{job}}": per_second("process_cpu_seconds_total", "job")}, stacked=True, width=12, height=7),
        lines("Memory", "Resident memory of each process.", BYTES,
              {"{{job}}": total("process_resident_memory_bytes", "job")}, stacked=True, width=12, height=7),
        lines("Event loop", "How late the loop of a process wakes up: the 99th percentile. The line is where "
              "MintlineEventLoopLag begins.", SECONDS,
              {"{{job}}": quantile(0.99, "event_loop_lag_seconds", "job")},
              steps=limits.alert("MintlineEventLoopLag"), width=12, height=7),
    ))  # fmt: skip


def _troubles(limits: Limits) -> Row:
    return Row("Errors and verdicts", (
        lines("Errors logged", "Records of level warning and error, by process.", COUNT,
              {"{{job}} {{level}}": risen('log_records_total{level=~"warning|error"}', "job", "level")}, bars=True,
              stacked=True),
        lines("Health checks", "The observer's checks by level; `mintline doctor` says which.", COUNT,
              {"{{level}}": most("checks", "level")}, stacked=True, colours=_LEVELS),
        lines("Silence of a process", "Time since a process was heard on the broker, where each speaks once a second.",
              SECONDS, {"{{service}}": age("process_last_seen", "service")},
              steps=limits.check("process_silence_s")),
        lines("Availability", "Share of the last hour in which each process could be asked. The line is where "
              "MintlineAvailabilityLow begins.", RATIO, {"{{job}}": 'job:up:avg_1h{job=~"$job"}'},
              steps=limits.alert("MintlineAvailabilityLow"), most=1),
        lines("Restarts", "Starts of each process after its first.", COUNT,
              {"{{job}}": f"sum by (job) (changes(mintline_process_start_time_seconds[{OFTEN}]))"}, bars=True),
        lines("Unanswered questions", "Questions of the observer's health checks that got no answer in time.", COUNT,
              {"{{of}}": risen("probes_failed_total", "of"), "poll": risen("polls_failed_total")}, bars=True,
              stacked=True),
    ))  # fmt: skip


def _host(limits: Limits) -> Row:
    def stalled(resource: str, tasks: str) -> str:
        return per_second(f'host_pressure_seconds_total{{resource="{resource}", tasks="{tasks}"}}')

    throttled = share("host_cpu_throttled_periods_total", "host_cpu_periods_total")
    return Row("Host: use and saturation", (
        lines("CPU", "Of the CPU time that may be used, under a control group's limit where there is one; and in how "
              "many periods that limit was met.", RATIO, {"used": _CPU, "throttled": throttled},
              steps=limits.check("cpu_percent", PERCENT), most=1),
        lines("Memory", "What cannot be reclaimed easily, of what may be used.", RATIO, {"used": _MEMORY},
              steps=limits.check("memory_percent", PERCENT), most=1),
        lines("Disk", "Of the volume that holds the data; and where it will be in a day at the pace of the last hour.",
              RATIO, {"used": _DISK, "in a day": _DISK_TOMORROW}, steps=limits.check("disk_percent", PERCENT)),
        lines("Memory in bytes", "Memory in use, and how much may be.", BYTES,
              {"in use": most("host_memory_working_set_bytes"), "limit": most("host_memory_limit_bytes")}),
        lines("Free disk", "Free room on the volume that holds the data.", BYTES,
              {"free": "min (mintline_host_disk_available_bytes)"}),
        lines("Network", "All interfaces together.", BYTES_A_SECOND,
              {"in": per_second("host_network_receive_bytes_total"),
               "out": per_second("host_network_transmit_bytes_total")}),
        lines("Waiting for the CPU", "Share of the time in which some task could run and had no CPU, where the kernel "
              "tells.", RATIO, {"some tasks": stalled("cpu", "some")}, most=1),
        lines("Waiting for memory", "Share of the time in which some tasks, or all, waited for memory. The lines are "
              "the health check's limits for all of them.", RATIO,
              {"some tasks": stalled("memory", "some"), "all tasks": stalled("memory", "full")},
              steps=limits.check("stalled_memory_percent", PERCENT), most=1),
        lines("Waiting for the disk", "Share of the time in which some tasks, or all, waited for the disk. The lines "
              "are the health check's limits for all of them.", RATIO,
              {"some tasks": stalled("io", "some"), "all tasks": stalled("io", "full")},
              steps=limits.check("stalled_io_percent", PERCENT), most=1),
    ))  # fmt: skip


def _told(limits: Limits) -> Row:
    which = ("alertname", "severity", "job", "stream", "durable")
    since = f"ALERTS_FOR_STATE and ignoring (alertstate) {_FIRING}}}"
    return Row("Alerts and notifications", (
        rows("Alerts that fire", "All that fire now, and since when; MintlineWatchdog always does.",
             {"alertname": "Alert", "severity": "Severity", "job": "Process", "stream": "Stream", "durable": "Durable"},
             [Column("Since", f"1000 * max by ({', '.join(which)}) ({since})", SINCE)], first="Severity", width=12,
             height=8),
        lines("Notifications", "Notifications that came to an end, by channel and how.", COUNT,
              {"{{channel}} {{state}}": risen("notifications_total", "channel", "state")}, width=12, bars=True,
              stacked=True),
        lines("Waiting", "Notifications that wait to be sent, and that are held for a digest.", COUNT,
              {"to be sent": most("notifications_queued"), "held": most("notifications_held"),
               "channels disabled": most("notification_channels_disabled")}),
        lines("Waiting and delivery", "How long the oldest notification has waited, and the time from finding an alert "
              "to a channel's having taken it, for 95 % of them.", SECONDS,
              {"oldest": age("notification_oldest_queued"),
               "{{channel}} p95": quantile(0.95, "notification_delivery_seconds", "channel")},
              steps=limits.alert("MintlineNotificationBacklog")),
        lines("Alertmanager's messages", "What Alertmanager sent to the observer, by how it was answered. The watchdog "
              "comes once a minute.", COUNT, {"{{outcome}}": risen("alert_webhooks_total", "outcome")}, bars=True,
              stacked=True),
        lines("Tries to send", "By channel and what they came to.", COUNT,
              {"{{channel}} {{result}}": risen("notification_tries_total", "channel", "result")}, bars=True,
              stacked=True),
        lines("Dead-man's switch", "Requests to the address that is told of each run, by outcome.", COUNT,
              {"{{outcome}}": risen("pings_total", "outcome")}, bars=True, stacked=True),
        lines("Spans", "What became of the spans of traces; none where tracing is off.", EVENTS,
              {"{{outcome}}": per_second("trace_spans_total", "outcome"),
               "traces kept for an error or slowness": per_second("traces_kept_total")}),
    ))  # fmt: skip


def _jobs() -> Row:
    """Prometheus calls a metric's own label `job` `exported_job`: its own `job` is the process."""

    def of(metric: str) -> str:
        return f"1000 * ({most(f'job_{metric}_timestamp_seconds', 'exported_job')} > 0)"

    columns = (
        Column("Runs now", most("job_running", "exported_job"), means=YES_OR_NO),
        Column("Last run", of("last_run"), SINCE),
        Column("Last success", of("last_success"), SINCE),
        Column("Next", of("next_due"), SINCE),
        Column("Took", most("job_last_duration_seconds", "exported_job"), SECONDS),
        Column("Not well, in the time shown", risen('job_runs_total{outcome!="ok"}', "exported_job", over=SHOWN),
               COUNT, ANY_IS_FAIR),
        Column("Missed, in the time shown", risen("job_missed_total", "exported_job", over=SHOWN), COUNT, ANY_IS_FAIR),
    )  # fmt: skip
    return Row("Schedule", (
        rows("Jobs", "What the observer does by the clock.", {"exported_job": "Job"}, columns, first="Job", height=7),
        lines("Runs", "Ends of runs, by job and outcome.", COUNT,
              {"{{exported_job}} {{outcome}}": risen("job_runs_total", "exported_job", "outcome")}, bars=True,
              stacked=True, width=24, height=6),
    ))  # fmt: skip


def _backups(limits: Limits) -> Row:
    missing = "max (mintline_backup_streams_listed - mintline_backup_streams_exempt - mintline_backup_streams)"
    return Row("Backups", (
        tile("Newest backup", "How old it is; nothing where there is none.", SECONDS, age("backup_last_success"),
             steps=limits.check("backup_age_h", HOUR_S), trend=False),
        tile("Last drill passed", "How long ago a backup was restored and compared.", SECONDS,
             age("backup_last_verified"), steps=limits.check("backup_unverified_d", DAY_S), trend=False),
        tile("Place of the backups", "Whether it could be looked at.", COUNT, most("backup_store_up"),
             means=UP_OR_DOWN),
        tile("Kept", "Backups that are there.", COUNT, most("backup_kept"), trend=False),
        tile("Damaged", "Backups that cannot be read, or whose last drill failed.", COUNT, most("backup_damaged"),
             steps=ANY_IS_BAD, trend=False),
        tile("Streams left out", "Streams that the broker had and the newest backup lacks.", COUNT, missing,
             steps=ANY_IS_BAD, trend=False),
        tile("Size", "Of the newest backup.", BYTES, most("backup_size_bytes"), trend=False),
        tile("Took", "How long the newest backup took.", SECONDS, most("backup_duration_seconds"),
             trend=False),
        tile("Last report", "How long ago the daily report was made.", SECONDS, age("report_last_success"),
             steps=limits.alert("MintlineReportMissed"), trend=False, width=8),
        tile("Way of the alerts", "How long ago the canary alert last arrived in its chat, by way of Prometheus, "
             "Alertmanager and the outbox.", SECONDS, age("alert_path_last_round_trip"),
             steps=limits.alert("MintlineAlertPathBroken"), trend=False, width=8),
        tile("Told within", "How long the canary alert took from Alertmanager to its chat.", SECONDS,
             most("alert_path_delay_seconds"), trend=False, width=8),
    ))  # fmt: skip
