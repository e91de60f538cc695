"""Feed and Engine: what comes in, what the stages make of it, and how fast; pure."""

from __future__ import annotations

from observer.dashboards.board import Board, Row
from observer.dashboards.limits import ANY_IS_FAIR, LEFT_IS_GOOD, Limits
from observer.dashboards.panels import (
    BYTES,
    COUNT,
    EVENTS,
    MESSAGES,
    PER_MINUTE,
    RATIO,
    SECONDS,
    SOL,
    Meaning,
    lines,
    spread,
    states,
    tile,
)
from observer.dashboards.promql import OFTEN, SHOWN, age, most, per_minute, per_second, quantile, risen, share, total

_RUNS = {1: Meaning("running", "green"), 0: Meaning("stopped", "red")}
_OBJECTIVES = (
    ("freshness", "feed_stale:ratio_avg", "MintlineFreshnessBudgetBurn"),
    ("latency", "frame_to_fill_slow:ratio_rate", "MintlineLatencyBudgetBurn"),
    ("canaries", "canary_stale:ratio_avg", "MintlineCanaryBudgetBurn"),
)


def board(limits: Limits) -> Board:
    return Board(
        uid="mintline-feed",
        title="Feed and Engine",
        about="What comes in, what the stages make of it, how fast, and whether the objectives are met.",
        jobs="mintline_process_ready",
        rows=(_glance(limits), _feed(limits), _stages(), _durations(limits), _canaries(), _decisions(),
              _objectives(limits), _use()),
    )  # fmt: skip


def _left(limits: Limits, ratio: str, alert: str) -> str:
    return f"1 - mintline:{ratio}30d / {limits.budget(alert):g}"


def _glance(limits: Limits) -> Row:
    (_, fresh, fresh_alert), (_, slow, slow_alert), _ = _OBJECTIVES
    late = f"({age('canary_last_received')}) / (max (mintline_canary_interval_seconds) > 0)"
    return Row("At a glance", (
        tile("Feed", "Whether it is connected and subscribed.", COUNT, most("feed_running"), means=_RUNS),
        tile("Silence", "Time since TOKENS stored a creation, a trade or a migration.", SECONDS,
             age("feed_last_message"), steps=limits.check("feed_silence_s")),
        tile("Coins a minute", "Creations that TOKENS stored in the last minute.", COUNT, most("tokens_per_minute"),
             steps=limits.check("tokens_per_minute")),
        tile("Frame to fill, p95", "Time within which 95 % of the purchases are stored, from the frame they follow "
             "from.", SECONDS, quantile(0.95, "frame_to_fill_seconds"), steps=limits.alert("MintlineFillSlow")),
        tile("Freshness left", "Of the error budget of 30 days: the share that is not used up.", RATIO,
             _left(limits, fresh, fresh_alert), steps=LEFT_IS_GOOD, trend=False),
        tile("Latency left", "Of the error budget of 30 days: the share that is not used up.", RATIO,
             _left(limits, slow, slow_alert), steps=LEFT_IS_GOOD, trend=False),
        tile("Canary, in intervals", "How long ago the newest canary was sent that has come through the whole line, in "
             "times between two of them.", COUNT, late, steps=limits.alert("MintlineCanaryLate"), decimals=1),
        tile("Cost a day", "What the venue charges at the pace of the last minute.", SOL,
             f"{most('feed_cost_per_day_lamports')} / 1e9", decimals=3),
    ))  # fmt: skip


