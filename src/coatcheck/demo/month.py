"""The end of the month: what the PSP paid out, with mistakes planted in its files; the bank; disputes; payouts.

Played over HTTP like the evening, and judged by what the PSP, its files and the gateway's public API say.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

import aiohttp

from coatcheck.demo.evening import Evening, minor_units
from coatcheck.demo.planting import Mistake, Unpaid, lines_of, plant
from coatcheck.demo.shoppers import read_json
from coatcheck.demo.statement import Entry, bank_statement

REFUNDS: Final = 24
DISPUTES: Final = ("lose", "win")
WEBHOOK_SECRET: Final = "whsec_of_the_demo_and_of_nobody_else"  # noqa: S105 - guards nothing but the demo
_SETTLE_S, _POLL_S, _AT_ONCE, _ATTEMPTS, _PAGE = 30.0, 0.2, 16, 6, 1_000
_CREATED, _ACCEPTED = 201, 202
_NOTHING_OPEN = re.compile(r"^coatcheck_open_operations 0(?:\.0)?$", re.MULTILINE)


@dataclass(slots=True)
class Month:
    """What came of it. `findings` say in words whatever is not as it must be."""

    matched: int = 0
    planted: int = 0
    found: int = 0
    clearing_open: int = 0
    paid_out: Counter[str] = field(default_factory=Counter)
    payouts: int = 0
    payouts_twice: int = 0
    refunds: int = 0
    disputes: int = 0
    replay_rows: int = 0
    replay_difference: int = 0
    came_back: dict[tuple[str, str], int] = field(default_factory=dict)  # minor units, by seller and currency
    findings: list[str] = field(default_factory=list)

    @property
    def is_ok(self) -> bool:
        """Whether the books are closed, and nothing was overlooked or done twice."""
        wrong = (self.clearing_open, self.payouts_twice, self.replay_difference)
        return not any(wrong) and self.planted == self.found and not self.findings

    @property
    def proof(self) -> str:
        """Say it in the line of proof."""
        return (
            f"matched={self.matched} breaks_planted={self.planted} breaks_found={self.found} "
            f"clearing_open={self.clearing_open} payouts_twice={self.payouts_twice} "
            f"replay_difference={self.replay_difference}"
        )


@dataclass(slots=True)
class Desk:
    """Where the month is played: the gateway, the PSP's admin pages, and the PSP as its merchant sees it."""

    gateway: aiohttp.ClientSession
    gateway_url: str
    simulator: aiohttp.ClientSession
    evening: Evening
    seed: int
    say: Callable[[str], None]


async def pay_out_earlier(simulator: aiohttp.ClientSession, gateway: aiohttp.ClientSession) -> frozenset[str]:
    """Let the PSP pay out what earlier evenings left, so that tonight's settlements are tonight's; names them all.

    What an interrupted evening left undecided is finished first.
    """

    async def is_finished() -> bool:
        async with gateway.get("/metrics") as response:
            return _NOTHING_OPEN.search(await response.text()) is not None

    await _until(is_finished)
    async with simulator.post("/admin/close-batches") as response:
        response.raise_for_status()
    return frozenset(batch["id"] for batch in await _batches(simulator))


async def play_month(stage: Desk, earlier: frozenset[str]) -> Month:
    """Close the month after an evening whose orders are all final."""
    month = Month()
    await _listen(stage)
    stage.say("The month ends. Buyers send things back, and two go to their bank ...")
    charged = await _charged_orders(stage)
    await _refund(stage, charged[:REFUNDS], month)
    await _dispute(stage, charged[REFUNDS : REFUNDS + len(DISPUTES)], month)
    stage.say("The PSP pays out. Its files come with mistakes, then as they should be; then the bank's statement ...")
    files = await _settle(stage, earlier)
    arrived = await _reconcile(stage, files, month)
    stage.say(
        "What has matured is paid to the sellers, each payout asked for twice; the bank says what it has paid ..."
    )
    await _pay_out(stage, month)
    await _bring_statement(stage, "paid", arrived, await _paid_by_bank(stage), month)
    await _count_open(stage, month)
    return month


async def _listen(stage: Desk) -> None:
    """Have the PSP tell the gateway what happens: disputes are news that nobody asks for."""
    body = {"url": f"{stage.gateway_url}/webhooks/simulator", "secret": WEBHOOK_SECRET}
    async with stage.simulator.put("/admin/webhooks", json=body) as response:
        response.raise_for_status()


