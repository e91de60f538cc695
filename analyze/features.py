"""A token -> its features: integers with the unit in the name.

What the reserves tell (progress, market cap, net flow, velocity) is exact even where trades were missed; what only
counting tells (buyers, buys, sells, shares) speaks of the trades that were heard (`tokens.py` says why).
Shares of the supply take 1 billion tokens; shares are cut to 10,000 bps.

At the creation
    dev_buy_lamports, dev_buy_bps   the creator's first buy: into the curve, without fees; its share of the supply
    name_launches, symbol_launches, creator_launches   within the last hour as seen, this one included; 0: it has none
    missing_metadata           how many of name, symbol, uri are missing
    name_chars, symbol_chars   their lengths
    mayhem                     1 for a mayhem coin, whose later reserves follow rules that are not known
Of the curve
    age_ms                     since the creation was seen
    progress_bps               share of the real tokens sold
    completion_s               until the last token is sold at the velocity of the newest 60 s; NEVER_S if it falls
    market_cap_lamports        supply times price
    drawdown_bps, peak_age_ms  of the market cap below its highest; since when that was
    net_lamports, velocity_lamports_s   into the curve since the creator's first buy (may be negative); per second
Of the trades since the creation
    buys, sells                without the creator's first buy
    buy_lamports, sell_lamports    their amounts in the curve, without fees
    unique_buyers              others than the creator that bought; stops counting at BUYERS_MAX
    largest_buyer_bps          the largest one's share of what others than the creator paid into the curve
Of each window of 10, 30, 60 and 300 s (`_10s` …)
    net_…_lamports             into the curve
    velocity_…_lamports_s      that, per second of the window, also where the coin is younger
    buys_…, sells_…            trades
    buyers_…, repeat_buyers_…  others than the creator that bought; those of them that bought more than once
    median_…_lamports          the middle size of a trade, 0 without trades
    acceleration_…_lamports_s  velocity of the next shorter window less that of the rest (30, 60 and 300 s)
    outflow_30s_bps            what left the curve within 30 s, as a share of what was in it before; 0 if it grew
Of who holds
    dev_sold, dev_sold_bps     whether the creator sold; the share of what it is known to have bought
    dev_holds_bps              what the creator still has, of the supply
    holder_bps, top_3_bps, top_10_bps   the largest known balances together, of the supply
    holder_of_sold_bps         the largest known balance but the creator's, as a share of what the curve has sold
Of what looks arranged
    launch_buys, launch_bps    purchases by others in the instant of the creation; their share of the supply
    burst_buys_max, burst_bps  the most purchases in one instant; the share of purchases in bursts
    identical_bps              share of purchases whose size was bought before
    gap_seen                   1 if the feed was not heard for a while since the creation: counts are incomplete
"""

from __future__ import annotations

from typing import Final, Protocol

from analyze.score import Scored, Silence
from analyze.tokens import Launches, Token
from analyze.windows import WINDOWS_S, Window
from schemas import curve
from schemas.events import Market, Quote, TokenCreated
from schemas.money import BPS

MS_NS: Final = 1_000_000

# "Later than anybody waits": of a curve that does not fill.
NEVER_S: Final = 1_000_000

_WINDOW_NAMES: Final = tuple(
    (
        seconds,
        f"net_{seconds}s_lamports",
        f"velocity_{seconds}s_lamports_s",
        f"buys_{seconds}s",
        f"sells_{seconds}s",
        f"buyers_{seconds}s",
        f"repeat_buyers_{seconds}s",
        f"median_{seconds}s_lamports",
    )
    for seconds in WINDOWS_S
)
_ACCELERATION: Final = {seconds: f"acceleration_{seconds}s_lamports_s" for seconds in WINDOWS_S[1:]}


class Predictor(Protocol):
    """What AI_PREDICTIONS asks."""

    def predict(self, look: Look) -> Scored | Silence: ...


class Look:
    """A token at one time. `features` are made once, when somebody asks for them.

    gap_seen: whether the feed was silent since the creation: trades may be missing.
    predictor: the model in use, None where there is none. at_decision_point: whether it is the moment to ask it.
    """

    __slots__ = ("_features", "at_decision_point", "gap_seen", "now_ns", "predictor", "token")

    def __init__(
        self,
        token: Token,
        now_ns: int,
        gap_seen: bool,
        *,
        predictor: Predictor | None = None,
        at_decision_point: bool = False,
    ) -> None:
        self.token = token
        self.now_ns = now_ns
        self.gap_seen = gap_seen
        self.predictor = predictor
        self.at_decision_point = at_decision_point
        self._features: dict[str, int] | None = None

    @property
    def features(self) -> dict[str, int]:
        if self._features is None:
            self._features = features_of(self.token, self.now_ns, self.gap_seen)
        return self._features


def features_of(token: Token, now_ns: int, gap_seen: bool) -> dict[str, int]:
    """As in the module's table."""
    features = _launched(token)
    features["gap_seen"] = int(gap_seen)
    _add_counts(features, token, now_ns)
    _add_windows(features, token, now_ns)
    _add_holders(features, token)
    return features


