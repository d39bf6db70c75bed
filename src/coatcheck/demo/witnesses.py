"""Asking the witnesses: the PSP's admin pages and the gateway's public API, both over HTTP."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import aiohttp

from coatcheck.demo.evening import Evening
from coatcheck.demo.judge import Evidence, PspCharge
from coatcheck.demo.shoppers import Memory, read_json

_NOT_FOUND = 404
_PAGE = 1_000
_AT_ONCE = 32
_SETTLE_S = 20.0  # how long after the last click an order may stay open
_SETTLE_POLL_S = 0.3


@dataclass(frozen=True, slots=True)
class PspMark:
    """Where the PSP's books stood at some moment."""

    charges: int
    charged_twice: frozenset[str]


async def mark_books(simulator: aiohttp.ClientSession) -> PspMark:
    """Note where the PSP's books stand, so that only what comes later is counted."""
    books = await read_json(simulator, "/admin/books")
    return PspMark(int(books["charges"]), frozenset(books["charged_twice"]))


async def hear_witnesses(
    simulator: aiohttp.ClientSession,
    gateway: aiohttp.ClientSession,
    evening: Evening,
    memory: Memory,
    since: PspMark,
) -> Evidence:
    """Wait until every order is final, for some seconds at most, then read the books of both sides."""
    payments = await _settled_payments(gateway, memory.payment_ids)
    sellers = sorted({order.seller_account for order in evening.orders})
    wallets = await _read_all(gateway, {seller: f"/v1/sellers/{seller}/wallet" for seller in sellers})
    trial_balance = await read_json(gateway, "/v1/ledger/trial_balance")
    twice = (await mark_books(simulator)).charged_twice - since.charged_twice
    return Evidence(
        evening=evening,
        answers=memory.answers,
        refusals=memory.refusals,
        payments=payments,
        charges=await _charges_since(simulator, since.charges),
        references_charged_twice=twice,
        wallets={seller: wallet["balances"] for seller, wallet in wallets.items()},
        trial_balance=trial_balance["currencies"],
    )


async def _settled_payments(
    gateway: aiohttp.ClientSession, payment_ids: Mapping[str, str]
) -> Mapping[str, Mapping[str, Any]]:
    """Read every payment, and those that are not done again until they are."""
    paths = {checkout_id: f"/v1/payments/{payment_id}" for checkout_id, payment_id in payment_ids.items()}
    payments = await _read_all(gateway, paths)
    deadline = monotonic() + _SETTLE_S
    while open_ones := [name for name, payment in payments.items() if not payment["is_payment_done"]]:
        if monotonic() > deadline:
            break
        await asyncio.sleep(_SETTLE_POLL_S)
        payments |= await _read_all(gateway, {name: paths[name] for name in open_ones})
    return payments


async def _read_all(session: aiohttp.ClientSession, paths: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Read many pages at once; what is not there is left out, for the judge to miss."""
    found: dict[str, dict[str, Any]] = {}

    async def read(queue: Iterable[tuple[str, str]]) -> None:
        for name, path in queue:
            try:
                found[name] = await read_json(session, path)
            except aiohttp.ClientResponseError as error:
                if error.status != _NOT_FOUND:
                    raise

    queue = iter(paths.items())
    async with asyncio.TaskGroup() as readers:
        for _ in range(_AT_ONCE):
            readers.create_task(read(queue))
    return found


async def _charges_since(simulator: aiohttp.ClientSession, start: int) -> Sequence[PspCharge]:
    charges: list[PspCharge] = []
    cursor: str | None = str(start)
    while cursor is not None:
        page = await read_json(simulator, f"/admin/charges?cursor={cursor}&limit={_PAGE}")
        charges += [
            PspCharge(line["id"], line["reference"], line["status"], line["amount"], line["currency"])
            for line in page["data"]
        ]
        cursor = page["next_cursor"]
    return charges
