"""A trained model as data, and what it says of a token: inference in plain Python, without the library that trained it.

    raw         a linear sum over the features, or a sum over decision trees: log-odds, not yet calibrated
    log-odds    slope * raw + intercept      (Platt scaling, fitted on predictions that were made out of fold)
    probability 1 / (1 + exp(-log-odds))
    score       100 * probability, rounded down

Floats live in here and nowhere else: integers come in, an integer goes out. The same model says the same of the same
features on every machine whose libm rounds alike; a probability is rounded to 9 digits before it becomes a score, so
that the last bits do not matter.

A feature's contribution is its part of the log-odds. In a linear model it is coefficient times standardised value; in a
tree each step from a node to its child changes the mean of the leaves below, and the change belongs to the feature that
the node asks for. Contributions and the intercept together are the log-odds exactly.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final, Union

import msgspec

from analyze.features import Look
from analyze.score import ALL, Row, Scored
from analyze.strategies.predictions import DECISION_AGE_NS
from schemas.events import Struct

FORMAT: Final = 1
MODEL_FILE_BYTES_MAX: Final = 64 << 20
_LEAF: Final = -1
_MS_NS: Final = 1_000_000


class MalformedModel(ValueError):
    """A file that holds no model that can be used; the text says why."""


class Linear(Struct, frozen=True, kw_only=True, tag_field="kind", tag="logistic"):
    """intercept + sum of coefficient * (sign(x) * log(1 + |x|) - mean) / scale. One entry a feature."""

    means: tuple[float, ...]
    scales: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float


class Tree(Struct, frozen=True, kw_only=True):
    """Nodes by number, 0 the root; children have higher numbers than their parent.

    features: which one a node asks for, by its place in the model's list; -1 in a leaf. A value at or below the
    threshold goes left. values: what a leaf adds to the raw sum; elsewhere the mean of the leaves below.
    """

    features: tuple[int, ...]
    thresholds: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    values: tuple[float, ...]


class Boosted(Struct, frozen=True, kw_only=True, tag_field="kind", tag="boosting"):
    """baseline + the leaf that each tree leads to."""

    baseline: float
    trees: tuple[Tree, ...]


class Calibration(Struct, frozen=True, kw_only=True):
    """log-odds = slope * raw + intercept."""

    slope: float
    intercept: float


class Bin(Struct, frozen=True, kw_only=True):
    """Held-out rows whose predicted probability lies in [from, from + 10 %): what was predicted, what happened."""

    from_percent: int
    rows: int
    predicted: float
    observed: float


class Reach(Struct, frozen=True, kw_only=True):
    """Held-out rows that reach a risk level's threshold, and how many of them were positive."""

    score_from: int
    rows: int
    positives: int


class Part(Struct, frozen=True, kw_only=True):
    """One side of the split."""

    rows: int
    positives: int
    creators: int
    from_at_ns: int
    until_at_ns: int


class Report(Struct, frozen=True, kw_only=True):
    """How a model was trained and how it did on rows that it never saw.

    base_rate: share of positives among the held-out rows; pr_auc (average precision) of a blind guess.
    pr_auc_by_chance: what one in a hundred random orders of the held-out rows reaches. edge: whether pr_auc is above.
    cross_validated: PR-AUC of each kind of model on the training rows, out of fold; the better one was taken.
    """

    label: str
    kind: str
    edge: bool
    trained_at: str
    recordings: tuple[str, ...]
    decision_age_ms: int
    outcome_s: int
    features: tuple[str, ...]
    training: Part
    held_out: Part
    base_rate: float
    pr_auc: float
    pr_auc_by_chance: float
    roc_auc: float
    cross_validated: dict[str, float]
    calibration: tuple[Bin, ...]
    reach: tuple[Reach, ...]


class Model(Struct, frozen=True, kw_only=True, tag_field="type", tag="model"):
    """What a file holds. decision_age_ms: of the decision point that it was trained for."""

    format: int
    label: str
    decision_age_ms: int
    features: tuple[str, ...]
    raw: Union[Linear, Boosted]  # noqa: UP007 - msgspec wants a runtime union
    calibration: Calibration
    report: Report

    def predict(self, look: Look) -> Scored:
        """The probability as a score; the reasons are contributions in hundredths of log-odds."""
        features = look.features
        values = [features[name] for name in self.features]
        total, contributions = self._log_odds(values)
        score = min(100, int(round(probability(total), 9) * 100 + 1e-7))
        points = zip(self.features, contributions, strict=True)
        rows = tuple(Row(ALL, name, round(100 * part)) for name, part in points)
        return Scored(score, rows, features, self.features)

    def probability(self, values: list[int]) -> float:
        """Of values in the order of `features`."""
        return probability(self._log_odds(values)[0])

    def _log_odds(self, values: list[int]) -> tuple[float, list[float]]:
        raw, parts = _linear(self.raw, values) if isinstance(self.raw, Linear) else _boosted(self.raw, values)
        slope = self.calibration.slope
        return slope * raw + self.calibration.intercept, [slope * part for part in parts]


