"""The pure parts of the benchmark: a wrong figure must not look like a right one."""

import random
import re
import sys
import time
from asyncio import Transport
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # bench/ is a folder of programs, not installed

from bench.end_to_end import Counts, Plan, batches_of, disagreements, parse_load
from bench.load import (
    Client,
    Load,
    Tally,
    arrival_times,
    charge_requests,
    new_tag,
    payment_body,
    payment_requests,
    percentile,
)
from bench.machine import BenchError, Usage, quiet_environment, read_metrics, shares_of, sum_of
from bench.risk_cost import cost_percent
from bench.run import GOALS, parse_line, verdicts
from bench.sealing import Moment, Turn, tell_cost

from coatcheck.simulator.bank import ChargeBody
from coatcheck.validation import parse_payment_request

LUA = Path(__file__).resolve().parents[2] / "bench" / "wrk_payments.lua"


def a_load(**changed: Any) -> Load:
    given = {
        "generator": "wrk",
        "answered": 100,
        "seconds": 1.0,
        "refused": 0,
        "failed": 0,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
    }
    return Load(**{**given, **changed})


def some_counts(**changed: Any) -> Counts:
    given: dict[str, Any] = {
        "payments": 103,
        "orders_by_status": {"SUCCESS": 103},
        "answers_by_status": {"201": 102},
        "charged": 103,
        "charged_twice": 0,
        "load": a_load(),
    }
    return Counts(**{**given, **changed})


class FakeTransport(Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))


