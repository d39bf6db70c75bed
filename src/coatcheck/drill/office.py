"""The back office of an installation: the PSP pays out, its files and the bank's statements are brought, sellers paid.

Everything is asked for through the gateways, like what clients ask, and often twice.
"""

import asyncio
import random
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import msgspec

from coatcheck.drill.evidence import CURRENCY, ID, NET, OCCURRED_AT, PSP_KEY, TYPE
from coatcheck.drill.plan import DECIMALS, SELLERS, amount_text, minor_units, seller_named
from coatcheck.drill.shop import GAVE_NO_ANSWER, Answer, Request, Shop

_PAYS_SELLERS_EVERY_S: Final = 0.7
_PATIENCE_S: Final = 120.0
_FILE: Final[Mapping[str, Any]] = {
    "headers": {"Content-Type": "application/octet-stream"},
    "timeout": aiohttp.ClientTimeout(total=60),
}
_TAKEN: Final = 201
_TWICE_SHARE: Final = 0.4
_NOTHING_TO_PAY: Final = frozenset({"payout_not_possible"})


class Office:
    """The people behind the shop. `returns`: some sellers' banks send money back, which only a webhook tells."""

    def __init__(self, shop: Shop, name: str, seed: int, *, returns: bool, pays_out_every_s: float) -> None:
        self._shop = shop
        self._journal = shop.journal
        self._name = name
        self._returns = returns
        self._pays_out_every_s = pays_out_every_s
        self._dice = random.Random(f"office {name} {seed}")  # noqa: S311 - a drill that can be run again
        self._brought: set[str] = set()
        self._accounts = {currency: _Account(name) for currency in DECIMALS}
        self._destinations: set[tuple[str, str]] = set()
        self._psp = f"{shop.simulator_url}/v1/settlements"

    async def work(self) -> None:
        """Keep the books and pay sellers, again and again, until cancelled."""
        async with asyncio.TaskGroup() as together:
            together.create_task(self._keep_books())
            together.create_task(self._pay_sellers())

    async def close_books(self) -> None:
        """Have the PSP pay out what is left, and bring its last files and what the bank says of them."""
        async with self._shop.session.post(f"{self._shop.simulator_url}/admin/close-batches") as response:
            response.raise_for_status()
        await self._bring_all()

    async def begin_again(self) -> None:
        """Bring every file once more, for the books have forgotten which were there."""
        self._brought.clear()
        self._destinations.clear()
        self._accounts = {currency: _Account(self._name) for currency in DECIMALS}
        await self._bring_all()

    # files

    async def _keep_books(self) -> None:
        while True:
            await asyncio.sleep(self._pays_out_every_s * (0.5 + self._dice.random()))
            try:
                await self.close_books()
            except GAVE_NO_ANSWER:  # the PSP, asked for its files, is slow; they are there the next time
                self._journal.counts["files that could not be fetched yet"] += 1

    async def _bring_all(self) -> None:
        """Bring every file that is not known to be there, and the bank's statement about each."""
        for batch in (await self._fetch(self._psp))["data"]:
            name = batch["id"]
            if name in self._brought:
                continue
            text = await self._file(name)
            account = self._accounts[batch["currency"]]
            statement, after = account.statement(name, text)
            is_there = await self._bring(f"{name}.csv", text)
            if is_there and after != account.balance_minor:  # of a payout of nothing no bank says a word
                is_there = await self._bring(f"{name}-bank.txt", statement)
            if is_there:
                account.balance_minor = after
                self._brought.add(name)

    async def _fetch(self, url: str) -> dict[str, Any]:
        async with self._shop.session.get(url, headers=PSP_KEY) as response:
            response.raise_for_status()
            return msgspec.json.decode(await response.read(), type=dict[str, Any])

    async def _file(self, name: str) -> str:
        async with self._shop.session.get(f"{self._psp}/{name}/file", headers=PSP_KEY) as response:
            response.raise_for_status()
            return await response.text()

    async def _bring(self, name: str, text: str) -> bool:
        """Bring a file, sometimes to both gateways at the same time, until it is taken; False when it is refused."""
        copies = 2 if self._dice.random() < _TWICE_SHARE else 1
        answers = await asyncio.gather(*[self._bring_once(name, text) for _ in range(copies)])
        refused = [each for each in answers if each is None or each.status != _TAKEN]
        for answer in refused:
            self._journal.complain(f"{self._name}: {name} was not taken: {answer}")
        self._journal.counts["files brought"] += len(answers) - len(refused)
        return not refused

    async def _bring_once(self, name: str, text: str) -> Answer | None:
        request = Request("POST", f"/v1/reconciliations?name={name}", text.encode(), options=_FILE)
        return await self._shop.insist(self._dice, request, patience_s=_PATIENCE_S)

    # payouts

    async def _pay_sellers(self) -> None:
        """Ask for all that one seller after the other has available, most of the time with a double click."""
        number = 0
        while True:
            await asyncio.sleep(_PAYS_SELLERS_EVERY_S * (0.5 + self._dice.random()))
            number += 1
            seller = seller_named(self._dice.randrange(SELLERS))
            currency = self._dice.choice(list(DECIMALS))
            if await self._has_destination(seller, currency):
                await self.pay(f"payout-{self._name}-{number}", seller, currency)

    async def _has_destination(self, seller: str, currency: str) -> bool:
        """Say where a seller's money goes, the first time."""
        if (seller, currency) in self._destinations:
            return True
        body = {"currency": currency, "token": destination_of(seller, returns=self._returns)}
        path = f"/v1/sellers/{seller}/payout_destination"
        answer = await self._shop.insist(self._dice, Request("PUT", path, msgspec.json.encode(body)))
        if answer is None or not answer.is_good:
            self._journal.complain(f"{self._name}: {seller} was given no destination: {answer}")
            return False
        self._destinations.add((seller, currency))
        return True

    async def pay(self, key: str, seller: str, currency: str) -> None:
        """Ask for a payout of all that is available, under a key."""
        body = msgspec.json.encode({"seller_account": seller, "currency": currency})
        clicks = 2 if self._dice.random() < _TWICE_SHARE else 1
        request = Request("POST", "/v1/payouts", body, key)
        asked = [self._shop.insist(self._dice, request) for _ in range(clicks)]
        told: set[str] = set()
        for answer in await asyncio.gather(*asked):
            if answer is not None and answer.is_good:
                told.add(answer.body["payout_id"])
            elif answer is not None and answer.body.get("code") not in _NOTHING_TO_PAY:
                self._journal.complain(f"{self._name}: {key}: {answer}")
        self._journal.hear_payout(key, seller, currency, told)

    async def ask_again(self) -> None:
        """Ask for every payout again, as it was asked for, with the same key."""
        for key, payout in list(self._journal.payouts.items()):
            await self.pay(key, payout.seller_account, payout.currency)