def outflow_bps(token: Token, window: Window) -> int:
    """What left the curve within a window, as a share of what was in it before; 0 if it grew."""
    net = window.net_lamports
    before = token.market.virtual_lamports - net - curve.INITIAL_VIRTUAL_LAMPORTS
    return _share(-net, before) if net < 0 else 0


def holder_of_sold_bps(token: Token) -> int:
    """The largest known balance but the creator's, as a share of what the curve has sold; 0 where that is nothing."""
    return _share(token.holders.largest_but(token.creator), curve.INITIAL_VIRTUAL_TOKENS - token.market.virtual_tokens)


def _share(part: int, whole: int) -> int:
    """In bps, rounded down, from 0 to 10,000; 0 of nothing."""
    if part <= 0 or whole <= 0:
        return 0
    return part * BPS // whole if part < whole else BPS


def _launched(token: Token) -> dict[str, int]:
    return {
        "dev_buy_lamports": token.dev_buy_lamports,
        "dev_buy_bps": _share(token.dev_buy_tokens, curve.SUPPLY_TOKENS),
        "name_launches": token.launches.name,
        "symbol_launches": token.launches.symbol,
        "creator_launches": token.launches.creator,
        "missing_metadata": token.missing_metadata,
        "name_chars": token.name_chars,
        "symbol_chars": token.symbol_chars,
        "mayhem": int(not token.arithmetic_known),
    }


def _add_counts(features: dict[str, int], token: Token, now_ns: int) -> None:
    age_ms = max(0, now_ns - token.created_at_ns) // MS_NS
    net = token.market.virtual_lamports - token.first_lamports
    features["age_ms"] = age_ms
    features["progress_bps"] = token.progress_bps
    features["market_cap_lamports"] = token.market_cap_lamports
    features["drawdown_bps"] = token.drawdown_bps
    features["peak_age_ms"] = max(0, now_ns - token.peak_at_ns) // MS_NS
    features["net_lamports"] = net
    features["velocity_lamports_s"] = net * 1000 // max(1000, age_ms)
    features["buys"] = token.buys
    features["sells"] = token.sells
    features["buy_lamports"] = token.buy_lamports
    features["sell_lamports"] = token.sell_lamports
    features["unique_buyers"] = token.unique_buyers
    features["largest_buyer_bps"] = _share(token.largest_buyer_lamports, token.bought_by_others)


def _add_windows(features: dict[str, int], token: Token, now_ns: int) -> None:
    windows = token.windows(now_ns)
    shorter_s = shorter_net = 0
    for window, names in zip(windows.all, _WINDOW_NAMES, strict=True):
        seconds, net_name, velocity, buys, sells, buyers, repeat, median = names
        net = window.net_lamports
        features[net_name] = net
        features[velocity] = net // seconds
        features[buys] = window.buys
        features[sells] = window.sells
        features[buyers] = window.unique_buyers
        features[repeat] = window.repeat_buyers
        features[median] = window.median_lamports
        if shorter_s:
            rest = (net - shorter_net) // (seconds - shorter_s)
            features[_ACCELERATION[seconds]] = shorter_net // shorter_s - rest
        shorter_s, shorter_net = seconds, net
    features["outflow_30s_bps"] = outflow_bps(token, windows.w30)
    left = curve.COMPLETE_VIRTUAL_LAMPORTS - token.market.virtual_lamports
    flowing = windows.w60.net_lamports
    features["completion_s"] = min(NEVER_S, max(0, left) * WINDOWS_S[2] // flowing) if flowing > 0 else NEVER_S


def _add_holders(features: dict[str, int], token: Token) -> None:
    holders, patterns, supply = token.holders, token.patterns, curve.SUPPLY_TOKENS
    dev_sold_bps = token.dev_sold_bps
    features["dev_sold"] = int(dev_sold_bps > 0)
    features["dev_sold_bps"] = dev_sold_bps
    features["dev_holds_bps"] = _share(holders.balance(token.creator), supply)
    features["holder_bps"] = _share(holders.largest(1), supply)
    features["top_3_bps"] = _share(holders.largest(3), supply)
    features["top_10_bps"] = _share(holders.largest(10), supply)
    features["holder_of_sold_bps"] = holder_of_sold_bps(token)
    features["launch_buys"] = patterns.launch_buys
    features["launch_bps"] = _share(patterns.launch_tokens, supply)
    features["burst_buys_max"] = patterns.burst_buys_max
    features["burst_bps"] = patterns.burst_bps
    features["identical_bps"] = patterns.identical_bps


def _names() -> tuple[str, ...]:
    """Those of any token: they do not depend on it."""
    fresh = Market(
        virtual_lamports=curve.INITIAL_VIRTUAL_LAMPORTS, virtual_tokens=curve.INITIAL_VIRTUAL_TOKENS, seen_at_ns=0
    )
    creation = TokenCreated(
        id="", mint="", signature="", creator="", pool="pump", name=None, symbol=None, uri=None, dev_buy_tokens=0,
        dev_buy_lamports=0, market=fresh, quote=Quote.SOL, mayhem=False, seen_at_ns=0,
    )  # fmt: skip
    return tuple(features_of(Token(creation, Launches(0, 0, 0)), 0, False))


FEATURE_NAMES: Final = _names()