async def _charged_orders(stage: Desk) -> list[dict[str, Any]]:
    """Find some orders that were charged, the first of each checkout."""
    found: list[dict[str, Any]] = []
    for checkout in stage.evening.checkouts:
        if len(found) == REFUNDS + len(DISPUTES):
            break
        order = await read_json(stage.gateway, f"/v1/payment_orders/{checkout.orders[0].payment_order_id}")
        if order["status"] == "SUCCESS":
            found.append(order)
    return found


async def _refund(stage: Desk, orders: Sequence[Mapping[str, Any]], month: Month) -> None:
    """Give back every second order in whole, the others in part."""
    for number, order in enumerate(orders):
        body = {"payment_order_id": order["payment_order_id"], "reason": "sent back"}
        if number % 2:
            body["amount"] = "1" if order["currency"] == "JPY" else "0.50"
        refund = await _post(stage.gateway, "/v1/refunds", body, f"refund-{order['payment_order_id']}")
        path = f"/v1/refunds/{refund['refund_id']}"

        async def is_over(path: str = path) -> bool:
            return bool((await read_json(stage.gateway, path))["status"] == "SUCCEEDED")

        if await _until(is_over):
            month.refunds += 1
        else:
            month.findings.append(f"{path} is not over")


async def _dispute(stage: Desk, orders: Sequence[Mapping[str, Any]], month: Month) -> None:
    """Have buyers dispute charges at their bank; one is lost, one is answered and won."""
    for verb, order in zip(DISPUTES, orders, strict=False):
        asked = {"charge": order["provider_reference"], "reason": "product_not_received"}
        async with stage.simulator.post("/admin/disputes", json=asked) as response:
            response.raise_for_status()
            at_psp = (await response.json())["id"]
        query = f"/v1/disputes?payment_order_id={order['payment_order_id']}"

        async def statuses(query: str = query) -> list[str]:
            return [each["status"] for each in (await read_json(stage.gateway, query))["disputes"]]

        async def is_known(statuses: Callable[[], Awaitable[list[str]]] = statuses) -> bool:
            return await statuses() != []

        async def is_decided(statuses: Callable[[], Awaitable[list[str]]] = statuses) -> bool:
            return await statuses() in (["WON"], ["LOST"])

        if not await _until(is_known):
            month.findings.append(f"the dispute of {order['payment_order_id']} is not known here")
            continue
        if verb == "win":
            dispute = (await read_json(stage.gateway, query))["disputes"][0]["dispute_id"]
            whose = order["seller_account"], order["currency"]
            month.came_back[whose] = minor_units(order["amount"], order["currency"])
            said = {"texts": {"explanation": "signed for by the buyer"}}
            await _post(stage.gateway, f"/v1/disputes/{dispute}/evidence", said, f"evidence-{dispute}")
        async with stage.simulator.post(f"/admin/disputes/{at_psp}/{verb}", data=b"{}") as response:
            response.raise_for_status()
        month.disputes += 1
        if not await _until(is_decided):
            month.findings.append(f"the dispute of {order['payment_order_id']} is not decided: {await statuses()}")


async def _batches(simulator: aiohttp.ClientSession) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await read_json(simulator, "/v1/settlements"))["data"]
    return found


async def _settle(stage: Desk, earlier: frozenset[str]) -> dict[str, str]:
    """Let the PSP pay out, and fetch its files, by settlement."""
    async with stage.simulator.post("/admin/close-batches") as response:
        response.raise_for_status()
    files = {}
    for batch in await _batches(stage.simulator):
        if batch["id"] not in earlier:
            async with stage.simulator.get(f"/v1/settlements/{batch['id']}/file") as response:
                response.raise_for_status()
                files[batch["id"]] = await response.text()
    return files


async def _reconcile(stage: Desk, files: Mapping[str, str], month: Month) -> Counter[str]:
    """Bring the files with their mistakes, then as the PSP issues them again, then the bank's statement.

    Returns what has arrived at the bank, in minor units by currency.
    """
    unpaid = await _declined(stage)
    for name, text in files.items():
        spoiled, planted = plant(text, stage.seed, unpaid.get(_currency_of(text), ()))
        _compare(name, planted, await _bring(stage, f"{name}.csv", spoiled), month)
    arrivals = []
    for name, text in files.items():
        report = await _bring(stage, f"{name}-again.csv", text)
        month.matched += int(report["matched"])
        still = [each for each in report["mismatches"] if each["closed_at"] is None]
        if still:
            month.findings.append(f"{name}: issued again as it should be, it has open breaks: {still[:3]}")
        told = sum(kind in ("charge", "capture", "refund", "refund_returned") for kind, _ in lines_of(text))
        if int(report["matched"]) < told:
            month.findings.append(f"{name}: {told} lines, of which {report['matched']} agree with the books")
        arrivals.append(_arrival_of(text))
    await _bring_statement(stage, "arrived", {}, arrivals, month)
    arrived: Counter[str] = Counter()
    for entry in arrivals:
        arrived[entry.currency] += entry.amount_minor
    return arrived