def probability(log_odds: float) -> float:
    """Without overflow at either end."""
    if log_odds >= 0:
        return 1.0 / (1.0 + math.exp(-log_odds))
    odds = math.exp(log_odds)
    return odds / (1.0 + odds)


def squeezed(value: int) -> float:
    """sign(x) * log(1 + |x|): amounts spread over nine orders of magnitude."""
    return math.copysign(math.log1p(abs(value)), value)


def _linear(raw: Linear, values: list[int]) -> tuple[float, list[float]]:
    parts = [
        coefficient * (squeezed(value) - mean) / scale
        for value, mean, scale, coefficient in zip(values, raw.means, raw.scales, raw.coefficients, strict=True)
    ]
    return raw.intercept + math.fsum(parts), parts


def _boosted(raw: Boosted, values: list[int]) -> tuple[float, list[float]]:
    total, parts = raw.baseline, [0.0] * len(values)
    for tree in raw.trees:
        node = 0
        while (feature := tree.features[node]) != _LEAF:
            child = (tree.left if values[feature] <= tree.thresholds[node] else tree.right)[node]
            parts[feature] += tree.values[child] - tree.values[node]
            node = child
        total += tree.values[node]
    return total, parts


_decoder: Final = msgspec.json.Decoder(Model)
_encoder: Final = msgspec.json.Encoder()


def encode_model(model: Model) -> bytes:
    """Floats keep all their digits."""
    return _encoder.encode(model)


def decode_model(data: bytes, known: Collection[str]) -> Model:
    """A file's bytes -> a model that can be asked. known: the features that a token has. Raises MalformedModel."""
    if len(data) > MODEL_FILE_BYTES_MAX:
        raise MalformedModel(f"{len(data)} bytes, more than {MODEL_FILE_BYTES_MAX}")
    try:
        model = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedModel(str(error)) from error
    _check(model, known)
    return model


def _check(model: Model, known: Collection[str]) -> None:
    if model.format != FORMAT:
        raise MalformedModel(f"format {model.format}, this is {FORMAT}")
    if model.decision_age_ms * _MS_NS != DECISION_AGE_NS:
        raise MalformedModel(f"trained for a decision at {model.decision_age_ms} ms, this is {DECISION_AGE_NS} ns")
    unknown = [name for name in model.features if name not in known]
    if unknown:
        raise MalformedModel(f"asks for features that are not known here: {', '.join(unknown[:5])}")
    if not model.features or len(set(model.features)) != len(model.features):
        raise MalformedModel("its features are none, or not distinct")
    if not all(map(math.isfinite, (model.calibration.slope, model.calibration.intercept))):
        raise MalformedModel("its calibration is not finite")
    if isinstance(model.raw, Linear):
        _check_linear(model.raw, len(model.features))
    else:
        _check_boosted(model.raw, len(model.features))


def _check_linear(raw: Linear, features: int) -> None:
    columns = (raw.means, raw.scales, raw.coefficients)
    if any(len(column) != features for column in columns):
        raise MalformedModel("means, scales and coefficients are not one for each feature")
    if not all(math.isfinite(number) for column in columns for number in column) or not math.isfinite(raw.intercept):
        raise MalformedModel("a coefficient is not finite")
    if 0.0 in raw.scales:
        raise MalformedModel("a scale is 0")


def _check_boosted(raw: Boosted, features: int) -> None:
    if not math.isfinite(raw.baseline):
        raise MalformedModel("its baseline is not finite")
    for number, tree in enumerate(raw.trees):
        nodes = len(tree.features)
        if not nodes or any(len(c) != nodes for c in (tree.thresholds, tree.left, tree.right, tree.values)):
            raise MalformedModel(f"tree {number}: its columns differ in length, or are empty")
        for node, feature in enumerate(tree.features):
            inner = 0 <= feature < features and node < tree.left[node] < nodes and node < tree.right[node] < nodes
            if not (inner or feature == _LEAF):
                raise MalformedModel(f"tree {number}, node {node}: leads nowhere")
        if not all(math.isfinite(value) for value in (*tree.values, *tree.thresholds)):
            raise MalformedModel(f"tree {number}: a value is not finite")
