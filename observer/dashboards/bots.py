"""Bots and Business: what the users' bots do, and what it is worth; pure."""

from __future__ import annotations

from observer.dashboards.board import Board, Row
from observer.dashboards.limits import Limits
from observer.dashboards.panels import (
    COUNT,
    EVENTS,
    PER_MINUTE,
    RATIO,
    SECONDS,
    SOL,
    dial,
    lines,
    ranking,
    spread,
    tile,
)
from observer.dashboards.promql import OFTEN, SHOWN, most, per_minute, per_second, quantile, risen, share, total

_PROFIT = f"{total('realised_lamports')} / 1e9"
_REFUSED = share("refused_total", "refused_total", "fills_total")


def board(limits: Limits) -> Board:
    return Board(
        uid="mintline-bots",
        title="Bots and Business",
        about="What the users' bots do, what they refuse and why, and what it is worth.",
        jobs="mintline_process_ready",
        rows=(_glance(limits), _orders(), _durations(limits), _business(limits), _step(), _use()),
    )


def _glance(limits: Limits) -> Row:
    used = 'max (mintline_active_bots{job="observer"} / (mintline_max_capacity_bots > 0))'
    return Row("At a glance", (
        tile("Bots", "Users whose bot is wanted running.", COUNT, most('active_bots{job="observer"}')),
        dial("Capacity", "Bots, of those that this installation is meant for.", used,
             steps=limits.alert("MintlineNearCapacity")),
        tile("Positions", "Open over all users.", COUNT, total("open_positions")),
        tile("Profit", "Of all sales, fees included, over the whole ledger.", SOL, _PROFIT, decimals=2),
        tile("Opportunities", "Coins that a strategy announced to buy, in 24 hours.", COUNT,
             most("opportunities_last_day"), steps=limits.alert("MintlineFewOpportunities")),
        tile("Mean return", "The plain mean of the opportunities' returns, in 24 hours.", RATIO,
             most("roi_mean_ratio")),
        tile("Sources", "Places where coins trade that launched one, in 24 hours.", COUNT, most("active_sources")),
        tile("Refused", "Of all signals and orders, in the time shown.", RATIO,
             _REFUSED.replace(OFTEN, SHOWN), trend=False),
    ))  # fmt: skip


def _orders() -> Row:
    return Row("Bots: rate and errors", (
        lines("Signals", "Taken for the first time.", EVENTS, {"signals": per_second("signals_total")}),
        lines("Fills", "Orders filled, by side.", PER_MINUTE, {"{{side}}": per_minute("fills_total", "side")},
              colours={"BUY": "green", "SELL": "orange"}),
        lines("Refused", "Signals and orders that were refused, of all.", RATIO, {"refused": _REFUSED}),
        lines("Refusals", "Signals and orders refused, by reason.", PER_MINUTE,
              {"{{reason}}": f"{per_minute('refused_total', 'reason')} > 0"}, width=12, stacked=True),
        lines("Exits", "Positions sold from, by reason.", PER_MINUTE,
              {"{{reason}}": f"{per_minute('exits_total', 'reason')} > 0"}, width=12, stacked=True),
    ))  # fmt: skip


def _business(limits: Limits) -> Row:
    top = {"{{rank}}": "sort(max by (rank) (mintline_roi_top_ratio))"}
    return Row("Business", (
        lines("Profit", "Of all sales, fees included, over the whole ledger, by the strategy that bought.", SOL,
              {"all": _PROFIT, "{{strategy}}": f"{total('realised_lamports', 'strategy')} / 1e9"}, width=12),
        ranking("Five best", "The highest returns of an opportunity in 24 hours, by rank.", RATIO, top, width=12),
        lines("Opportunities", "Coins that a strategy announced to buy, in the 24 hours before. The line is where "
              "MintlineFewOpportunities begins.", COUNT, {"opportunities": most("opportunities_last_day")},
              steps=limits.alert("MintlineFewOpportunities")),
        lines("Mean return", "The plain mean of the opportunities' returns in the 24 hours before.", RATIO,
              {"mean": most("roi_mean_ratio")}),
        lines("Sources", "Places where coins trade that launched one in the 24 hours before.", COUNT,
              {"sources": most("active_sources")}),
    ))  # fmt: skip


def _durations(limits: Limits) -> Row:
    buckets = f'sum by (le) (increase(mintline_stage_duration_seconds_bucket{{stage="bots"}}[{OFTEN}]))'
    return Row("Bots: duration", (
        lines("Frame to fill", "Time from the frame to the stored fill of a purchase. A dot is one purchase, with its "
              "trace. The line is where MintlineFillSlow begins.", SECONDS,
              {f"p{q * 100:g}": quantile(q, "frame_to_fill_seconds") for q in (0.5, 0.95, 0.99)},
              steps=limits.alert("MintlineFillSlow"), width=12, examples=True),
        spread("A round of the bots", "How many groups of messages took how long, to having their results stored and "
               "acknowledged.", buckets),
    ))  # fmt: skip


def _step() -> Row:
    return Row("In step", (
        lines("Wanted and known", "Users whose bot is wanted running, as observer and bots count them, and those in "
              "dispatch's index. `mintline doctor` names whoever is not the same everywhere.", COUNT,
              {"wanted, as the {{job}} process counts": most("active_bots", "job"), "in the index": most("users")}),
        lines("Oldest at work", "Age of the oldest signal that bots have taken and not settled; nothing where there is "
              "none.", SECONDS, {"{{instance}}": 'time() - min by (instance) '
                                 '(mintline_oldest_unsettled_timestamp_seconds{job="bots"})'}),
        lines("Late", "Events, signals and alarms that came after the settling time of what happened before them.",
              COUNT, {"late": risen("late_total")}, bars=True),
    ))  # fmt: skip


def _use() -> Row:
    return Row("Use and saturation", (
        lines("Positions and orders", "Open positions, and orders decided and not yet landed.", COUNT,
              {"positions": total("open_positions"), "orders": total("pending_orders")}),
        lines("In memory", "Users with a ledger in memory, and mints whose trades are followed.", COUNT,
              {"ledgers": total("accounts"), "mints": total("mints_followed")}),
        lines("Partitions", "Partitions that each process works on.", COUNT,
              {"{{instance}}": total("partitions_owned", "instance")}, stacked=True),
        lines("Ledger", "Lines stored, and lines read back at a start or a takeover.", EVENTS,
              {"stored": per_second("appends_total"), "read back": per_second("lines_folded_total")}),
        lines("Snapshots", "Accounts and marks written to the bucket `folds`.", EVENTS,
              {"snapshots": per_second("snapshots_total")}),
        lines("Configurations refused", "Configurations in the bucket that cannot be used, by process.", COUNT,
              {"{{job}}": risen("configs_refused_total", "job")}, bars=True),
    ))  # fmt: skip
