"""bots/quote.py: every vector exact, a difference shown, a bad file refused with one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from bots.quote import BadVector, cli, evaluate, quote_file

VECTORS_FILE = Path(__file__).parents[2] / "shared/vectors/market_math.json"

FRESH = {"vs": "30000000000", "vt": "1073000000000000", "rt": "793100000000000"}
BUY = {"op": "curve_buy_sol_in", "sol": "10000000", **FRESH, "expect": "353134727201"}
TOKENS = {"op": "curve_buy_tokens_out", "tokens": "1", **FRESH, "curve_cost": "1", "expect": "3"}
POOL = {"base_reserve": "206900000000000", "quote_reserve": "84990359056", "virtual_quote": "0"}
AMM_SELL = {
    "op": "amm_sell_base_in", "base": "1000000000000", "quote_before_fee": "408804035", "expect": "403693983",
    "fees_bps": [2, 93, 30], **POOL,
}  # fmt: skip


def written(path: Path, document: Any) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_every_known_vector_is_exact() -> None:
    if not VECTORS_FILE.exists():
        pytest.skip("the vectors are not beside the repository")
    answers = list(quote_file(VECTORS_FILE))
    assert len(answers) == 44
    assert [answer for answer in answers if not answer["equal"]] == []
    assert all(answer["got"] == answer["expect"] == answer["sdk"] for answer in answers)


@pytest.mark.parametrize("vector", [BUY, TOKENS, AMM_SELL, {k: v for k, v in AMM_SELL.items() if k != "fees_bps"}])
def test_a_vector_comes_back_whole_with_what_we_got(vector: dict[str, Any]) -> None:
    answer = evaluate(vector)
    assert answer == {**vector, "got": vector["expect"], "equal": True}


def test_a_wrong_expectation_is_a_difference() -> None:
    assert evaluate({**BUY, "expect": "1"})["equal"] is False


def test_a_wrong_intermediate_figure_is_a_difference_and_shown() -> None:
    answer = evaluate({**TOKENS, "curve_cost": "2"})
    assert (answer["got"], answer["equal"], answer["differs"]) == ("3", False, {"curve_cost": "1"})


@pytest.mark.parametrize(
    ("vector", "names"),
    [
        ("text", "not an object"),
        ({**BUY, "op": "curve_burn"}, "op 'curve_burn'"),
        ({k: v for k, v in BUY.items() if k != "vs"}, "vs: missing"),
        ({**BUY, "sol": "-5"}, "sol"),
        ({**BUY, "sol": 1.5}, "sol"),
        ({**BUY, "sol": True}, "sol"),  # to Python an int
        ({**BUY, "sol": "9" * 41}, "sol"),  # int() of very long text is slow
        ({**AMM_SELL, "base_reserve": "0"}, "reserves of zero"),
        ({**AMM_SELL, "fees_bps": [1, 2]}, "fees_bps"),
        ({**AMM_SELL, "quote_reserve": "0", "virtual_quote": "84990359056"}, "does not cover"),
    ],
)
def test_a_bad_vector_is_refused_with_the_field_at_fault(vector: Any, names: str) -> None:
    with pytest.raises(BadVector, match=names):
        evaluate(vector)


def test_the_command_prints_a_line_for_each_vector_and_ends_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli(written(tmp_path / "v.json", {"vectors": [BUY, TOKENS]}))
    out, err = capsys.readouterr()
    assert [json.loads(line)["equal"] for line in out.splitlines()] == [True, True]
    assert err == ""


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"vectors": [BUY, {**BUY, "expect": "1"}]}, "1 of 2 vectors differ from what they expect."),
        ({"vectors": [BUY, {}]}, "vector 2: op None"),
        ("{", "not JSON"),
        ({"vectors": {}}, 'no list under "vectors"'),
        ([], 'no list under "vectors"'),
    ],
)
def test_the_command_fails_with_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], document: Any, sentence: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli(written(tmp_path / "v.json", document))
    assert ended.value.code == 1
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli(tmp_path / "absent.json")
    assert "absent.json: cannot be read" in capsys.readouterr().err
