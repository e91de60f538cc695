"""Rows -> a model and its report. The only module that imports scikit-learn, which no service needs.

Two kinds are tried, a logistic regression and gradient-boosted trees; the one with the better average precision out of
fold on the training rows is taken (folds keep a creator's rows together). Its calibration is Platt scaling on the same
folds. The held-out rows are looked at once, by the model that was taken.

**An edge** is an average precision on the held-out rows that at most one in CHANCE_ORDERS / 100 random orders of them
reaches, and that is EDGE_TIMES_MIN times the base rate or more: the first guards against luck, the second against a
difference too small to pay a round trip's costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from threadpoolctl import threadpool_limits

from analyze.features import FEATURE_NAMES
from analyze.model import FORMAT, Bin, Boosted, Calibration, Linear, Model, Part, Reach, Report, Tree
from analyze.rows import OUTCOME_NS, Row, outcome, positives, split
from analyze.strategies.predictions import DECISION_AGE_NS
from analyze.windows import SECOND_NS
from schemas.config import RISK_THRESHOLDS

TRAINING_POSITIVES_MIN: Final = 30
HELD_OUT_POSITIVES_MIN: Final = 10
FOLDS: Final = 5
CHANCE_ORDERS: Final = 1_000
CHANCE_PERCENTILE: Final = 99
EDGE_TIMES_MIN: Final = 1.2
BINS: Final = 10

# So large that the two numbers of the calibration are as good as free.
PLATT_C: Final = 1e6

# What seeds everything: the same rows give the same model.
_SEED: Final = 1

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


class Fitted(NamedTuple):
    """out_of_fold: average precision on the training rows, each predicted by a model that did not see its creator."""

    estimator: Any
    calibrator: LogisticRegression
    out_of_fold: float

    def predict(self, x: Floats) -> Floats:
        """Probabilities."""
        raw = self.estimator.decision_function(x)
        probabilities: Floats = self.calibrator.predict_proba(raw.reshape(-1, 1))[:, 1]
        return probabilities


class TooFewPositives(ValueError):
    """Nothing can be learnt from these rows; the sentence says what is missing."""


def fit(
    rows: Sequence[Row],
    label: str,
    *,
    recordings: Sequence[str],
    trained_at: str,
    kinds: Sequence[str] = ("logistic", "boosting"),
) -> tuple[Model | None, Report]:
    """rows: in order of their time. The model is None where no edge was found. Raises TooFewPositives."""
    training, held_out = split(rows)
    _require(training, held_out, label)
    x, y = table(training, label)
    folds = folds_of(x, y, training)
    tried = {kind: fitted_by(kind, x, y, folds) for kind in kinds}
    kind = max(kinds, key=lambda name: tried[name].out_of_fold)
    held_x, held_y = table(held_out, label)
    predicted = tried[kind].predict(held_x)
    report = _report(
        label, kind, held_y, predicted, recordings=tuple(recordings), trained_at=trained_at,
        training=_part(training, label), held_out=_part(held_out, label),
        cross_validated={name: one.out_of_fold for name, one in tried.items()},
    )  # fmt: skip
    return (as_model(tried[kind], report) if report.edge else None), report


def as_model(fitted: Fitted, report: Report) -> Model:
    """What scikit-learn fitted, as data."""
    estimator, calibrator = fitted.estimator, fitted.calibrator
    return Model(
        format=FORMAT,
        label=report.label,
        decision_age_ms=report.decision_age_ms,
        features=report.features,
        raw=_linear(estimator) if isinstance(estimator, Pipeline) else _boosted(estimator),
        calibration=Calibration(slope=float(calibrator.coef_[0, 0]), intercept=float(calibrator.intercept_[0])),
        report=report,
    )


def _require(training: Sequence[Row], held_out: Sequence[Row], label: str) -> None:
    found, held = positives(training, label), positives(held_out, label)
    if found < TRAINING_POSITIVES_MIN or held < HELD_OUT_POSITIVES_MIN:
        raise TooFewPositives(
            f"too few coins that {label}: {found} of {len(training)} training rows and {held} of {len(held_out)} "
            f"held-out rows, at least {TRAINING_POSITIVES_MIN} and {HELD_OUT_POSITIVES_MIN} are needed; record longer"
        )
    if found == len(training) or held == len(held_out):
        raise TooFewPositives(f"all coins {label}: there is nothing to tell apart")


def table(rows: Sequence[Row], label: str) -> tuple[Floats, Labels]:
    """The rows' features in the order of FEATURE_NAMES, and their outcomes as 0 and 1."""
    x = np.array([row.values for row in rows], dtype=np.float64)
    return x, np.array([outcome(row, label) for row in rows], dtype=np.int64)


def folds_of(x: Floats, y: Labels, rows: Sequence[Row]) -> list[tuple[Labels, Labels]]:
    """Inside and outside of each of FOLDS parts; a creator's rows are all in one part."""
    creators = [row.creator for row in rows]
    return list(StratifiedGroupKFold(FOLDS).split(x, y, creators))