def _feed(limits: Limits) -> Row:
    twice = share("duplicates_total", "duplicates_total", "published_total")
    return Row("Feed: rate and errors", (
        lines("Frames", "Heard from the venue, by what they were.", EVENTS,
              {"{{outcome}}": per_second("frames_total", "outcome")}, stacked=True),
        lines("Creations and trades", "Heard from the venue.", PER_MINUTE,
              {"creations": per_minute("tokens_received_total"), "trades": per_minute("trades_received_total")}),
        lines("Silence", "Time since TOKENS stored an event of the feed.", SECONDS,
              {"any event": age("feed_last_message"), "a creation": age("tokens_created_last")},
              steps=limits.check("feed_silence_s")),
        states("Feed", "When it was connected and subscribed.", {"{{instance}}": most("feed_running", "instance")},
               _RUNS, width=8, height=6),
        lines("Interruptions", "Attempts to connect again, and gaps that were recorded.", COUNT,
              {"reconnects": risen("feed_reconnects_total"), "gaps": risen("feed_gaps_total")}, bars=True, height=6),
        lines("Published twice", "Share of the published messages that the broker had already. The line is where "
              "MintlineDuplicatesHigh begins.", RATIO, {"duplicates": twice},
              steps=limits.alert("MintlineDuplicatesHigh"), height=6),
    ))  # fmt: skip


def _stages() -> Row:
    late = "time() - min by (job) (mintline_oldest_unsettled_timestamp_seconds)"
    return Row("Stages: rate and errors", (
        lines("In", "Messages that each stage takes; bots take signals.", MESSAGES,
              {"{{job}}": per_second("messages_in_total", "job"), "bots": per_second("signals_total")}),
        lines("Out", "Messages that each stage stores; bots store lines of the ledger.", MESSAGES,
              {"{{job}}": per_second("messages_out_total", "job"), "bots": per_second("appends_total")}),
        lines("Oldest at work", "Age of the oldest message that a stage has taken and not settled; nothing where there "
              "is none.", SECONDS, {"{{job}}": late}),
        lines("Dead letters", "Messages that could not be processed, by stage and reason.", COUNT,
              {"{{job}} {{kind}}": risen("dead_letters_total", "job", "kind")}, bars=True, stacked=True),
        lines("Started again", "Times that a stage started again, by reason, and that it took a part over.", COUNT,
              {"{{job}} {{kind}}": risen("interruptions_total", "job", "kind"),
               "{{job}} took over": risen("takeovers_total", "job")}, bars=True, stacked=True),
        lines("Repeated", "Messages delivered again after an interruption, and outputs left out as they were there.",
              COUNT, {"{{job}} delivered again": risen("messages_repeated_total", "job"),
                      "{{job}} left out": risen("outputs_known_total", "job"),
                      "bots delivered again": risen("signals_repeated_total")}, bars=True, stacked=True),
    ))  # fmt: skip


def _durations(limits: Limits) -> Row:
    buckets = f"sum by (le) (increase(mintline_frame_to_fill_seconds_bucket[{OFTEN}]))"
    return Row("Stages: duration", (
        lines("A stage's group, p50 and p99", "Time from taking a group of messages to having its results stored and "
              "acknowledged. A dot is one group, with its trace. The line is where MintlineStageSlow begins.", SECONDS,
              {f"{{{{stage}}}} p{q * 100:g}": quantile(q, "stage_duration_seconds", "stage") for q in (0.5, 0.99)},
              steps=limits.alert("MintlineStageSlow"), width=12, examples=True),
        lines("Frame to fill, p50, p95 and p99", "Time from the frame to the stored fill of a purchase; the paper "
              "venue's landing delay is part of it. A dot is one purchase, with its trace. The line is where "
              "MintlineFillSlow begins.", SECONDS,
              {f"p{q * 100:g}": quantile(q, "frame_to_fill_seconds") for q in (0.5, 0.95, 0.99)},
              steps=limits.alert("MintlineFillSlow"), width=12, examples=True),
        spread("Frame to fill", "How many purchases took how long.", buckets, width=24),
    ))  # fmt: skip


def _canaries() -> Row:
    stages = age("canary_stage_last", "stage")
    return Row("Canaries: the whole way, also without traffic", (
        lines("Newest canary", "How long ago the newest canary was sent that each stage is done with: the first stage "
              "that stands still is where the line is cut.", SECONDS,
              {"{{stage}}": stages, "the whole way": age("canary_last_received")}, width=12),
        lines("Canary stored", "Time from the sending of a canary to its storing behind a stage, for 95 % of them.",
              SECONDS, {"{{stage}}": quantile(0.95, "canary_delay_seconds", "stage")}, width=12),
    ))  # fmt: skip


