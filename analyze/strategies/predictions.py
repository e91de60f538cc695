"""AI_PREDICTIONS: what a trained model says of a coin, once, at its decision point.

The decision point is the first trade heard DECISION_AGE_NS or more after the creation, while the coin is on its curve
and its trades are watched. Training takes its rows at the same point by the same code (`analyze/rows.py`), so what a
model meets is what it was trained on. The score is the model's probability in percent, rounded down; the reasons are
what each feature added to the log-odds, in hundredths.

Without a model the strategy is silent, and the token's point passes all the same: what is decided after a restart does
not depend on when a model came.
"""

from __future__ import annotations

from typing import Final

from analyze.features import Look
from analyze.score import Scored, Silence
from analyze.windows import SECOND_NS

# Half a minute of trades tells something of the crowd; the median coin that ever doubles has not done so by then.
DECISION_AGE_NS: Final = 30 * SECOND_NS


def judge(look: Look) -> Scored | Silence:
    token = look.token
    if look.predictor is None:
        return Silence.NO_MODEL
    if token.migrated:
        return Silence.MIGRATED
    if token.complete:
        return Silence.COMPLETE
    if not look.at_decision_point:
        return Silence.TOO_EARLY if look.now_ns < token.created_at_ns + DECISION_AGE_NS else Silence.POINT_OVER
    return look.predictor.predict(look)
