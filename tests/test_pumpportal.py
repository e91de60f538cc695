"""ingest/venues/pumpportal.py: frames -> events, exactly as the decimal text says."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingest.venues.pumpportal import (
    AMOUNT_MAX,
    FRAME_BYTES_MAX,
    USDC_MINT,
    ErrorKind,
    MalformedFrame,
    Notice,
    NoticeKind,
    VenueError,
    parse,
)
from schemas.codec import encode
from schemas.events import (
    TEXT_CHARS_MAX,
    Market,
    Quote,
    Side,
    TokenCreated,
    TokenMigrated,
    TokenTraded,
)
from schemas.subjects import token_subject

NOW_NS = 1_783_089_923_000_000_000
DATA = Path(__file__).parents[2] / "shared" / "data"

# Verbatim frames of the protocol; captured 2025 and 2026.
PUMP_CREATE = r'{"signature":"42FQ9keZcPWgHAon4QdHU1ToKQ8M1YkHZRNs4XbrMukaSUpiXtvd8Ch7pKczXsAfbBMozZFvG628avHUfbpsjPQi","mint":"AfRKxChD9ApbHHXgn1sYVmm9hGKEhtCpWo4wqGWnpump","traderPublicKey":"7ve85YpPmPyjkVsFRgp1Uf6uq6HZwDfVzYUYKAsGXynA","txType":"create","initialBuy":96449438.144093,"solAmount":2.962962961,"bondingCurveKey":"GEqeLK6KKm6h1vcFZ2XD2VMAXCKTJewCWxeiprKZHefG","vTokensInBondingCurve":976550561.855907,"vSolInBondingCurve":32.962962961,"marketCapSol":33.75448670917235,"name":"The Human Chain","symbol":"Unity","uri":"https://m.rapidlaunch.io/m/QI0fsvE2P","is_mayhem_mode":false,"pool":"pump"}'  # noqa: E501 - verbatim
BONK_CREATE = r'{"signature":"2smh7KZFp58k1DyQq67Fraep1MsSyiry7Q66EHALpZV1Fg34c1MvYp5SuXLozfzBF8r8d1roo9XgZyS9zrgZc4Z","traderPublicKey":"BWwDyKhHSJ8h3YNVws8mr6Ek3kP4orSstuLTSLcbgV9t","txType":"create","mint":"7VzfCJYiiQTVCeLumVrxQ8z1tGuFcQ75z5GMXQR2surg","solInPool":0.89055,"tokensInPool":967574707.778913,"initialBuy":32425292.22108698,"solAmount":0.89055,"newTokenBalance":32425292.221087,"marketCapSol":29.72713613571716,"name":"Blume","symbol":"BLUME","uri":"https://ipfs.io/ipfs/QmVGxiWSGprdNoUBghjurgb3Hxm1UAU6ZJTHnhzidT6Rc7","pool":"bonk"}'
PUMP_BUY = r'{"signature":"5gps1pMHNVzKXrVZpDUL82BemLXLmaUDC2vE7hruHipdLV1gaJ12dXA7VLkrfxWN3Xk8TPafiAVkEhDyKm94GCNk","mint":"71wWAbjJXJdktxckA9Ux7PuDsVuBzFa68xeWU3aBpump","traderPublicKey":"2UBpKQXowuLNbdjFzQmKMExmA4tDduQoTw8ayVvjngPu","txType":"buy","tokenAmount":361368.237917,"solAmount":0.011140727,"newTokenBalance":361368.237917,"bondingCurveKey":"2fFiwBDXbJfnuyrbqoHMdsBGJLsjVmzKEXewaTYcxw63","vTokensInBondingCurve":1021649496.746058,"vSolInBondingCurve":31.507870460979802,"marketCapSol":30.840195743581347,"pool":"pump"}'  # noqa: E501
PUMP_SELL = r'{"signature":"2FJN336cE5j1FmSztVcw8SfUgJvo6MiiQAjwjknHgotawARa8mML9aabxuHWm81QbhVMe7njCGiZ7NMKQ8L6egiD","mint":"2QUBk6zYvTXESAsZCpzFqDRc6RSih48c2ZP8fzanpump","traderPublicKey":"84fyE6x3cD8wTVbriXTCMRcuEkJjEcBrzqkBWnwxPdg2","txType":"sell","tokenAmount":72625,"solAmount":0.0020545,"newTokenBalance":0,"bondingCurveKey":"AQbcTZxAL48NqGnT1TVksMLGXj4ETPqHxVrDKebGg7Zm","vTokensInBondingCurve":1066756445.497429,"vSolInBondingCurve":30.175585491791168,"marketCapSol":28.287230247500666,"pool":"pump"}'  # noqa: E501
MIGRATE = r'{"signature":"52MoTgakx7Jdup1kTpZncNy99YmHLxTNEoS4FeZE8fQ3SKtHgWhsS9iYhvW5pKPDhMKkGAjvBGkzEqdETWN15inJ","mint":"BzqYzBGydDrwjnYVtWfupr8GFoSxpCQdTkjRppBKpump","txType":"migrate","pool":"pump-amm"}'  # noqa: E501


def changed(frame: str, drop: tuple[str, ...] = (), **fields: Any) -> bytes:
    """A verbatim frame with fields left out or replaced."""
    event = {key: value for key, value in json.loads(frame).items() if key not in drop}
    return json.dumps({**event, **fields}).encode()


def test_a_pump_creation_is_exact_to_the_lamport() -> None:
    assert parse(PUMP_CREATE, NOW_NS) == TokenCreated(
        id=parse(PUMP_CREATE, 0).id,  # type: ignore[union-attr] # a creation; its id has a test of its own
        mint="AfRKxChD9ApbHHXgn1sYVmm9hGKEhtCpWo4wqGWnpump",
        signature="42FQ9keZcPWgHAon4QdHU1ToKQ8M1YkHZRNs4XbrMukaSUpiXtvd8Ch7pKczXsAfbBMozZFvG628avHUfbpsjPQi",
        creator="7ve85YpPmPyjkVsFRgp1Uf6uq6HZwDfVzYUYKAsGXynA",
        pool="pump",
        name="The Human Chain",
        symbol="Unity",
        uri="https://m.rapidlaunch.io/m/QI0fsvE2P",
        dev_buy_tokens=96_449_438_144_093,
        dev_buy_lamports=2_962_962_961,
        market=Market(virtual_lamports=32_962_962_961, virtual_tokens=976_550_561_855_907, seen_at_ns=NOW_NS),
        quote=Quote.SOL,
        mayhem=False,
        seen_at_ns=NOW_NS,
    )


def test_a_bonk_creation_has_no_curve() -> None:
    event = parse(BONK_CREATE, NOW_NS)
    assert isinstance(event, TokenCreated)
    assert (event.pool, event.market, event.quote) == ("bonk", None, Quote.SOL)
    # 32425292.22108698 has more digits than a base unit: rounded half to even.
    assert (event.dev_buy_tokens, event.dev_buy_lamports) == (32_425_292_221_087, 890_550_000)


@pytest.mark.parametrize("given", [{"drop": ("solInPool",)}, {"solInPool": None}])
def test_a_bonk_creation_without_sol_in_its_pool_is_quoted_in_something_unknown(given: dict[str, Any]) -> None:
    event = parse(changed(BONK_CREATE, **given), NOW_NS)
    assert isinstance(event, TokenCreated)
    assert event.quote is Quote.UNKNOWN


@pytest.mark.parametrize(
    ("frame", "side", "lamports", "tokens", "after", "market"),
    [
        # vSol printed from a float: 31.507870460979802 is 31,507,870,461 lamports
        (PUMP_BUY, Side.BUY, 11_140_727, 361_368_237_917, 361_368_237_917, (31_507_870_461, 1_021_649_496_746_058)),
        # amounts that are JSON ints; a balance of 0 is "sold out", not "unknown"
        (PUMP_SELL, Side.SELL, 2_054_500, 72_625_000_000, 0, (30_175_585_492, 1_066_756_445_497_429)),
    ],
)
def test_a_curve_trade_is_exact(
    frame: str, side: Side, lamports: int, tokens: int, after: int, market: tuple[int, int]
) -> None:
    event = parse(frame, NOW_NS)
    assert isinstance(event, TokenTraded)
    assert (event.side, event.lamports, event.tokens, event.trader_tokens_after) == (side, lamports, tokens, after)
    assert event.market is not None
    assert (event.market.virtual_lamports, event.market.virtual_tokens) == market
    assert (event.pool, event.pool_lamports, event.pool_tokens) == ("pump", None, None)


_CURVE = ("vTokensInBondingCurve", "vSolInBondingCurve", "bondingCurveKey", "marketCapSol")


@pytest.mark.parametrize(
    ("frame", "pool", "pool_lamports", "pool_tokens"),
    [
        # after migration, as one parser expects it
        (
            changed(PUMP_BUY, drop=_CURVE, pool="pump-amm", solInPool=84.990359056, tokensInPool=206900000),
            "pump-amm",
            84_990_359_056,
            206_900_000_000_000,
        ),
        # after migration, as a log of 2026-09-27 reports it: no pool field of any kind
        (changed(PUMP_SELL, drop=(*_CURVE, "pool")), "", None, None),
        # curve fields left over beside a pool that has no curve mean nothing
        (changed(PUMP_BUY, pool="pump-amm"), "pump-amm", None, None),
        # an empty curve prices nothing
        (changed(PUMP_BUY, vSolInBondingCurve=0, vTokensInBondingCurve=0), "pump", None, None),
        # null is absent
        (changed(PUMP_BUY, pool=None, vSolInBondingCurve=None, solInPool=None), "", None, None),
    ],
)
def test_a_trade_off_the_curve_has_no_market(
    frame: bytes, pool: str, pool_lamports: int | None, pool_tokens: int | None
) -> None:
    event = parse(frame, NOW_NS)
    assert isinstance(event, TokenTraded)
    assert event.market is None
    assert (event.pool, event.pool_lamports, event.pool_tokens) == (pool, pool_lamports, pool_tokens)


def test_the_2024_schema_still_parses() -> None:
    created = parse(changed(PUMP_CREATE, drop=("solAmount", "name", "symbol", "uri", "pool", "is_mayhem_mode")), 1)
    assert isinstance(created, TokenCreated)
    assert (created.dev_buy_lamports, created.name, created.pool, created.mayhem) == (None, None, "", False)
    assert created.market is not None
    traded = parse(changed(PUMP_BUY, drop=("solAmount", "pool")), 1)
    assert isinstance(traded, TokenTraded)
    assert (traded.lamports, traded.pool) == (None, "")
    assert traded.market is not None
    migrated = parse(changed(MIGRATE, pool="raydium"), 1)
    assert isinstance(migrated, TokenMigrated)
    assert migrated.pool == "raydium"


def test_a_coin_under_the_usdc_address_is_marked() -> None:
    frame = changed(PUMP_CREATE, drop=("name", "symbol", "uri"), mint=USDC_MINT, solAmount=0, initialBuy=0)
    event = parse(frame, NOW_NS)
    assert isinstance(event, TokenCreated)
    assert (event.quote, event.dev_buy_lamports, event.name) == (Quote.USDC, 0, None)


def test_mayhem_is_marked() -> None:
    event = parse(changed(PUMP_CREATE, is_mayhem_mode=True), NOW_NS)
    assert isinstance(event, TokenCreated)
    assert event.mayhem


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ('{"message":"Successfully subscribed to token creation events."}', NoticeKind.SUBSCRIBED),
        ('{"message":"Subscribed to \'migration\' events."}', NoticeKind.SUBSCRIBED),
        ('{"message":"Successfully subscribed to keys."}', NoticeKind.SUBSCRIBED),
        ('{"message":"Unsubscribed."}', NoticeKind.UNSUBSCRIBED),
        # a refusal that comes as a `message`: only its text tells
        (
            "{\"message\":\"'subscribeTokenTrade' and 'subscribeAccountTrade' methods are only available when "
            'connecting with an API key funded with at least 0.02 SOL."}',
            NoticeKind.UNFUNDED,
        ),
        ('{"message":"Maintenance at noon."}', NoticeKind.OTHER),
        (
            "{\"errors\":\"Invalid message. 'method' must be 'subscribeNewToken', 'subscribeTokenTrade', "
            "'subscribeAccountTrade', or 'subscribeMigration'.\"}",
            ErrorKind.INVALID_MESSAGE,
        ),
        ('{"errors":"Invalid API key. PumpSwap data will not be streamed."}', ErrorKind.BAD_KEY),
        ('{"errors":["Rate limited","Slow down"]}', ErrorKind.OTHER),
        ('{"errors":[]}', ErrorKind.OTHER),
    ],
)
def test_control_frames_are_told_apart(frame: str, expected: NoticeKind | ErrorKind) -> None:
    parsed = parse(frame, NOW_NS)
    assert isinstance(parsed, Notice | VenueError)
    assert parsed.kind is expected


def test_a_list_of_errors_is_one_text() -> None:
    assert parse('{"errors":["a","b"]}', 1) == VenueError(kind=ErrorKind.OTHER, text="a; b")


@pytest.mark.parametrize(
    ("frame", "names"),
    [
        (b"", "frame"),
        (b"[]", "frame"),
        (b"{}", "txType: missing"),
        (b'{"txType":"burn"}', "txType: unknown 'burn'"),
        (b'{"txType":7}', "txType"),
        (changed(PUMP_CREATE, drop=("mint",)), "mint: missing"),
        (changed(PUMP_CREATE, mint=None), "mint: missing"),
        (changed(PUMP_CREATE, signature=None), "signature: missing"),
        (changed(PUMP_CREATE, traderPublicKey=None), "traderPublicKey: missing"),
        (changed(PUMP_BUY, drop=("tokenAmount",)), "tokenAmount: missing"),
        # nothing that means something to a subject gets into one
        (changed(PUMP_CREATE, mint="*" * 40), "mint: not a base58 key"),
        (changed(PUMP_CREATE, mint=">" * 40), "mint"),
        (changed(PUMP_CREATE, mint="a." * 20), "mint"),
        (changed(PUMP_CREATE, mint="AfRKxChD9ApbHHXgn1sYVmm9hGKEhtCpWo4wqGWn pum"), "mint"),
        (changed(PUMP_CREATE, mint="AfRKxChD9ApbHHXgn1sYVmm9hGKEhtCpWo4wqGWnpump\n"), "mint"),
        (changed(PUMP_CREATE, mint="0" * 40), "mint"),  # 0, O, I, l are not base58
        (changed(PUMP_CREATE, mint="A" * 31), "mint"),
        (changed(PUMP_CREATE, mint="A" * 45), "mint"),
        (changed(PUMP_CREATE, signature="A" * 89), "signature"),
        (changed(PUMP_CREATE, traderPublicKey="A.B"), "traderPublicKey"),
        (changed(PUMP_BUY, solAmount=-1), "solAmount"),
        (changed(PUMP_BUY, solAmount="1.5"), "solAmount"),
        (changed(PUMP_BUY, solAmount=[1]), "solAmount"),
        (changed(PUMP_BUY, solAmount=True), "solAmount"),
        (PUMP_BUY.replace("0.011140727", "1e400").encode(), "solAmount"),
        (changed(PUMP_BUY, tokenAmount=(AMOUNT_MAX + 10**6) // 10**6), "tokenAmount: more than 64 bits"),
        (changed(PUMP_CREATE, name=7), "name"),
        (changed(PUMP_CREATE, is_mayhem_mode="yes"), "is_mayhem_mode"),
        (b'{"txType":"create","x":' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deeply"),
        (b'{"message":"' + b"x" * FRAME_BYTES_MAX + b'"}', "frame: 65550 bytes"),
        (b'{"message":"\xff"}', "frame"),
    ],
)
def test_a_malformed_frame_names_the_field_at_fault(frame: bytes, names: str) -> None:
    with pytest.raises(MalformedFrame, match=names):
        parse(frame, NOW_NS)


def test_strangers_text_is_cut_and_stays_data() -> None:
    event = parse(changed(PUMP_CREATE, name="a\n🚀" * 200, symbol='<b>"', uri=""), NOW_NS)
    assert isinstance(event, TokenCreated)
    assert event.name == ("a\n🚀" * 200)[:TEXT_CHARS_MAX]
    assert (event.symbol, event.uri) == ('<b>"', "")
    assert msgspec.json.decode(encode(event), type=TokenCreated) == event


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (r"\ud83d", "\ufffd"),
        (r"x\ude80y", "x\ufffdy"),
        (r"\ud83d\ud83d\ude80", "\ufffd🚀"),
        (r"\ud83d\ude80", "🚀"),
        (r"\\ud83d", r"\ud83d"),  # an escaped backslash: text that only looks like an escape
        (r"\ud83d \\ud83d", "\ufffd " + r"\ud83d"),
    ],
)
def test_half_a_surrogate_pair_becomes_a_replacement_character(written: str, name: str) -> None:
    event = parse(PUMP_CREATE.replace("The Human Chain", written), NOW_NS)
    assert isinstance(event, TokenCreated)
    assert event.name == name
    encode(event)


def test_ids_say_what_the_chain_says_and_not_when_or_how_it_came() -> None:
    again = changed(PUMP_BUY, tokenAmount=361368.237917, extra=1)
    assert parse(PUMP_BUY, 1).id == parse(again, 2).id  # type: ignore[union-attr]
    others = [
        parse(frame, 1).id  # type: ignore[union-attr]
        for frame in (
            PUMP_BUY,
            changed(PUMP_BUY, txType="sell"),
            changed(PUMP_BUY, tokenAmount=361368.237918),
            changed(PUMP_BUY, traderPublicKey="84fyE6x3cD8wTVbriXTCMRcuEkJjEcBrzqkBWnwxPdg2"),
            changed(PUMP_BUY, mint=USDC_MINT),
            changed(PUMP_BUY, txType="create"),
            changed(PUMP_BUY, txType="migrate"),
        )
    ]
    assert len(set(others)) == len(others)


def test_an_amount_keeps_its_id_however_it_is_spelled() -> None:
    spelled = [PUMP_SELL.replace(":72625,", f":{text},") for text in ("72625", "72625.0", "72625.000000", "7.2625e4")]
    assert len({parse(frame, 1).id for frame in spelled}) == 1  # type: ignore[union-attr]


def recorded(name: str) -> list[str]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"the recording {name} is not here")
    return [json.loads(line)["raw"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_recorded_session_is_accounted_for_frame_by_frame() -> None:
    parsed = [parse(raw, NOW_NS) for raw in recorded("pumpportal_session_jouleka_2026-07-03.jsonl")]
    creates = [event for event in parsed if isinstance(event, TokenCreated)]
    kinds = Counter((type(event).__name__, getattr(event, "pool", "")) for event in parsed)
    assert kinds == {
        ("TokenCreated", "pump"): 197,
        ("TokenCreated", "bonk"): 1,
        ("TokenMigrated", "pump-amm"): 7,
        ("Notice", ""): 3,
    }
    assert sum(event.quote is Quote.USDC for event in creates) == 10
    assert sum(event.mayhem for event in creates) == 36
    assert sum(event.name is None for event in creates) == 10
    assert len({event.id for event in parsed if not isinstance(event, Notice | VenueError)}) == 205
    assert len({token_subject(event) for event in creates}) == 189  # 187 of pump's own, USDC's, one of bonk


def test_the_recorded_creations_add_up_to_the_lamport() -> None:
    checked = 0
    for raw in recorded("pumpportal_session_jouleka_2026-07-03.jsonl"):
        event = parse(raw, NOW_NS)
        if isinstance(event, TokenCreated) and event.market is not None and event.quote is Quote.SOL:
            assert event.market.virtual_lamports == 30_000_000_000 + (event.dev_buy_lamports or 0)
            assert event.market.virtual_tokens == 1_073_000_000_000_000 - (event.dev_buy_tokens or 0)
            checked += 1
    assert checked == 187


def test_the_trades_from_the_chain_are_accounted_for() -> None:
    parsed = [parse(raw, NOW_NS) for raw in recorded("trades_shaped_from_chain_2026-07-04.jsonl")]
    trades = [event for event in parsed if isinstance(event, TokenTraded)]
    assert Counter(event.side for event in trades) == {Side.BUY: 54, Side.SELL: 39}
    assert sum(isinstance(event, TokenCreated) for event in parsed) == 19
    assert all(event.market is not None for event in trades)
    # two signatures hold two buys each: a signature is no trade id
    assert len({event.id for event in trades}) == 93
    assert len({event.signature for event in trades}) == 91


_VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.just(USDC_MINT)
)
_NAMES = st.sampled_from([*json.loads(PUMP_BUY), *json.loads(BONK_CREATE), "is_mayhem_mode", "message", "errors"])


@given(st.binary() | st.dictionaries(_NAMES, _VALUES | st.lists(_VALUES)).map(lambda o: json.dumps(o).encode()))
@example(PUMP_CREATE.encode())
@example(b'{"errors":["\\ud800"]}')
def test_any_bytes_are_parsed_or_refused_and_nothing_else(frame: bytes) -> None:
    try:
        parsed = parse(frame, NOW_NS)
    except MalformedFrame:
        return
    encode(parsed)


@given(st.data())
def test_a_real_frame_with_any_one_field_spoilt_is_parsed_or_refused(data: st.DataObject) -> None:
    frame = data.draw(st.sampled_from([PUMP_CREATE, BONK_CREATE, PUMP_BUY, PUMP_SELL, MIGRATE]))
    name = data.draw(st.sampled_from(list(json.loads(frame))))
    try:
        parsed = parse(changed(frame, **{name: data.draw(_VALUES)}), NOW_NS)
    except MalformedFrame:
        return
    encode(parsed)


@given(st.text())
def test_any_text_is_parsed_or_refused(frame: str) -> None:
    try:
        parse(frame, NOW_NS)
    except MalformedFrame:
        return