async def _bring_statement(
    stage: Desk, name: str, opening: Mapping[str, int], entries: Sequence[Entry], month: Month
) -> None:
    text = bank_statement(f"demo-{stage.evening.number}-{name}", opening, entries)
    report = await _bring(stage, f"{name}.xml", text)
    if report["open_breaks"]:
        month.findings.append(f"the bank's statement {name} has open breaks: {report['mismatches'][:3]}")


async def _count_open(stage: Desk, month: Month) -> None:
    """Count what is left on the clearing accounts: the payouts to sellers are not over before the bank has them."""
    ageing = await read_json(stage.gateway, "/v1/reports/ageing")
    for account in ageing["accounts"]:
        left = abs(minor_units(account["balance"], account["currency"]))
        if left:
            month.clearing_open += left
            month.findings.append(f"{account['name']} has {account['balance']} {account['currency']} left")


def _compare(name: str, planted: Sequence[Mistake], report: Mapping[str, Any], month: Month) -> None:
    """Hold what was found against what was planted: each once, and nothing else."""
    found = [Mistake(each["kind"], each["line"] or 0) for each in report["mismatches"]]
    month.planted += len(planted)
    left = list(planted)
    for each in found:
        # A wrong total is told of once for each of the file's totals that it touches.
        if each in left:
            left.remove(each)
            month.found += 1
        else:
            month.findings.append(f"{name}: a break that nobody planted: {each}")
    month.findings += [f"{name}: planted and not found: {each}" for each in left]


def _currency_of(text: str) -> str:
    return text.splitlines()[1].split(",")[7]


def _arrival_of(text: str) -> Entry:
    row = text.splitlines()[-2].split(",")
    return Entry(row[3], row[7], -minor_units(row[10], row[7]))


async def _declined(stage: Desk) -> dict[str, list[Unpaid]]:
    """Find charges of tonight that the PSP declined, by currency."""
    found: dict[str, list[Unpaid]] = {}
    cursor: str | None = "0"
    while cursor is not None:
        page = await read_json(stage.simulator, f"/admin/charges?cursor={cursor}&limit={_PAGE}")
        for charge in page["data"]:
            if charge["status"] == "declined" and stage.evening.has_lane_of(charge["amount"]):
                unpaid = Unpaid(charge["id"], charge["reference"], charge["amount"])
                found.setdefault(charge["currency"], []).append(unpaid)
        cursor = page["next_cursor"]
    return found


async def _bring(stage: Desk, name: str, text: str) -> dict[str, Any]:
    headers = {"Content-Type": "application/octet-stream"}
    path = f"/v1/reconciliations?name={name}"
    async with stage.gateway.post(path, data=text.encode(), headers=headers) as response:
        body: dict[str, Any] = await response.json()
        if response.status != _CREATED:
            raise aiohttp.ClientError(f"{name} was not taken: {body.get('detail')}")
        return body


async def _pay_out(stage: Desk, month: Month) -> None:
    """Wait until all has matured, then ask for every seller's money twice at the same time, with one key."""
    # What a dispute that was won gave back follows within the hour (docs/wallets.md). Who waits for that is read last:
    # when all others have their money, he has his other money, too.
    late = {seller for seller, _ in month.came_back}
    sellers = sorted(stage.evening.sellers, key=lambda seller: seller in late)
    wallets = {}

    async def has_matured() -> bool:
        for seller in [each for each in sellers if each not in wallets]:
            wallet = await _read_or_none(stage.gateway, f"/v1/sellers/{seller}/wallet")
            balances = [] if wallet is None else wallet["balances"]
            if any(
                not 0 <= _minor(each, "pending") <= month.came_back.get((seller, each["currency"]), 0)
                for each in balances
            ):
                return False
            wallets[seller] = balances
        return True

    if not await _until(has_matured):
        month.findings.append("some sellers' money has not matured")
        return
    due = [
        (seller, each["currency"], each["available"])
        for seller, balances in wallets.items()
        for each in balances
        if _minor(each, "available")
    ]
    queue = iter(due)

    async def pay() -> None:
        for seller, currency, available in queue:
            await _pay_seller(stage, seller, currency, available, month)

    async with asyncio.TaskGroup() as together:
        for _ in range(_AT_ONCE):
            together.create_task(pay())
    await _compare_payouts(stage, due, month)