def _decisions() -> Row:
    return Row("Engine", (
        lines("Decisions", "By the strategy that they come from.", PER_MINUTE,
              {"{{strategy}}": per_minute("decisions_total", "strategy")}, stacked=True),
        lines("Decisions, matched", "Decisions that dispatch addressed to users, and those that no user's bot wanted.",
              PER_MINUTE, {"{{strategy}}": per_minute("decisions_matched_total", "strategy"),
                           "nobody's": per_minute("unmatched_total")}),
        lines("Rug alarms", "Alarms raised about coins, by kind.", COUNT,
              {"{{kind}}": risen("rug_alarms_total", "kind")}, bars=True, stacked=True),
        lines("What a strategy said", "Times that a strategy was asked about a token, by what came of it.", EVENTS,
              {"{{strategy}} {{outcome}}": f"topk(15, {per_second('judged_total', 'strategy', 'outcome')} > 0)"},
              width=16),
        lines("Analysed", "Tokens whose analysis was opened, and events that the analysis knew already.", PER_MINUTE,
              {"tokens": per_minute("tokens_analyzed_total"), "known events": per_minute("events_repeated_total")}),
    ))  # fmt: skip


def _objectives(limits: Limits) -> Row:
    panels = []
    for name, ratio, alert in _OBJECTIVES:
        burnt = {window: f"mintline:{ratio}{window} / {limits.budget(alert):g}" for window in ("1h", "6h", "1d", "3d")}
        panels.append(
            lines(f"Budget of {name}, burnt", "How many times as fast as 30 days allow, over windows of that length. "
                  f"The lines are where {alert} begins, over its longer window: over 1 h critical, over 1 d a warning.",
                  COUNT, burnt, steps=limits.burn(alert))
        )  # fmt: skip
    return Row("Objectives", panels)


def _use() -> Row:
    return Row("Use and saturation", (
        lines("Tokens open", "Tokens with an open analysis.", COUNT, {"tokens": total("tokens_open")}, height=7),
        lines("Subscriptions", "Mints whose trades are subscribed.", COUNT, {"mints": most("feed_subscriptions")},
              height=7),
        lines("Waiting for the broker", "Messages of the feed in memory and on disk.", COUNT,
              {"in memory": most("buffered_messages"), "on disk": most("spooled_messages")}, height=7),
        lines("Spool", "Bytes on disk that the broker has not taken yet.", BYTES, {"spool": most("spooled_bytes")},
              height=7),
        lines("Parts", "Parts of a stage that its processes work on, and keep ready to take over.", COUNT,
              {"{{job}} works on": total("parts_owned", "job"),
               "{{job}} keeps ready": total("parts_standing_by", "job")}, height=7),
        lines("Models", "Models for AI_PREDICTIONS in memory; one is in use or not.", COUNT,
              {"in memory": most("models"), "in use": most("model_in_use")}, height=7),
        tile("Spool full", "Whether the feed is not being read because there is no more room.", COUNT,
             most("spool_full"), means={1: Meaning("full", "red"), 0: Meaning("no", "green")}, width=6),
        tile("Refused for good", "Messages that the broker refused for good, in the time shown.", COUNT,
             risen("publish_refused_total", over=SHOWN), steps=ANY_IS_FAIR, trend=False, width=6),
        tile("Model files refused", "Model files that could not be used, in the time shown.", COUNT,
             risen("models_refused_total", over=SHOWN), steps=ANY_IS_FAIR, trend=False, width=6),
        tile("Cost so far", "What the venue charged in the time shown.", SOL,
             f"{risen('feed_cost_lamports_total', over=SHOWN)} / 1e9", trend=False, width=6, decimals=4),
    ))  # fmt: skip
