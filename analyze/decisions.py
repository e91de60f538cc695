"""An opinion or an alarm -> the decision that says it, its time and id derived from the event."""

from __future__ import annotations

from typing import Final

from analyze import alarms
from analyze.alarms import Alarm
from analyze.features import Look
from analyze.score import Scored, risk_of
from analyze.tokens import Token
from schemas.events import Decision, Origin, Side, Strategy, TokenCreated, TokenTraded, decision_id

# What moved a score most; each reason travels to each user.
REASONS_MAX: Final = 12


def buy(
    event: TokenCreated | TokenTraded, token: Token, strategy: Strategy, opinion: Scored, previous_score: int
) -> Decision:
    return Decision(
        id=decision_id(event.id, strategy),
        strategy=Origin(strategy),
        side=Side.BUY,
        mint=event.mint,
        creator=token.creator,
        score=opinion.score,
        previous_score=previous_score,
        risk=risk_of(opinion.score),
        reasons=opinion.reasons[:REASONS_MAX],
        features=opinion.used,
        arithmetic_known=token.arithmetic_known,
        market=token.market,
        decided_at_ns=event.seen_at_ns,
    )


def sell(event: TokenTraded, token: Token, rung: list[Alarm], previous_severity: int, look: Look) -> Decision:
    """score: the severity of the worst alarm. market: None for a trade in a pool."""
    features = look.features
    return Decision(
        id=f"{event.id}:{Origin.RUG_ALARM}",
        strategy=Origin.RUG_ALARM,
        side=Side.SELL,
        mint=event.mint,
        creator=token.creator,
        score=rung[0].severity,
        previous_score=previous_severity,
        risk=None,
        reasons=tuple(f"{alarm.label}:{alarm.severity:+d}" for alarm in rung),
        features={name: features[name] for name in alarms.FEATURES},
        arithmetic_known=token.arithmetic_known,
        market=event.market,
        decided_at_ns=event.seen_at_ns,
    )