def _estimator(kind: str) -> Any:
    if kind == "logistic":
        squeeze = FunctionTransformer(lambda x: np.copysign(np.log1p(np.abs(x)), x))
        return make_pipeline(squeeze, StandardScaler(), LogisticRegression(C=0.1, max_iter=10_000))
    return HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=100, max_leaf_nodes=15, min_samples_leaf=20, l2_regularization=1.0,
        early_stopping=False, random_state=_SEED,
    )  # fmt: skip


def fitted_by(kind: str, x: Floats, y: Labels, folds: list[tuple[Labels, Labels]]) -> Fitted:
    """Fitted on all rows, calibrated on what was predicted out of fold."""
    raw = np.zeros(len(y))
    # One thread: sums come in one order, so the same rows give the same model; and small tables are done sooner.
    with threadpool_limits(1):
        for inside, outside in folds:
            raw[outside] = _estimator(kind).fit(x[inside], y[inside]).decision_function(x[outside])
        calibrator = LogisticRegression(C=PLATT_C).fit(raw.reshape(-1, 1), y)
        return Fitted(_estimator(kind).fit(x, y), calibrator, float(average_precision_score(y, raw)))


def _report(
    label: str, kind: str, y: Labels, predicted: Floats, *, recordings: tuple[str, ...], trained_at: str,
    training: Part, held_out: Part, cross_validated: dict[str, float],
) -> Report:  # fmt: skip
    base_rate, pr_auc = float(y.mean()), float(average_precision_score(y, predicted))
    rng = np.random.default_rng(_SEED)
    chance = [float(average_precision_score(rng.permutation(y), predicted)) for _ in range(CHANCE_ORDERS)]
    by_chance = float(np.percentile(chance, CHANCE_PERCENTILE))
    return Report(
        label=label,
        kind=kind,
        edge=pr_auc > by_chance and pr_auc >= EDGE_TIMES_MIN * base_rate,
        trained_at=trained_at,
        recordings=recordings,
        decision_age_ms=DECISION_AGE_NS * 1000 // SECOND_NS,
        outcome_s=OUTCOME_NS // SECOND_NS,
        features=FEATURE_NAMES,
        training=training,
        held_out=held_out,
        base_rate=base_rate,
        pr_auc=pr_auc,
        pr_auc_by_chance=by_chance,
        roc_auc=float(roc_auc_score(y, predicted)),
        cross_validated=cross_validated,
        calibration=_bins(y, predicted),
        reach=tuple(_reach(y, predicted, threshold) for threshold in sorted(RISK_THRESHOLDS.values())),
    )


def _bins(y: Labels, predicted: Floats) -> tuple[Bin, ...]:
    """Those that hold any row."""
    which = np.minimum((predicted * BINS).astype(int), BINS - 1)
    return tuple(
        Bin(
            from_percent=number * 100 // BINS,
            rows=int((which == number).sum()),
            predicted=float(predicted[which == number].mean()),
            observed=float(y[which == number].mean()),
        )
        for number in sorted(set(which.tolist()))
    )


def _reach(y: Labels, predicted: Floats, threshold: int) -> Reach:
    reached = predicted * 100 >= threshold
    return Reach(score_from=threshold, rows=int(reached.sum()), positives=int(y[reached].sum()))


def _part(rows: Sequence[Row], label: str) -> Part:
    return Part(
        rows=len(rows),
        positives=positives(rows, label),
        creators=len({row.creator for row in rows}),
        from_at_ns=rows[0].at_ns,
        until_at_ns=rows[-1].at_ns,
    )


def _linear(pipeline: Pipeline) -> Linear:
    scaler, regression = pipeline[1], pipeline[2]
    return Linear(
        means=tuple(map(float, scaler.mean_)),
        scales=tuple(map(float, scaler.scale_)),
        coefficients=tuple(map(float, regression.coef_[0])),
        intercept=float(regression.intercept_[0]),
    )


def _boosted(estimator: HistGradientBoostingClassifier) -> Boosted:
    """The trees have no public form: `_predictors` and `_baseline_prediction` are under a contract test, and the
    version of scikit-learn is pinned."""
    return Boosted(
        baseline=float(estimator._baseline_prediction[0, 0]),
        trees=tuple(_tree(predictor.nodes) for (predictor,) in estimator._predictors),
    )


def _tree(nodes: Any) -> Tree:
    values = [float(value) for value in nodes["value"]]
    counts = [int(count) for count in nodes["count"]]
    leaves = [bool(leaf) for leaf in nodes["is_leaf"]]
    left, right = nodes["left"].tolist(), nodes["right"].tolist()
    # Children have higher numbers: from the last node up, each mean is that of the two below, by their rows.
    for node in reversed(range(len(values))):
        if not leaves[node]:
            a, b = left[node], right[node]
            values[node] = (values[a] * counts[a] + values[b] * counts[b]) / (counts[a] + counts[b])
    return Tree(
        features=tuple(
            -1 if leaf else int(feature) for leaf, feature in zip(leaves, nodes["feature_idx"], strict=True)
        ),
        thresholds=tuple(map(float, nodes["num_threshold"])),
        left=tuple(left),
        right=tuple(right),
        values=tuple(values),
    )
