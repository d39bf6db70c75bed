"""The shoppers: they place orders over HTTP, click twice, vanish, come back, and remember what they were told."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import aiohttp
import msgspec

from coatcheck.demo.evening import Checkout, Evening, Manner

_CREATED, _ACCEPTED, _CONFLICT, _SERVER_ERROR = 201, 202, 409, 500
_PATIENCE_S = 60.0
_POLL_S = 0.2
_TRY_AGAIN_S = 0.5
_VANISHES_AFTER_S = 0.012  # before any PSP can have answered
_COMES_BACK_AFTER_S = 0.1
_LONGEST_REQUEST_S = 45.0
_REFUSALS_KEPT = 20


@dataclass(frozen=True, slots=True)
class Answer:
    """A final answer of the gateway to one click. `took_s` only where this was the first answer to the checkout."""

    body: dict[str, Any]
    is_replay: bool
    took_s: float | None


@dataclass(slots=True)
class Memory:
    """What the shoppers did and were told."""

    answers: dict[str, list[Answer]] = field(default_factory=dict)
    payment_ids: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    refusals: list[str] = field(default_factory=list)

    def times_s(self) -> list[float]:
        """List how long the first answers took, ascending."""
        return sorted(
            answer.took_s for answers in self.answers.values() for answer in answers if answer.took_s is not None
        )

    def refuse(self, checkout_id: str, what: str) -> None:
        """Keep an answer that no shopper should get."""
        self.counts["refusals"] += 1
        if len(self.refusals) < _REFUSALS_KEPT:
            self.refusals.append(f"{checkout_id}: {what}")


@asynccontextmanager
async def open_shop_session(gateway_url: str, api_key: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Open what talks to the gateway: as many connections as there are requests at the same time."""
    async with aiohttp.ClientSession(
        base_url=gateway_url,
        connector=aiohttp.TCPConnector(limit=0),
        headers={"Authorization": f"Bearer {api_key}"},
        timeout=aiohttp.ClientTimeout(total=_LONGEST_REQUEST_S),
        trust_env=False,
    ) as session:
        yield session


async def play_evening(
    session: aiohttp.ClientSession, evening: Evening, *, at_once: int, tick: Callable[[], None]
) -> Memory:
    """Let the shoppers buy, `at_once` of them at a time; `tick` is called after every checkout."""
    memory = Memory()
    queue = iter(evening.checkouts)

    async def shop(queue: Iterator[Checkout]) -> None:
        for checkout in queue:
            await _Shopper(session, memory, checkout).buy()
            tick()

    async with asyncio.TaskGroup() as shoppers:
        for _ in range(at_once):
            shoppers.create_task(shop(queue))
    return memory


class _Shopper:
    """One buyer in front of one checkout."""

    def __init__(self, session: aiohttp.ClientSession, memory: Memory, checkout: Checkout) -> None:
        self._session = session
        self._memory = memory
        self._checkout = checkout
        self._first_click_at = monotonic()
        memory.answers[checkout.checkout_id] = []

    async def buy(self) -> None:
        """Place the order the way this shopper does."""
        checkout = self._checkout
        if checkout.manner is Manner.VANISHES:
            await self._vanish()
        if checkout.manner is Manner.TWICE_AT_ONCE:
            await asyncio.gather(self._click(checkout.key), self._click(checkout.key))
        else:
            await self._click(checkout.key)
        if checkout.manner is Manner.AGAIN_SAME_KEY:
            await self._click(checkout.key)
        elif checkout.manner is Manner.AGAIN_NEW_KEY:
            await self._click(f"{checkout.key}-again")

    async def _vanish(self) -> None:
        """Click, and close the connection before the answer."""
        try:
            async with asyncio.timeout(_VANISHES_AFTER_S):
                await self._post(self._checkout.key)
        except TimeoutError:
            self._memory.counts["vanished"] += 1
        except (aiohttp.ClientError, OSError):
            self._memory.counts["lost connections"] += 1
        await asyncio.sleep(_COMES_BACK_AFTER_S)

    async def _click(self, key: str) -> None:
        """Send until there is a final answer: when a 409 or 202 says, and after a failure, always with the same key."""
        self._memory.counts["clicks"] += 1
        deadline = monotonic() + _PATIENCE_S
        while monotonic() < deadline:
            try:
                pause_s = await self._ask(key)
            except (aiohttp.ClientError, OSError, TimeoutError):
                self._memory.counts["lost connections"] += 1
                pause_s = _TRY_AGAIN_S
            if pause_s is None:
                return
            await asyncio.sleep(pause_s)
        self._memory.counts["gave up"] += 1

    async def _ask(self, key: str) -> float | None:
        """Send once. Returns how long to wait before the next sending, None when there is nothing more to ask."""
        status, headers, body = await self._post(key)
        if status == _CREATED:
            self._remember(body, is_replay="Idempotent-Replayed" in headers)
            return None
        if status == _ACCEPTED:
            return await self._poll(body)
        if status == _CONFLICT and body.get("code") == "request_in_progress":
            self._memory.counts["told to wait"] += 1
            return float(headers.get("Retry-After", "1"))
        if status >= _SERVER_ERROR:
            self._memory.counts["gateway errors"] += 1
            return float(headers.get("Retry-After", _TRY_AGAIN_S))
        self._memory.refuse(self._checkout.checkout_id, f"{status} {body.get('code')}: {body.get('detail')}")
        return None

    async def _poll(self, body: dict[str, Any]) -> float | None:
        self._memory.counts["told later"] += 1
        payment_id = str(body["payment_id"])
        self._memory.payment_ids[self._checkout.checkout_id] = payment_id
        deadline = monotonic() + _PATIENCE_S
        while monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
            seen = await read_json(self._session, f"/v1/payments/{payment_id}")
            if seen["is_payment_done"]:
                self._remember(seen, is_replay=True)
                return None
        return _POLL_S

    def _remember(self, body: dict[str, Any], *, is_replay: bool) -> None:
        answers = self._memory.answers[self._checkout.checkout_id]
        took_s = None if answers else monotonic() - self._first_click_at
        answers.append(Answer(body, is_replay, took_s))
        self._memory.payment_ids[self._checkout.checkout_id] = str(body["payment_id"])
        self._memory.counts["replays"] += is_replay

    async def _post(self, key: str) -> tuple[int, Any, dict[str, Any]]:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        if self._checkout.waits:
            headers["Prefer"] = "wait=30"
        async with self._session.post("/v1/payments", data=self._checkout.body, headers=headers) as response:
            return response.status, response.headers, _decoded(await response.read())


async def read_json(session: aiohttp.ClientSession, path: str) -> dict[str, Any]:
    """GET a JSON object. Raises aiohttp.ClientError for any answer but 200."""
    async with session.get(path) as response:
        response.raise_for_status()
        return _decoded(await response.read())


def _decoded(raw: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        body = None
    return body if isinstance(body, dict) else {"code": "not JSON", "detail": raw[:200].decode("utf-8", "replace")}
