"""The shop as its clients see it: two gateways, asked until one of them answers."""

import asyncio
import random
from collections.abc import Iterator, Mapping
from time import monotonic
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec

from coatcheck.drill.journal import Flight, Journal
from coatcheck.drill.plan import Checkout

# A page that the PSP answered with a 500 is looked for again after a minute, three times at most.
PATIENCE_S: Final = 300.0
GAVE_NO_ANSWER: Final = (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError)
_REQUEST_S: Final = 8.0
_WAIT: Final = "wait=5"
_VANISHES_AFTER_S: Final = 0.015
_REFUSES_FOR_S: Final = 0.5
_LAST_GOOD, _SERVER_ERROR = 202, 500
_BUSY: Final = frozenset({"request_in_progress", "operation_in_progress"})


class Request(NamedTuple):
    """What is asked of the gateways. `options`: what aiohttp is told besides, of a request without a key."""

    method: str
    path: str
    body: bytes | None = None
    key: str | None = None
    flight: Flight | None = None
    options: Mapping[str, Any] = {}


class Answer(NamedTuple):
    """A settled answer to one request. `again_in_s`: what it says of when to come again."""

    status: int
    body: dict[str, Any]
    again_in_s: int = 0

    @property
    def is_good(self) -> bool:
        """Whether what was asked for is done or under way."""
        return self.status <= _LAST_GOOD


class Shop:
    """The clients of one installation: what they share."""

    def __init__(
        self,
        *,
        journal: Journal,
        checkouts: Iterator[Checkout],
        gateways: Mapping[str, str],
        api_key: str,
        simulator_url: str,
        think_s: float,
    ) -> None:
        self.journal = journal
        self.simulator_url = simulator_url
        self.gateways = list(gateways.items())
        self._refuses_until: dict[str, float] = {}
        self.checkouts = checkouts
        self.think_s = think_s
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers={"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=_REQUEST_S),
            trust_env=False,
        )

    async def insist(self, dice: random.Random, request: Request, *, patience_s: float = PATIENCE_S) -> Answer | None:
        """Send, to either gateway, until there is an answer that means something; always the same key and body.

        `Retry-After` is obeyed.
        """
        deadline = monotonic() + patience_s
        while monotonic() < deadline:
            answer = None
            try:
                answer = await self._send(dice, request)
            except GAVE_NO_ANSWER:
                self.journal.counts["requests without an answer"] += 1
            if answer is not None and answer.status < _SERVER_ERROR and answer.body.get("code") not in _BUSY:
                return answer
            if answer is not None:
                self.journal.counts[f"answers {answer.status}"] += 1
            await asyncio.sleep((0.1 if answer is None else max(0.1, answer.again_in_s)) + 0.3 * dice.random())
        self.journal.counts["clients who gave up"] += 1
        return None

    async def vanish(self, dice: random.Random, request: Request) -> None:
        """Send, and break the connection before any answer."""
        try:
            async with asyncio.timeout(_VANISHES_AFTER_S):
                await self._send(dice, request)
        except TimeoutError:
            self.journal.counts["clients gone before the answer"] += 1
        except GAVE_NO_ANSWER:
            pass  # gone all the same
        await asyncio.sleep(0.1)

    async def _send(self, dice: random.Random, request: Request) -> Answer:
        gateway, url = self._some_gateway(dice)
        headers = {} if request.key is None else {"Idempotency-Key": request.key, "Prefer": _WAIT}
        options = {"headers": headers, **request.options}
        self.journal.counts["requests"] += 1
        if request.flight is not None:
            request.flight.at_gateways[gateway] += 1
        try:
            async with self.session.request(request.method, url + request.path, data=request.body, **options) as answer:
                body = msgspec.json.decode(await answer.read(), type=dict[str, Any])
                return Answer(answer.status, body, int(answer.headers.get("Retry-After", "0")))
        except aiohttp.ClientConnectorError:
            self._refuses_until[gateway] = monotonic() + _REFUSES_FOR_S
            raise
        finally:
            if request.flight is not None:
                request.flight.at_gateways[gateway] -= 1

    def _some_gateway(self, dice: random.Random) -> tuple[str, str]:
        """Choose a gateway and its address; like any balancer, not one that has just refused a connection."""
        now = monotonic()
        listening = [each for each in self.gateways if self._refuses_until.get(each[0], 0) < now]
        return dice.choice(listening or self.gateways)
