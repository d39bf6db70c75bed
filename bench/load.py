"""Our own load generator: checkouts over HTTP, closed loop (as many clients as asked) or open loop (by the clock).

`python -m bench.load closed --url URL --key KEY --clients 256 --seconds 20`
`python -m bench.load open --url URL --key KEY --rate 200 --seconds 20 [--to simulator]`

It prints one JSON line. In the open loop a request is sent when its time has come, whatever became of the others, and
its latency counts from that time: a gateway that stalls is charged for everybody who came meanwhile.
"""

import argparse
import asyncio
import gc
import random
import secrets
import string
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import cast
from urllib.parse import urlsplit

import httptools
import msgspec
import uvloop

BUYERS, SELLERS = 10_000, 1_000
_SUCCESS = b'"status":"SUCCESS","is_payment_done":true'
_CHARGED = b'"status":"succeeded"'
_LAST_ANSWERS_S = 20.0
_CREATED = 201

MakeRequest = Callable[[int], bytes]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What a load generator says at the end.

    `answered` counts every answer, `refused` those that were not what was hoped for (above 399 for wrk; not a
    successful 201 for ours), `failed` connections broken and requests never answered.
    """

    generator: str
    answered: int
    seconds: float
    refused: int
    failed: int
    p50_ms: float
    p99_ms: float
    max_ms: float | None = None
    late_ms: float | None = None


def percentile(sorted_values: Sequence[float], percent: float) -> float:
    """Give the smallest value that at least `percent` of all are not above (nearest rank); 0 when there are none."""
    if not sorted_values:
        return 0.0
    rank = -(-len(sorted_values) * percent // 100)
    return sorted_values[max(int(rank), 1) - 1]


def arrival_times(rate: float, seconds: float, dice: random.Random) -> list[float]:
    """Draw when requests are to be sent, in seconds from the start: a Poisson process, as independent buyers make."""
    times: list[float] = []
    at = dice.expovariate(rate)
    while at < seconds:
        times.append(at)
        at += dice.expovariate(rate)
    return times


def new_tag() -> str:
    """Name a run by letters alone: digits beside the counter could look like a card number to the gateway."""
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(8))


def _money(dice: random.Random) -> str:
    """Of 100 orders 48 are in USD, 48 in EUR, 2 in JPY and 2 in KWD."""
    die, whole = dice.randint(1, 100), dice.randint(5, 499)
    if die <= 96:
        currency = "USD" if die <= 48 else "EUR"
        return f'"amount":"{whole}.95","currency":"{currency}","commission":"0.45"'
    if die <= 98:
        return f'"amount":"{whole * 100}","currency":"JPY","commission":"3"'
    return f'"amount":"{whole}.250","currency":"KWD","commission":"0.125"'


def payment_body(number: int, tag: str, orders: int, dice: random.Random) -> str:
    """Write a checkout; a (tag, number) is never sent twice. bench/wrk_payments.lua makes the same."""
    buyer, ticket = dice.randint(1, BUYERS), f"{tag}-{number}"
    parts = ",".join(
        [
            f'{{"payment_order_id":"o-{ticket}-{place}","seller_account":"seller-{dice.randint(1, SELLERS)}",'
            f"{_money(dice)}}}"
            for place in range(1, orders + 1)
        ]
    )
    return (
        f'{{"buyer":{{"reference":"buyer-{buyer}","email":"buyer-{buyer}@shop.example","country":"DE",'
        f'"ip":"198.51.{buyer // 250}.{buyer % 250}"}},"checkout_id":"c-{ticket}",'
        f'"payment_method":{{"token":"tok_approve.card{buyer}"}},"payment_orders":[{parts}],'
        f'"idempotency_key":"k-{ticket}"}}'
    )


def _head(path: str, host: str, key: str) -> str:
    return f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"


def payment_requests(host: str, key: str, tag: str, orders: int, dice: random.Random) -> MakeRequest:
    """Make whole HTTP requests for the gateway, by number."""
    head = _head("/v1/payments", host, key)

    def make(number: int) -> bytes:
        body = payment_body(number, tag, orders, dice)
        return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode("ascii")

    return make


def charge_requests(host: str, key: str, tag: str, dice: random.Random) -> MakeRequest:
    """Make whole HTTP requests for the simulator: the charge that a payment of one order would become."""
    head = _head("/v1/charges", host, key)

    def make(number: int) -> bytes:
        card, amount = dice.randint(1, BUYERS), dice.randint(595, 49_995)
        body = (
            f'{{"amount":{amount},"currency":"EUR","token":"tok_approve.card{card}",'
            f'"reference":"r-{tag}-{number}","description":"o-{tag}-{number}"}}'
        )
        return f"{head}Idempotency-Key: k-{tag}-{number}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode("ascii")

    return make


class Tally:
    """What came back. Only what was sent after `counted_from` enters the latencies; everything is counted."""

    def __init__(self, hoped_for: bytes, counted_from: float) -> None:
        self.hoped_for = hoped_for
        self.counted_from = counted_from
        self.statuses: Counter[int] = Counter()
        self.answered = self.refused = self.failed = 0
        self.latencies_s = array("d")
        self.late_s = array("d")

    def count(self, status: int, body: bytes, sent_at: float, now: float) -> None:
        """Count one answer."""
        self.answered += 1
        self.statuses[status] += 1
        if status != _CREATED or self.hoped_for not in body:
            self.refused += 1
        if sent_at >= self.counted_from:
            self.latencies_s.append(now - sent_at)

    def sum_up(self, generator: str, seconds: float) -> Load:
        """Put the figures together."""
        ordered = sorted(self.latencies_s)
        return Load(
            generator=generator,
            answered=self.answered,
            seconds=seconds,
            refused=self.refused,
            failed=self.failed,
            p50_ms=percentile(ordered, 50) * 1e3,
            p99_ms=percentile(ordered, 99) * 1e3,
            max_ms=percentile(ordered, 100) * 1e3,
            late_ms=percentile(sorted(self.late_s), 99) * 1e3,
        )


class Client(asyncio.Protocol):
    """One kept connection with one request on its way at most; `on_free` is called when its answer is in."""

    def __init__(self, tally: Tally, on_free: "Callable[[Client], None]") -> None:
        self._tally = tally
        self._on_free = on_free
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._sent_at = 0.0
        self._body = b""
        self.is_busy = False
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to send."""
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def send(self, request: bytes, counted_from: float) -> None:
        """Send a request whose latency counts from `counted_from` (perf_counter seconds)."""
        self._sent_at, self._body = counted_from, b""
        if self._transport is None or not self.is_open:
            self._tally.failed += 1
            return
        self.is_busy = True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls the methods below."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Keep what was answered."""
        self._body += body

    def on_message_complete(self) -> None:
        """Count the answer and ask for the next request."""
        self.is_busy = False
        status = self._parser.get_status_code()
        self._tally.count(status, self._body, self._sent_at, time.perf_counter())
        self._on_free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a request that will never be answered."""
        del exc
        self.is_open = False
        if self.is_busy:
            self.is_busy = False
            self._tally.failed += 1

    def close(self) -> None:
        """Give the connection back."""
        if self._transport is not None:
            self._transport.close()


async def _connect(host: str, port: int, tally: Tally, on_free: Callable[[Client], None]) -> Client:
    _, client = await asyncio.get_running_loop().create_connection(lambda: Client(tally, on_free), host, port)
    return client


async def run_closed(url: str, make: MakeRequest, *, clients: int, seconds: float) -> Load:
    """Keep `clients` clients busy: each sends its next checkout when the last one's answer is in."""
    parts = urlsplit(url)
    host, port = str(parts.hostname), int(parts.port or 80)
    started = time.perf_counter()
    until = started + seconds
    tally = Tally(_SUCCESS, started)
    sent = 0

    def next_one(client: Client) -> None:
        nonlocal sent
        now = time.perf_counter()
        if now < until and client.is_open:
            sent += 1
            client.send(make(sent), now)

    pool = list(await asyncio.gather(*[_connect(host, port, tally, next_one) for _ in range(clients)]))
    for client in pool:
        next_one(client)
    await asyncio.sleep(until - time.perf_counter())
    await _wait_for_last(pool)
    return tally.sum_up("our own", time.perf_counter() - started)