async def _pay_seller(stage: Desk, seller: str, currency: str, available: str, month: Month) -> None:
    token = f"dest_ok.{_account(stage, seller)}"
    path = f"/v1/sellers/{seller}/payout_destination"
    async with stage.gateway.put(path, json={"currency": currency, "token": token}) as response:
        response.raise_for_status()
    for attempt in range(1, _ATTEMPTS + 1):
        payout = await _click_twice(stage, seller, currency, f"{token}-{currency}-{attempt}", month)
        if payout["status"] != "FAILED":  # the PSP refuses some; the money is back in the wallet, and is asked for anew
            break
    if payout["status"] != "PAID" or payout["amount"] != available:
        month.findings.append(f"{seller} was to get {available} {currency}: {payout}")


async def _click_twice(stage: Desk, seller: str, currency: str, key: str, month: Month) -> dict[str, Any]:
    """Ask for a payout twice at the same time, and wait until it is decided."""
    body = {"seller_account": seller, "currency": currency}
    first, second = await asyncio.gather(*[_post(stage.gateway, "/v1/payouts", body, key) for _ in range(2)])
    if first["payout_id"] != second["payout_id"]:
        month.findings.append(f"{seller} has two payouts of {currency} for one key")
    payout = first

    async def is_decided() -> bool:
        nonlocal payout
        payout = await read_json(stage.gateway, f"/v1/payouts/{first['payout_id']}")
        return bool(payout["status"] != "PENDING")

    await _until(is_decided)
    return payout


async def _compare_payouts(stage: Desk, due: Sequence[tuple[str, str, str]], month: Month) -> None:
    """Hold the PSP's own payouts against what was due: each once, and to the minor unit."""
    made: Counter[tuple[str, str]] = Counter()
    amounts: Counter[tuple[str, str]] = Counter()
    for payout in await _paid_at_psp(stage):
        made[payout["destination"], payout["currency"]] += 1
        amounts[payout["destination"], payout["currency"]] += payout["amount"]
    for seller, currency, available in due:
        name = f"dest_ok.{_account(stage, seller)}", currency
        month.payouts += made[name] == 1
        month.payouts_twice += made[name] > 1
        month.paid_out[currency] += amounts[name]
        if amounts[name] != minor_units(available, currency):
            month.findings.append(f"{seller} was due {available} {currency} and got {amounts[name]} minor units")


async def _paid_at_psp(stage: Desk) -> list[dict[str, Any]]:
    """Read the payouts that the PSP has made, of all evenings."""
    found: list[dict[str, Any]] = []
    cursor: str | None = "0"
    while cursor is not None:
        page = await read_json(stage.simulator, f"/admin/payouts?cursor={cursor}&limit={_PAGE}")
        found += [payout for payout in page["data"] if payout["status"] == "paid"]
        cursor = page["next_cursor"]
    return found


async def _paid_by_bank(stage: Desk) -> list[Entry]:
    """Say what our bank paid for the PSP's payouts of tonight."""
    return [
        Entry(payout["id"], payout["currency"], -payout["amount"])
        for payout in await _paid_at_psp(stage)
        if payout["destination"].endswith(f"-{stage.evening.number}")
    ]


def _account(stage: Desk, seller: str) -> str:
    """Name a seller's bank account; another one each evening, so that the PSP's books tell evenings apart."""
    return f"{seller}-{stage.evening.number}"


def _minor(balance: Mapping[str, Any], part: str) -> int:
    return minor_units(balance[part], balance["currency"])


async def _post(session: aiohttp.ClientSession, path: str, body: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Ask for something under a key, again while the first request of that key runs."""
    deadline = monotonic() + _SETTLE_S
    while True:
        headers = {"Idempotency-Key": key, "Prefer": "wait=20"}
        async with session.post(path, json=body, headers=headers) as response:
            answer: dict[str, Any] = await response.json()
            if response.status in (200, _CREATED, _ACCEPTED):
                return answer
            if answer.get("code") != "request_in_progress" or monotonic() > deadline:
                raise aiohttp.ClientError(f"{path}: {response.status} {answer.get('detail')}")
        await asyncio.sleep(_POLL_S)


async def _read_or_none(session: aiohttp.ClientSession, path: str) -> dict[str, Any] | None:
    try:
        return await read_json(session, path)
    except aiohttp.ClientResponseError as error:
        if error.status != 404:  # noqa: PLR2004
            raise
        return None


async def _until(is_so: Callable[[], Awaitable[bool]]) -> bool:
    deadline = monotonic() + _SETTLE_S
    while not await is_so():
        if monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL_S)
    return True