def answer(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


@pytest.mark.parametrize(("percent", "expected"), [(50, 50.0), (99, 99.0), (99.5, 100.0), (100, 100.0), (0, 1.0)])
def test_a_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert percentile([float(value) for value in range(1, 101)], percent) == expected


def test_a_percentile_of_few_values_is_one_of_them() -> None:
    assert percentile([], 99) == 0.0
    assert percentile([7.0], 1) == 7.0
    assert percentile([1.0, 2.0], 50) == 1.0
    assert percentile([1.0, 2.0], 51) == 2.0


def test_arrivals_are_a_poisson_process_of_the_rate_asked() -> None:
    times = arrival_times(200.0, 100.0, random.Random(3))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    assert times == sorted(times)
    assert times[-1] < 100.0
    assert mean == pytest.approx(1 / 200, rel=0.05)
    # An even rhythm would have no spread; independent arrivals have one as large as the mean.
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 == pytest.approx(mean, rel=0.1)


@pytest.mark.parametrize("orders", [1, 4])
def test_the_gateway_takes_every_checkout_the_load_makes(orders: int) -> None:
    dice, tag = random.Random(orders), new_tag()
    numbers = [*range(1, 1500), *range(9_999_000, 9_999_500)]
    requests = [
        parse_payment_request(payment_body(n, tag, orders, dice).encode(), body_depth=16, orders_limit=100)
        for n in numbers
    ]
    assert len({request.checkout_id for request in requests}) == len(numbers)
    assert len({request.idempotency_key for request in requests}) == len(numbers)
    order_ids = {order.payment_order_id for request in requests for order in request.orders}
    assert len(order_ids) == len(numbers) * orders
    currencies = [order.currency for request in requests for order in request.orders]
    assert set(currencies) == {"USD", "EUR", "JPY", "KWD"}
    assert sum(currency in {"USD", "EUR"} for currency in currencies) / len(currencies) > 0.9


def test_two_runs_never_send_the_same_checkout() -> None:
    tags = {new_tag() for _ in range(100)}
    assert len(tags) == 100
    assert all(tag.isalpha() for tag in tags)  # with digits, a tag and a counter could make a card number


def test_wrk_is_given_the_same_body_as_our_own_generator() -> None:
    def names(text: str) -> list[str]:
        return sorted(set(re.findall(r'"([a-z_]+)":', text)))

    lua = LUA.read_text("utf-8").partition("function done")[0]
    assert names(lua) == names(payment_body(1, "tag", 1, random.Random(1)))


@pytest.mark.parametrize("kind", ["payments", "charges"])
def test_a_request_says_how_long_its_body_is(kind: str) -> None:
    dice = random.Random(1)
    make: Callable[[int], bytes] = (
        payment_requests("h:1", "key", "tag", 2, dice)
        if kind == "payments"
        else charge_requests("h:1", "key", "t", dice)
    )
    head, _, body = make(17).partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(body) in head
    assert b"Authorization: Bearer key" in head
    if kind == "charges":
        msgspec.json.decode(body, type=ChargeBody)


def test_only_a_created_payment_that_succeeded_is_no_refusal() -> None:
    tally = Tally(b'"status":"SUCCESS","is_payment_done":true', 0.0)
    freed: list[Client] = []
    client = Client(tally, freed.append)
    transport = FakeTransport()
    client.connection_made(transport)
    good = b'{"status":"SUCCESS","is_payment_done":true}'
    for status, body in ((201, good), (201, b'{"status":"FAILED","is_payment_done":true}'), (202, good), (500, b"{}")):
        client.send(b"request", 0.0)
        whole = answer(status, body)
        client.data_received(whole[:40])  # an answer may come in pieces
        client.data_received(whole[40:])
    assert (tally.answered, tally.refused, tally.failed) == (4, 3, 0)
    assert len(freed) == len(transport.written) == 4


def test_a_client_counts_from_the_time_it_is_given() -> None:
    tally = Tally(b"", 0.0)
    client = Client(tally, lambda _: None)
    client.connection_made(FakeTransport())
    client.send(b"request", time.perf_counter() - 5.0)
    client.data_received(answer(201, b""))
    assert tally.latencies_s[0] >= 5.0


def test_a_latency_counts_from_the_intended_time_and_warm_up_is_left_out() -> None:
    tally = Tally(b"", 100.0)
    tally.count(201, b"", sent_at=99.0, now=150.0)
    tally.count(201, b"", sent_at=101.0, now=101.5)
    load = tally.sum_up("our own", 1.0)
    assert load.answered == 2
    assert (load.p50_ms, load.max_ms) == (500.0, 500.0)


def test_a_request_that_gets_no_answer_is_counted() -> None:
    tally = Tally(b"", 0.0)
    client = Client(tally, lambda _: None)
    client.connection_made(FakeTransport())
    client.send(b"request", 0.0)
    client.connection_lost(None)
    client.send(b"request", 0.0)
    assert (tally.answered, tally.failed) == (0, 2)


def test_witnesses_that_agree_leave_nothing_to_say() -> None:
    assert disagreements(some_counts(), Plan(clients=4)) == []
    left_early = some_counts(answers_by_status={"201": 102, "400": 4})
    assert disagreements(left_early, Plan(clients=4)) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"orders_by_status": {"SUCCESS": 102, "FAILED": 1}, "charged": 102}, "not every order is SUCCESS"),
        ({"orders_by_status": {"SUCCESS": 104}, "charged": 104}, "103 payments have 104 orders"),
        ({"charged": 104}, "the simulator charged 104"),
        ({"charged_twice": 1}, "1 orders were charged twice"),
        ({"answers_by_status": {"201": 102, "202": 1}}, "otherwise than 201"),
        ({"answers_by_status": {"201": 102, "400": 5}}, "otherwise than 201"),
        ({"answers_by_status": {"201": 90}, "load": a_load(answered=90)}, "103 payments, but 90 answers"),
        ({"answers_by_status": {"201": 104}}, "103 payments, but 104 answers"),
        ({"load": a_load(answered=50)}, "the load generator saw 50"),
        ({"load": a_load(answered=103)}, "the load generator saw 103"),
        ({"load": a_load(refused=1)}, "1 refused"),
        ({"load": a_load(failed=2)}, "2 failed"),
    ],
)
def test_a_disagreement_of_witnesses_is_found(changed: Mapping[str, Any], told: str) -> None:
    found = disagreements(some_counts(**changed), Plan(clients=4))
    assert any(told in line for line in found), found


def test_a_run_without_payments_is_no_figure() -> None:
    nothing = some_counts(payments=0, orders_by_status={}, answers_by_status={}, charged=0, load=a_load(answered=0))
    assert disagreements(nothing, Plan()) == ["there were no payments"]


def test_the_load_generators_line_is_found_among_others() -> None:
    line = '{"generator":"wrk","answered":5,"seconds":2.5,"refused":1,"failed":0,"p50_ms":3.25,"p99_ms":9.5}'
    found = parse_load(f"Running 1s test\n  5 requests\n{line}\n")
    assert (found.answered, found.seconds, found.refused, found.p99_ms) == (5, 2.5, 1, 9.5)
    with pytest.raises(BenchError, match="unable to connect"):
        parse_load("unable to connect to 127.0.0.1\n")