async def _wait_for_last(pool: Sequence[Client]) -> None:
    until = time.perf_counter() + _LAST_ANSWERS_S
    while time.perf_counter() < until and any(client.is_busy for client in pool):  # noqa: ASYNC110 - seldom
        await asyncio.sleep(0.01)
    for client in pool:
        client.close()
    await asyncio.sleep(0)


class _Arrivals:
    """Sends each request at its time: over a connection that is free, or over a new one."""

    def __init__(self, host: str, port: int, make: MakeRequest, tally: Tally) -> None:
        self._host, self._port, self._make, self._tally = host, port, make, tally
        # The longest unused comes first, so that none is idle until the other side closes it.
        self._free: deque[Client] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self.pool: list[Client] = []

    async def open(self, count: int) -> None:
        """Connect before the first request, as a shop's own connection pool would."""
        await asyncio.gather(*[self._add() for _ in range(count)])
        self._free.extend(self.pool)

    async def _add(self) -> Client:
        client = await _connect(self._host, self._port, self._tally, self._free_again)
        self.pool.append(client)
        return client

    def _free_again(self, client: Client) -> None:
        self._free.append(client)

    def send(self, number: int, intended_at: float) -> None:
        """Send now what was intended for `intended_at`."""
        self._tally.late_s.append(time.perf_counter() - intended_at)
        while self._free:
            client = self._free.popleft()
            if client.is_open:
                client.send(self._make(number), intended_at)
                return
        task = asyncio.create_task(self._send_over_new(number, intended_at))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _send_over_new(self, number: int, intended_at: float) -> None:
        try:
            client = await self._add()
        except OSError:
            self._tally.failed += 1
            return
        client.send(self._make(number), intended_at)

    async def finish(self) -> None:
        """Wait for the last answers."""
        if self._connecting:
            await asyncio.wait(set(self._connecting), timeout=_LAST_ANSWERS_S)
        await _wait_for_last(self.pool)


