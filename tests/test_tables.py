"""analyze/windows.py, holders.py, memory.py: each table says what a plain recount says, and is bounded."""

from hypothesis import given
from hypothesis import strategies as st

from analyze.holders import HOLDERS_MAX, Holders
from analyze.memory import EarlyMigrations, EventIds
from analyze.windows import SECOND_NS, TRADES_MAX, WINDOWS_S, Windows

START = 1_790_000_000 * SECOND_NS

trades = st.lists(
    st.tuples(
        st.integers(-5 * SECOND_NS, 100 * SECOND_NS),  # since the newest
        st.integers(-(10**12), 10**12),
        st.integers(0, 5),  # sizes, often equal
        st.booleans(),
        st.sampled_from(["", "a", "b", "c"]),
    ),
    max_size=60,
)


@given(trades)
def test_windows_equal_a_recount_of_all_trades(made: list[tuple[int, int, int, bool, str]]) -> None:
    windows, plain, newest_ns = Windows(), [], 0
    for step_ns, net, size, is_buy, trader in made:
        buyer = trader if is_buy else ""
        windows.add(newest_ns + step_ns, net, size, is_buy, buyer)
        newest_ns = max(newest_ns, newest_ns + step_ns)  # one dated before the newest counts as of the newest
        plain.append((newest_ns, net, size, is_buy, buyer))
    for seconds, window in zip(WINDOWS_S, windows.all, strict=True):
        inside = [one for one in plain if one[0] > newest_ns - seconds * SECOND_NS]
        sizes = sorted(one[2] for one in inside)
        buyers = [one[4] for one in inside if one[4]]
        assert len(window) == len(inside)
        assert window.net_lamports == sum(one[1] for one in inside)
        assert window.buys == sum(one[3] for one in inside)
        assert window.sells == len(inside) - window.buys
        assert window.unique_buyers == len(set(buyers))
        assert window.repeat_buyers == sum(buyers.count(buyer) > 1 for buyer in set(buyers))
        assert window.median_lamports == (sizes[(len(sizes) - 1) // 2] if sizes else 0)


def test_a_window_holds_the_newest_trades_up_to_its_bound() -> None:
    windows = Windows()
    for n in range(TRADES_MAX + 10):
        windows.add(START + n, 1, n, True, f"t{n}")
    assert all(len(window) == window.buys == window.unique_buyers == TRADES_MAX for window in windows.all)
    assert windows.w300.median_lamports == 10 + (TRADES_MAX - 1) // 2


@given(st.lists(st.tuples(st.integers(0, 150), st.integers(-3, 40)), max_size=300))
def test_the_largest_balances_are_those_of_a_plain_table(changes: list[tuple[int, int]]) -> None:
    holders, plain = Holders(), {}
    for trader, tokens in changes:
        holders.put(str(trader), tokens)
        plain[str(trader)] = max(0, tokens)
        assert len(holders) <= HOLDERS_MAX
        if sum(held > 0 for held in plain.values()) > HOLDERS_MAX:
            return  # from here on it forgets
    for number in (1, 3, 10):
        assert holders.largest(number) == sum(sorted(plain.values())[-number:])
    for trader in plain:
        assert holders.balance(trader) == plain[trader]
        assert holders.largest_but(trader) == max((held for one, held in plain.items() if one != trader), default=0)


def test_balances_are_bounded_and_the_smallest_are_forgotten() -> None:
    holders = Holders()
    for n in range(1, 1001):
        holders.put(f"t{n}", n)
    assert len(holders) == HOLDERS_MAX
    assert holders.largest(10) == sum(range(991, 1001))
    holders.put("late", 1)
    assert holders.balance("late") == 0


def test_an_event_id_is_known_for_its_time_and_older_events_are_repetitions() -> None:
    ids = EventIds(keep_ns=100)
    assert not ids.repeated("a", 0, 0)
    assert ids.repeated("a", 0, 50)
    assert ids.repeated("a", 100, 100)
    assert not ids.repeated("b", 101, 101)
    assert ids.repeated("c", 0, 101)  # older than the memory: a first delivery is never this late
    assert not ids.repeated("a", 202, 202)  # forgotten


def test_event_ids_are_bounded_and_what_is_forgotten_early_is_still_a_repetition() -> None:
    ids = EventIds(keep_ns=10**9, ids_max=10)
    for n in range(100):
        assert not ids.repeated(str(n), n, n)
    assert len(ids) <= 11
    assert all(ids.repeated(str(n), n, 100) for n in range(100))


def test_early_migrations_are_bounded_by_number_and_time() -> None:
    early = EarlyMigrations(keep_ns=100, migrations_max=3)
    for n in range(5):
        early.note(f"m{n}", n)
    assert len(early) == 3
    assert not early.take("m0", 5)
    assert early.take("m4", 5)
    assert not early.take("m4", 5)
    assert not early.take("m3", 104)