def destination_of(seller: str, *, returns: bool) -> str:
    """Name a seller's bank account: with most of them all is well."""
    usual = {7: "dest_pending", 8: "dest_closed", 9: "dest_returns" if returns else "dest_ok"}
    return f"{usual.get(int(seller[-2:]) % 10, 'dest_ok')}.{seller}"


class _Account:
    """Our account at the bank, for one currency: its statements follow one another."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.balance_minor = 0

    def statement(self, batch: str, text: str) -> tuple[str, int]:
        """Write what the bank says of a file's payout, as MT940; returns it and the balance afterwards."""
        paid = next(row for line in text.splitlines() if (row := line.split(","))[TYPE] == "payout")
        currency, day = paid[CURRENCY], paid[OCCURRED_AT][2:10].replace("-", "")
        came = -minor_units(paid[NET], currency)  # what left the PSP's balance came to ours
        after = self.balance_minor + came
        lines = (
            f":20:{self._name}{batch}"[:20],
            f":25:DRILL{currency}",
            ":28C:1/1",
            f":60F:{_signed(self.balance_minor, day + currency, currency)}",
            f":61:{day}{_signed(came, '', currency)}NTRF{batch}//{batch}",
            f":86:Payout {paid[ID]} of the PSP",
            f":62F:{_signed(after, day + currency, currency)}",
        )
        return "\n".join(lines) + "\n", after


def _signed(minor: int, between: str, currency: str) -> str:
    """Write an amount as MT940 has it: the mark, what stands between, and a decimal comma that is always there."""
    amount = amount_text(abs(minor), currency).replace(".", ",")
    return f"{'C' if minor >= 0 else 'D'}{between}{amount}{'' if ',' in amount else ','}"