async def run_open(
    url: str, make: MakeRequest, *, rate: float, seconds: float, warm_up: float, hoped_for: bytes
) -> Load:
    """Send `rate` requests per second by the clock; latencies of the first `warm_up` seconds are not counted."""
    parts = urlsplit(url)
    times = arrival_times(rate, warm_up + seconds, random.Random(20_251))
    tally = Tally(hoped_for, 0.0)
    arrivals = _Arrivals(str(parts.hostname), int(parts.port or 80), make, tally)
    await arrivals.open(32)
    started = time.perf_counter() + 0.1
    tally.counted_from = started + warm_up
    for number, offset in enumerate(times, 1):
        intended_at = started + offset
        while (left := intended_at - time.perf_counter()) > 0:  # noqa: ASYNC110 - a clock
            await asyncio.sleep(left)
        arrivals.send(number, intended_at)
    ended = time.perf_counter()
    await arrivals.finish()
    return tally.sum_up("our own", ended - started)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="checkouts over HTTP, closed or open loop")
    parser.add_argument("loop", choices=("closed", "open"))
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", required=True, help="the API key to send")
    parser.add_argument("--to", choices=("gateway", "simulator"), default="gateway")
    parser.add_argument("--clients", type=int, default=256)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm-up", type=float, default=0.0)
    parser.add_argument("--orders", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Read the command line, run the load, print one JSON line."""
    options = _options()
    dice, tag = random.Random(1), new_tag()
    host = str(urlsplit(options.url).netloc)
    is_gateway = options.to == "gateway"
    if is_gateway:
        make = payment_requests(host, options.key, tag, options.orders, dice)
    else:
        make = charge_requests(host, options.key, tag, dice)
    gc.collect()
    gc.freeze()
    if options.loop == "closed":
        load = uvloop.run(run_closed(options.url, make, clients=options.clients, seconds=options.seconds))
    else:
        hoped_for = _SUCCESS if is_gateway else _CHARGED
        coroutine = run_open(
            options.url, make, rate=options.rate, seconds=options.seconds, warm_up=options.warm_up, hoped_for=hoped_for
        )
        load = uvloop.run(coroutine)
    sys.stdout.write(msgspec.json.encode(load).decode() + "\n")


if __name__ == "__main__":
    main()
