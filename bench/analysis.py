"""How many trades a second the analysis takes on one core: `python bench analysis [TRADES]`.

500 open coins, trades by 40 traders each, 100 trades a second of their own time; the best of three runs.
"""

from __future__ import annotations

import argparse
import random
import time

from rich.console import Console

from analyze.analysis import Analysis
from harness.show import heading, machine
from schemas import curve
from schemas.events import Market, Quote, Side, TokenCreated, TokenEvent, TokenTraded

TOKENS = 500
TRADERS = 40
TRADES = 100_000
TRADE_STEP_NS = 10_000_000
START_NS = 1_790_000_000_000_000_000


def events(trades: int) -> list[TokenEvent]:
    rng = random.Random(1)
    made: list[TokenEvent] = []
    curves: list[curve.Curve] = []
    for n in range(TOKENS):
        bought = curve.quote_buy_sol(curve.FRESH, rng.randrange(10_000_000, 3_000_000_000))
        curves.append(bought.after)
        made.append(
            TokenCreated(
                id=f"c{n}", mint=f"mint{n}", signature=f"s{n}", creator=f"dev{n}", pool="pump", name=f"Coin {n}",
                symbol=f"C{n}", uri="ipfs://x", dev_buy_tokens=bought.tokens, dev_buy_lamports=bought.curve_lamports,
                market=_market(bought.after, START_NS), quote=Quote.SOL, mayhem=False, seen_at_ns=START_NS,
            )
        )  # fmt: skip
    for n in range(trades):
        token, at_ns = rng.randrange(TOKENS), START_NS + (n + 1) * TRADE_STEP_NS
        side = Side.BUY if rng.random() < 0.55 else Side.SELL
        if side is Side.BUY:
            swap = curve.quote_buy_sol(curves[token], rng.randrange(10_000_000, 500_000_000))
        else:
            swap = curve.quote_sell(curves[token], (curve.INITIAL_VIRTUAL_TOKENS - curves[token].virtual_tokens) // 20)
        if swap.after.complete:
            continue
        curves[token] = swap.after
        made.append(
            TokenTraded(
                id=f"{n:032x}", mint=f"mint{token}", signature=f"t{n}", side=side,
                trader=f"trader{token}-{rng.randrange(TRADERS)}", pool="pump", lamports=swap.curve_lamports,
                tokens=swap.tokens, trader_tokens_after=None, market=_market(swap.after, at_ns), pool_lamports=None,
                pool_tokens=None, seen_at_ns=at_ns,
            )
        )  # fmt: skip
    return made


def _market(state: curve.Curve, at_ns: int) -> Market:
    return Market(virtual_lamports=state.virtual_lamports, virtual_tokens=state.virtual_tokens, seen_at_ns=at_ns)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench analysis", description=__doc__)
    parser.add_argument("trades", nargs="?", type=int, default=TRADES)
    given = parser.parse_args()
    heading(Console(), machine())
    made = events(given.trades)
    best, decisions, counters = 0.0, 0, {}
    for _ in range(3):
        analysis = Analysis()
        started_s = time.perf_counter()
        decisions = sum(len(analysis.feed(event)) for event in made)
        best = max(best, len(made) / (time.perf_counter() - started_s))
        counters = {"/".join(key): count for key, count in analysis.counters.items() if count}
    print(f"{best:,.0f} events/s, {len(made):,} events, {decisions:,} decisions, {counters}")


if __name__ == "__main__":
    main()
