"""What to do about a check that is not good, in a sentence; pure."""

from __future__ import annotations

from typing import Final

_REMEDIES: Final = {
    "broker": "Start nats-server, or look into its log; every process goes on by itself once it is back.",
    "broker_health": "Where it says `write error`: make room on its volume, then start nats-server again.",
    "broker_reachable": "Start nats-server (`mintline up` does), or set MINTLINE_NATS_URL to where it listens.",
    "observer_reachable": "Start observer, or look into its log: nobody else can say how the line is.",
    "portal_reachable": "Look into portal's log; the supervisor of `mintline up` starts it again.",
    "processes_reachable": "Look into the log of the process that is named: does its event loop turn?",
    "feed_running": "Look into ingest's log: is the venue reachable, is the key right? It reconnects by itself.",
    "feed_silence": "See whether the venue itself is silent; ingest reconnects by itself and records the gap.",
    "tokens_per_minute": "Compare with the venue's own page: a slow market, or a subscription that was lost.",
    "decisions_overdue": "Look at `mintline lag` and into analyze's log: tokens come, and nothing is decided on them.",
    "fills_overdue": "Look at `mintline lag` and into bots' log: signals wait, and the ledger does not grow.",
    "cpu": "See which process it is; a further analyze or bots process on another machine takes a share.",
    "memory": "See which process grows; below the control group's limit the kernel kills it.",
    "disk": "Make room on the volume of the data: old recordings, logs and backups first.",
    "stalled_memory": "See which process grows: memory is taken from one to serve another, and soon one is killed.",
    "stalled_io": "See who writes so much, or whether the disk fails: the broker waits for it with each message.",
    "process": "Look into the log of the process; start it again if its supervisor does not.",
    "lag": "Look at `mintline lag`: is the stage stopped, or too slow? A further process of it takes a share.",
    "canary": "See `mintline_canary_stage_last_timestamp_seconds`: the first stage that stands still is the one.",
    "ack_saturation": "Look into the log of the stage that reads this consumer: it takes messages and settles none.",
    "not_fetching": "Start the stage that reads this consumer, or again if it runs: nobody asks for its messages.",
    "stream_room": "Raise the stream's limit or make room: beyond it publishing is refused.",
    "replay_window": "Raise the stream's limit: history is lost before its time.",
    "bots_in_step": "Look into dispatch's and bots' logs for `config_refused`; `mintline bot status USER` says more.",
    "backup_age": "Run `mintline backup create`, and see in observer's log why the schedule did not.",
    "backup_unverified": "Run `mintline backup verify`: a backup that was never restored is a hope.",
    "secrets_store": "Ask Vault's operator; for a sealed one: `vault operator unseal`.",
    "feed_budget": "Hold fewer coins or raise MINTLINE_OBSERVER_FEED_BUDGET_SOL: trades are paid for one by one.",
}


def remedy(name: str) -> str:
    """Of a check by its name, or else by its kind: `lag_bots` is a `lag`."""
    return _REMEDIES.get(name) or _REMEDIES.get(name.partition("_")[0], "See docs/health.md.")
