"""analyze/model.py: a model as data says what its formula says, explains itself, and is refused where it is wrong."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyze.features import FEATURE_NAMES, Look
from analyze.model import (
    FORMAT,
    Boosted,
    Calibration,
    Linear,
    MalformedModel,
    Model,
    Part,
    Report,
    Tree,
    decode_model,
    encode_model,
    probability,
    squeezed,
)
from analyze.strategies.predictions import DECISION_AGE_NS

NAMES = ("buys", "net_lamports")
NO_PART = Part(rows=0, positives=0, creators=0, from_at_ns=0, until_at_ns=0)
REPORT = Report(
    label="doubled", kind="logistic", edge=True, trained_at="2026-11-20T00:00:00Z", recordings=(),
    decision_age_ms=30_000, outcome_s=1_800, features=NAMES, training=NO_PART, held_out=NO_PART, base_rate=0.1,
    pr_auc=0.5, pr_auc_by_chance=0.2, roc_auc=0.8, cross_validated={}, calibration=(), reach=(),
)  # fmt: skip
LINEAR = Linear(means=(1.0, 2.0), scales=(2.0, 4.0), coefficients=(0.5, -3.0), intercept=0.25)
# buys <= 3: left leaf, else net_lamports <= 10.5: -1 or 2
TREE = Tree(
    features=(0, -1, 1, -1, -1), thresholds=(3.0, 0.0, 10.5, 0.0, 0.0), left=(1, 0, 3, 0, 0), right=(2, 0, 4, 0, 0),
    values=(0.1, -0.5, 1.0, -1.0, 2.0),
)  # fmt: skip
BOOSTED = Boosted(baseline=-0.75, trees=(TREE, TREE))


def model(raw: Linear | Boosted = LINEAR, slope: float = 1.0, intercept: float = 0.0, **changes: Any) -> Model:
    fields: dict[str, Any] = {
        "format": FORMAT, "label": "doubled", "decision_age_ms": DECISION_AGE_NS // 1_000_000, "features": NAMES,
        "raw": raw, "calibration": Calibration(slope=slope, intercept=intercept), "report": REPORT,
    }  # fmt: skip
    return Model(**{**fields, **changes})


class Seen:
    """A look whose features are given."""

    def __init__(self, **features: int) -> None:
        self.features = {"age_ms": 30_000, "market_cap_lamports": 1, **features}


def score(of: Model, **features: int) -> Any:
    seen: Any = Seen(**features)
    return of.predict(seen)


def test_a_linear_model_is_its_formula() -> None:
    buys, net = 7, -1_000_000
    z = [(math.log1p(7) - 1.0) / 2.0, (-math.log1p(1_000_000) - 2.0) / 4.0]
    log_odds = 1.5 * (0.25 + 0.5 * z[0] - 3.0 * z[1]) - 0.5
    said = model(slope=1.5, intercept=-0.5).probability([buys, net])
    assert said == pytest.approx(1 / (1 + math.exp(-log_odds)), abs=1e-12)


@pytest.mark.parametrize(
    ("buys", "net", "leaf"),
    [
        (3, 100, -0.5),  # at the threshold goes left
        (4, 10, -1.0),
        (4, 11, 2.0),
    ],
)
def test_trees_lead_to_the_leaf_that_the_values_ask_for(buys: int, net: int, leaf: float) -> None:
    assert model(BOOSTED).probability([buys, net]) == pytest.approx(probability(-0.75 + 2 * leaf), abs=1e-15)


@given(st.integers(-(10**18), 10**18), st.integers(-(10**18), 10**18), st.sampled_from([LINEAR, BOOSTED]))
def test_contributions_and_a_constant_are_the_log_odds(buys: int, net: int, raw: Linear | Boosted) -> None:
    one = model(raw, slope=2.0, intercept=0.125)
    total, parts = one._log_odds([buys, net])
    # In trees the constant is what the roots say before anything is asked.
    constant = raw.intercept if isinstance(raw, Linear) else raw.baseline + sum(tree.values[0] for tree in raw.trees)
    assert 2.0 * constant + 0.125 + sum(parts) == pytest.approx(total, abs=1e-9)


@given(st.floats(-1e6, 1e6))
def test_a_probability_stays_in_its_range_without_overflow(log_odds: float) -> None:
    assert 0.0 <= probability(log_odds) <= 1.0
    assert probability(log_odds) + probability(-log_odds) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("value", [0, 1, -1, 10**6, -(10**6), 2**64 * 10**15])
def test_squeezing_keeps_sign_and_order(value: int) -> None:
    assert squeezed(value) == -squeezed(-value)
    assert squeezed(value) < squeezed(value + 10 ** (len(str(abs(value))) - 1))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(0.0, 0), (0.009, 0), (0.01, 1), (0.29, 29), (0.4999, 49), (0.5, 50), (0.9999, 99), (0.999999999999, 100)],
)
def test_the_score_is_the_probability_in_percent_rounded_down(wanted: float, expected: int) -> None:
    constant = Linear(means=(0.0, 0.0), scales=(1.0, 1.0), coefficients=(0.0, 0.0), intercept=0.0)
    log_odds = -800.0 if wanted == 0 else math.log(wanted / (1 - wanted))
    said = score(model(constant, intercept=log_odds), buys=1, net_lamports=1)
    assert said.score == expected
    assert type(said.score) is int


def test_the_reasons_are_what_each_feature_added_in_hundredths_the_largest_first() -> None:
    said = score(model(), buys=7, net_lamports=-1_000_000)
    added = [50 * (math.log1p(7) - 1) / 2, -300 * (-math.log1p(1_000_000) - 2) / 4]
    assert said.reasons == (f"net_lamports:{round(added[1]):+d}", f"buys:{round(added[0]):+d}")
    assert said.used == {"age_ms": 30_000, "market_cap_lamports": 1, "buys": 7, "net_lamports": -1_000_000}


def test_a_model_written_and_read_is_the_same_to_the_last_digit() -> None:
    odd = Linear(means=(0.1 + 0.2, 1e-300), scales=(1 / 3, 2.0), coefficients=(math.pi, -1e17), intercept=5e-324)
    for raw in (odd, BOOSTED):
        assert decode_model(encode_model(model(raw)), FEATURE_NAMES) == model(raw)


def _tree(**changes: Any) -> Boosted:
    return Boosted(baseline=0.0, trees=(msgspec.structs.replace(TREE, **changes),))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "truncated"),
        (b"[]", "object"),
        (b'{"type":"model"}', "missing required field"),
        (b"\xff", "utf-8|malformed|invalid"),
        (encode_model(model(format=2)), "format 2"),
        (encode_model(model(decision_age_ms=1)), "at 1 ms"),
        (encode_model(model(features=("buys", "vibes"))), "not known here: vibes"),
        (encode_model(model(features=("buys", "buys"))), "not distinct"),
        (encode_model(model(features=())), "none"),
        (encode_model(model(features=("buys",))), "not one for each feature"),
        (encode_model(model(msgspec.structs.replace(LINEAR, scales=(0.0, 1.0)))), "a scale is 0"),
        (encode_model(model(_tree(left=(0, 0, 3, 0, 0)))), "node 0: leads nowhere"),  # a loop
        (encode_model(model(_tree(right=(9, 0, 4, 0, 0)))), "node 0: leads nowhere"),
        (encode_model(model(_tree(features=(2, -1, 1, -1, -1)))), "node 0: leads nowhere"),  # no such feature
        (encode_model(model(_tree(values=(0.0,)))), "differ in length"),
        (encode_model(model(_tree(features=(), thresholds=(), left=(), right=(), values=()))), "empty"),
        (encode_model(model()).replace(b'"slope":1.0', b'"slope":null'), "slope"),  # how NaN is written
        (encode_model(model()).replace(b'"logistic"', b'"oracle"', 1), "oracle"),
    ],
)
def test_what_is_no_model_is_refused_with_its_reason(data: bytes, problem: str) -> None:
    with pytest.raises(MalformedModel, match=f"(?i){problem}"):
        decode_model(data, FEATURE_NAMES)


@pytest.mark.parametrize("field", ["means", "coefficients"])
def test_a_number_out_of_range_is_refused(field: str) -> None:
    text = encode_model(model(msgspec.structs.replace(LINEAR, **{field: (1.5e308, 1.0)})))
    with pytest.raises(MalformedModel):
        decode_model(text.replace(b"1.5e308", b"1e999"), FEATURE_NAMES)


def test_a_look_of_a_real_token_can_be_asked() -> None:
    """Every feature that a model may ask for is there."""
    from analyze.tokens import Launches, Token
    from schemas.events import Market, Quote, TokenCreated

    token = Token(
        TokenCreated(
            id="c", mint="M", signature="s", creator="dev", pool="pump", name="A", symbol="A", uri="", dev_buy_tokens=0,
            dev_buy_lamports=0, quote=Quote.SOL, mayhem=False, seen_at_ns=1,
            market=Market(virtual_lamports=30 * 10**9, virtual_tokens=1_073 * 10**12, seen_at_ns=1),
        ),
        Launches(1, 1, 1),
    )  # fmt: skip
    wide = (0.5,) * len(FEATURE_NAMES)
    everything = model(Linear(means=wide, scales=wide, coefficients=wide, intercept=0.0), features=FEATURE_NAMES)
    assert 0 <= everything.predict(Look(token, 2, False)).score <= 100