def test_metrics_are_read_by_name_and_label() -> None:
    metrics = read_metrics(
        "# HELP x y\n"
        'coatcheck_batch_size_sum{batch="accept"} 300.0\n'
        'coatcheck_batch_size_count{batch="accept"} 10.0\n'
        'coatcheck_batch_seconds_sum{batch="accept"} 0.05\n'
        'coatcheck_batch_size_sum{batch="apply"} 7.0\n'
        "process_open_fds 9.0\n"
    )
    assert sum_of(metrics, "coatcheck_batch_size_sum") == 307.0
    assert sum_of(metrics, "coatcheck_batch_size_sum", batch="apply") == 7.0
    assert sum_of(metrics, "coatcheck_batch_size") == 0.0
    size, took_ms = batches_of(metrics)["accept"]
    assert (size, round(took_ms, 6)) == (30.0, 5.0)


def test_a_share_is_in_cores() -> None:
    before, after = Usage(10.0, {"gateway": 1.0, "simulator": 0.5}), Usage(14.0, {"gateway": 4.0, "simulator": 0.5})
    assert shares_of(before, after) == {"gateway": 0.75, "simulator": 0.0}


def test_settings_of_the_caller_do_not_reach_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_BATCH_SIZE", "7")
    monkeypatch.setenv("DATABASE_URL", "postgresql://somebody/else")
    found = quiet_environment(COATCHECK_PORT="1")
    assert {name for name in found if name.startswith("COATCHECK_")} == {"COATCHECK_PORT"}
    assert "DATABASE_URL" not in found


def test_a_bench_line_is_read_whole_or_not_at_all() -> None:
    assert parse_line("BENCH part=ledger batch=1000 transfers_per_s=61234\n") == (
        "ledger",
        {"batch": "1000", "transfers_per_s": "61234"},
    )
    assert parse_line("a line that says BENCH part=ledger batch=1\n") is None
    assert parse_line("BENCH part=ledger\n") is None


def test_each_figure_is_set_beside_its_own_goal() -> None:
    told = verdicts(
        [
            "BENCH part=ledger batch=1000 transfers_per_s=60000\n",
            "BENCH part=ledger batch=8000 transfers_per_s=89999\n",
            "BENCH part=end_to_end payments_per_s=1499 ratio_to_unbatched=2.50 rss_mib=401\n",
        ]
    )
    assert [line.split()[:2] for line in told] == [
        ["MISSED", "1,499"],
        ["reached", "2.5"],
        ["MISSED", "401"],
        ["reached", "60,000"],
        ["MISSED", "89,999"],
    ]
    assert len({(goal.part, goal.figure, goal.where) for goal in GOALS}) == len(GOALS)


def test_the_cost_of_the_risk_rules_is_the_median_of_neighbouring_rounds() -> None:
    rounds = {"on": [110.0, 420.0, 105.0], "off": [100.0, 400.0, 100.0]}
    assert cost_percent(rounds) == pytest.approx(5.0)


def a_turn(*, held_at: float, held_cpu_s: float, taken: float = 1_000) -> Turn:
    """A second half of 1,000 payments in a second, at 600 microseconds each; `taken` in the first, until `held_at`."""
    return Turn(
        Moment(at=50.0, cpu_s=7.0, payments=400),
        Moment(at=50.0 + held_at, cpu_s=7.0 + held_cpu_s, payments=400 + taken),
        Moment(at=51.0 + held_at, cpu_s=7.6 + held_cpu_s, payments=1_400 + taken),
    )


def test_the_cost_of_seals_is_spread_over_all_that_was_written_in_a_turn() -> None:
    # The first half took 100 ms, and 36 ms of processor time, more than its own payments do: for the rows of both.
    turn = a_turn(held_at=1.1, held_cpu_s=0.636)
    assert turn.payments_percent() == pytest.approx(5.0)
    assert turn.cpu_percent() == pytest.approx(3.0)


def test_the_cost_of_seals_does_not_depend_on_how_many_payments_a_half_took() -> None:
    turn = a_turn(held_at=0.5 + 0.075, held_cpu_s=0.3 + 0.018, taken=500)
    assert turn.payments_percent() == pytest.approx(5.0)
    assert turn.cpu_percent() == pytest.approx(2.0)


def test_the_cost_of_seals_is_the_median_of_the_turns(capsys: pytest.CaptureFixture[str]) -> None:
    tell_cost([a_turn(held_at=1 + extra, held_cpu_s=0.6 * (1 + extra)) for extra in (0.02, 0.90, 0.04)])
    told = capsys.readouterr().out
    assert told == "BENCH part=sealing_cost payments_percent=2.0 cpu_percent=2.0 turns=3\n"
