"""What a user has and how it went: an account, the newest prices and the user's terms -> figures for people.

The bots answer for the users of their partitions on `bots.portfolio.<partition>`:

    question   {"user": "1"}
    answer     a Portfolio with "success": true, or {"success": false, "error": "…"}

    equity     = cash + what selling everything would return now (positions without a price count 0)
    profit     = equity - budget = realised + unrealised, where every position has a price
    cash       = budget + received - paid;   free = cash - reserved for purchases under way

All amounts are integers in lamports; every gain has all fees taken off, and the value of a position is what selling it
whole would return now, the network's fee taken off as well.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bots.mandate import UNKNOWN, Mandate
from bots.paper import network_fee_lamports, proceeds_lamports
from bots.positions import Account, Position
from bots.prices import Price
from bots.risk import cash_lamports, day_result_lamports, reserved_lamports
from schemas.codec import Decoder, encode
from schemas.events import Side
from schemas.money import BPS

SUBJECT = "bots.portfolio"


class Question(msgspec.Struct, frozen=True, kw_only=True):
    user: str


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """One open position.

    cost_lamports: paid for what is still held. value_lamports, unrealised_lamports, price_at_ns: None while it cannot
    be sold (no price, a curve waiting for its migration). received_lamports: from its sales so far.
    selling: whether an order to sell is under way.
    """

    mint: str
    tokens: int
    original_tokens: int
    cost_lamports: int
    value_lamports: int | None
    unrealised_lamports: int | None
    received_lamports: int
    opened_at_ns: int
    price_at_ns: int | None
    migrated: bool
    selling: bool


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One that has not landed."""

    id: str
    mint: str
    side: Side
    tokens: int
    lamports: int
    at_ns: int


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """How it went.

    signals: with an outcome. refused: signals and orders. entries: positions opened. closed, won: sold to the end, and
    those of them that gained. win_rate_bps, mean_hold_seconds: of the closed ones; None before the first.
    unpriced: open positions that unrealised_lamports leaves out. day_realised_lamports: of the present UTC day.
    """

    signals: int
    refused: int
    fills: int
    entries: int
    open: int
    pending: int
    closed: int
    won: int
    win_rate_bps: int | None
    mean_hold_seconds: int | None
    realised_lamports: int
    unrealised_lamports: int
    unpriced: int
    profit_lamports: int
    day_realised_lamports: int
    fees_lamports: int
    protocol_fees_lamports: int
    creator_fees_lamports: int
    network_fees_lamports: int


class Balances(msgspec.Struct, frozen=True, kw_only=True):
    """Where the money is. positions_lamports: what selling everything would return; positions_cost_lamports: paid for
    what is still held."""

    budget_lamports: int
    cash_lamports: int
    reserved_lamports: int
    free_lamports: int
    positions_lamports: int
    positions_cost_lamports: int
    equity_lamports: int


class Portfolio(msgspec.Struct, frozen=True, kw_only=True):
    """running, killed: whether entries are wanted, and an operator's reason against them."""

    success: bool
    user: str
    at_ns: int
    running: bool
    killed: str
    metrics: Metrics
    balances: Balances
    positions: list[Holding]
    orders: list[Order]


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no answer."""

    success: bool
    error: str


_question: Decoder[Question] = Decoder(Question)


def subject(partition: int) -> str:
    return f"{SUBJECT}.{partition}"


def question(data: bytes) -> str:
    """The user that is asked about. Raises MalformedEvent."""
    return _question(data).user


def answer(
    user: str,
    account: Account | None,
    mandate: Mandate | None,
    price_of: Callable[[str], Price | None],
    at_ns: int,
) -> bytes:
    """account: None without a ledger. mandate: None or UNKNOWN where the user never had a bot."""
    mandate = None if mandate is UNKNOWN else mandate
    if mandate is None and account is None:
        return encode(Unknown(success=False, error="this user has no bot"))
    return encode(portfolio(user, account or Account(), mandate, price_of, at_ns))


def portfolio(
    user: str, account: Account, mandate: Mandate | None, price_of: Callable[[str], Price | None], at_ns: int
) -> Portfolio:
    """mandate: None counts as a budget of nothing; the ledger is told all the same."""
    fee = 0 if mandate is None else network_fee_lamports(mandate.terms)
    holdings = [holding(position, price_of(mint), fee) for mint, position in account.positions.items()]
    return Portfolio(
        success=True,
        user=user,
        at_ns=at_ns,
        running=mandate is not None and mandate.running,
        killed="" if mandate is None else mandate.killed,
        metrics=_metrics(account, holdings, at_ns),
        balances=_balances(account, mandate, holdings),
        positions=holdings,
        orders=[
            Order(id=order.id, mint=order.mint, side=order.side, tokens=order.tokens, lamports=order.lamports,
                  at_ns=order.at_ns)
            for order in account.pending.values()
        ],
    )  # fmt: skip


def holding(position: Position, price: Price | None, fee_lamports: int) -> Holding:
    """fee_lamports: the network's, for the one sale that the value assumes."""
    proceeds = proceeds_lamports(price, position.tokens)
    value = None if proceeds is None else proceeds - fee_lamports
    return Holding(
        mint=position.mint,
        tokens=position.tokens,
        original_tokens=position.original_tokens,
        cost_lamports=position.open_cost_lamports,
        value_lamports=value,
        unrealised_lamports=None if value is None else value - position.open_cost_lamports,
        received_lamports=position.received_lamports,
        opened_at_ns=position.opened_at_ns,
        price_at_ns=None if price is None or value is None else price.seen_at_ns,
        migrated=price is not None and price.migrated_at_ns is not None,
        selling=position.selling is not None,
    )


def _metrics(account: Account, holdings: list[Holding], at_ns: int) -> Metrics:
    priced = [one.unrealised_lamports for one in holdings if one.unrealised_lamports is not None]
    fees = (account.protocol_fees_lamports, account.creator_fees_lamports, account.network_fees_lamports)
    return Metrics(
        signals=account.signals,
        refused=account.refusals,
        fills=account.fills,
        entries=account.entries,
        open=len(holdings),
        pending=len(account.pending),
        closed=account.closed,
        won=account.won,
        win_rate_bps=account.won * BPS // account.closed if account.closed else None,
        mean_hold_seconds=account.held_ns // account.closed // 1_000_000_000 if account.closed else None,
        realised_lamports=account.realised_lamports,
        unrealised_lamports=sum(priced),
        unpriced=len(holdings) - len(priced),
        profit_lamports=account.realised_lamports + sum(priced),
        day_realised_lamports=day_result_lamports(account, at_ns),
        fees_lamports=sum(fees),
        protocol_fees_lamports=fees[0],
        creator_fees_lamports=fees[1],
        network_fees_lamports=fees[2],
    )


def _balances(account: Account, mandate: Mandate | None, holdings: list[Holding]) -> Balances:
    budget = 0 if mandate is None else mandate.terms.budget_lamports
    cash = account.received_lamports - account.paid_lamports
    if mandate is not None:
        cash = cash_lamports(account, mandate.terms)
    reserved = reserved_lamports(account)
    value = sum(one.value_lamports or 0 for one in holdings)
    return Balances(
        budget_lamports=budget,
        cash_lamports=cash,
        reserved_lamports=reserved,
        free_lamports=cash - reserved,
        positions_lamports=value,
        positions_cost_lamports=sum(one.cost_lamports for one in holdings),
        equity_lamports=cash + value,
    )
