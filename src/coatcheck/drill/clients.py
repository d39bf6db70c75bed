"""The clients: they place orders over HTTP, click twice, vanish, come back and retry everything with the same keys."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from time import monotonic
from typing import Any, Final

import msgspec

from coatcheck.drill.journal import FINAL, Flight
from coatcheck.drill.plan import (
    Buyer,
    Checkout,
    Click,
    Dispute,
    GivesBack,
    Later,
    Manner,
    Order,
    amount_text,
    minor_units,
)
from coatcheck.drill.shop import GAVE_NO_ANSWER, PATIENCE_S, Answer, Request, Shop

_AUTHORIZED: Final = "AUTHORIZED"
_CONFLICT: Final = 409
_VERBS: Final = {Dispute.WON: "win", Dispute.LOST: "lose"}
_GOES_ON: Final = frozenset({Manner.HOSTED, Manner.MANUAL})  # after the order was placed


async def let_clients_buy(shop: Shop, clients: int, is_over: asyncio.Event, tick: Callable[[], None]) -> None:
    """Let so many clients buy until it is over; what they have begun they finish."""

    async def client() -> None:
        while not is_over.is_set():
            checkout = next(shop.checkouts)
            try:
                await _Client(shop, checkout).buy()
            except (LookupError, TypeError, ValueError) as error:  # an answer without what it must have
                shop.journal.complain(f"{checkout.checkout_id}: an answer could not be understood: {error!r}")
            tick()
            await asyncio.sleep(shop.think_s * random.random() * 2)  # noqa: S311 - pacing, not part of the plan

    async with asyncio.TaskGroup() as together:
        for _ in range(clients):
            together.create_task(client())


class _Client:
    """One client with one checkout."""

    def __init__(self, shop: Shop, checkout: Checkout) -> None:
        self._shop = shop
        self._journal = shop.journal
        self._checkout = checkout
        self._asked = shop.journal.ask(checkout)
        self._dice = random.Random(checkout.dice_seed)  # noqa: S311 - a drill that can be run again

    async def buy(self) -> None:
        """Place the order, see it through, give back what is to be given back."""
        payment = await self._place()
        if payment is None:
            return
        match self._checkout.manner:
            case Manner.HOSTED:
                await self._visit(payment)
            case Manner.MANUAL:
                await self._decide_later(payment)
        if self._checkout.manner in _GOES_ON or not self._rests(payment):
            payment = await self._until(self._rests)
        if payment is None:
            return
        self._asked.is_answered = True
        await self._give_back(payment)
        await self._dispute(payment)
        if self._checkout.click is Click.AGAIN:
            await self._post_payment(self._checkout.checkout_id + "-again", None)

    # The order itself

    async def _place(self) -> dict[str, Any] | None:
        flight = Flight(self._checkout.checkout_id)
        if self._checkout.manner is not Manner.HOSTED:  # of a page the buyer decides, not the gateway
            self._journal.flights.add(flight)
        key = f"click-{self._checkout.checkout_id}"
        if self._checkout.click is Click.VANISHES:
            await self._shop.vanish(self._dice, Request("POST", "/v1/payments", self._checkout.body, key, flight))
        clicks = 2 if self._checkout.click is Click.TWICE else 1
        answers = await asyncio.gather(*[self._post_payment(key, flight) for _ in range(clicks)])
        payment = answers[-1]
        if payment is not None and not self._stands(payment):
            payment = await self._until(self._stands)
        statuses = [] if payment is None else [order["status"] for order in payment["payment_orders"]]
        self._journal.landed(flight, has_succeeded="SUCCESS" in statuses or _AUTHORIZED in statuses)
        return payment

    def _stands(self, payment: Mapping[str, Any]) -> bool:
        """Whether the first part is over: decided, authorized, or the buyer's turn."""
        if self._checkout.manner is Manner.HOSTED and payment.get("next_action") is not None:
            return True
        return self._rests(payment)

    def _rests(self, payment: Mapping[str, Any]) -> bool:
        """Whether nothing more happens to the payment unless somebody asks."""
        rests = FINAL | {_AUTHORIZED} if self._checkout.manner is Manner.MANUAL else FINAL
        return all(order["status"] in rests for order in payment["payment_orders"])

    async def _post_payment(self, key: str, flight: Flight | None) -> dict[str, Any] | None:
        answer = await self._insist("POST", "/v1/payments", self._checkout.body, key, flight)
        if answer is None:
            return None
        if not answer.is_good:
            self._complain("the payment", answer)
            return None
        self._journal.hear(self._asked, answer.body)
        return answer.body

    async def _until(self, is_enough: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        """Read the payment until it is as far as is waited for."""
        deadline = monotonic() + PATIENCE_S
        while monotonic() < deadline:
            answer = await self._insist("GET", f"/v1/payments/{self._asked.payment_id}")
            if answer is None:
                return None
            if not answer.is_good:
                self._complain("reading the payment", answer)
                return None
            self._journal.hear(self._asked, answer.body)
            if is_enough(answer.body):
                return answer.body
            await asyncio.sleep(0.3 + 0.4 * self._dice.random())
        self._journal.counts["clients who gave up"] += 1
        return None

    # The hosted page

    async def _visit(self, payment: Mapping[str, Any]) -> None:
        """Be the buyer on the PSP's page."""
        if payment.get("next_action") is None:
            return
        page = str(payment["next_action"]["redirect_url"]).rpartition("/")[2]
        self._journal.counts[f"buyers: {self._checkout.buyer}"] += 1
        match self._checkout.buyer:
            case Buyer.PAYS:
                await self._on_page(page, "pay", "tok_approve")
            case Buyer.PAYS_TWICE:
                await asyncio.gather(*[self._on_page(page, "pay", "tok_approve") for _ in range(2)])
            case Buyer.TRIES_AGAIN:
                await self._on_page(page, "pay", "tok_decline_insufficient_funds")
                await self._on_page(page, "pay", "tok_approve")
            case Buyer.CANCELS:
                await self._on_page(page, "cancel", None)

    async def _on_page(self, page: str, act: str, token: str | None) -> None:
        body = b"" if token is None else msgspec.json.encode({"token": token})
        url = f"{self._shop.simulator_url}/admin/sessions/{page}/{act}"
        try:
            async with self._shop.session.post(url, data=body) as response:
                await response.read()
        except GAVE_NO_ANSWER:
            self._journal.counts["pages that did not answer"] += 1

    # Authorizations

    async def _decide_later(self, payment: Mapping[str, Any]) -> None:
        open_orders = [order for order in payment["payment_orders"] if order["status"] == _AUTHORIZED]
        if not open_orders:
            return
        later = self._checkout.later
        if self._checkout.card != "tok_approve" and later is Later.LEAVE:
            later = Later.CANCEL  # what the PSP may let lapse is not left alone
        self._journal.counts[f"authorizations: {later}"] += 1
        match later:
            case Later.CAPTURE:
                await self._capture("whole", [], is_final=True)
            case Later.PARTS:
                halves = [_part(order, 2) for order in open_orders]
                await self._capture("half", halves, is_final=False)
                await self._capture("rest", [], is_final=True)
            case Later.LESS:
                await self._capture("less", [_part(order, 3) for order in open_orders], is_final=True)
            case Later.CANCEL:
                await self._cancel()
            case Later.RACE:
                await asyncio.gather(self._capture("race", [], is_final=True), self._cancel())
        if later is not Later.LEAVE:
            await self._leave_nothing_open()

    async def _leave_nothing_open(self) -> None:
        """Cancel what is authorized still: its capture was declined, or lost a race."""
        for attempt in range(20):
            payment = await self._until(bool)
            if payment is None or all(order["status"] != _AUTHORIZED for order in payment["payment_orders"]):
                return
            await self._cancel(f"-{attempt}")
            await asyncio.sleep(0.3)

    async def _capture(self, name: str, amounts: Sequence[Mapping[str, str]], *, is_final: bool) -> None:
        body: dict[str, Any] = {"final": is_final}
        if amounts:
            body["payment_orders"] = amounts
        await self._act("capture", f"capture-{name}", body, {"capture_not_possible"})

    async def _cancel(self, mark: str = "") -> None:
        await self._act("cancel", f"cancel{mark}", {}, {"payment_already_charged", "operation_in_progress"})

    async def _act(self, act: str, name: str, body: Mapping[str, Any], refusals: set[str]) -> None:
        """Ask for something about the payment, as often as this client clicks; `refusals` may be the answer."""
        key = f"{name}-{self._checkout.checkout_id}"
        path = f"/v1/payments/{self._asked.payment_id}/{act}"
        for answer in await self._clicked(lambda: self._insist("POST", path, msgspec.json.encode(body), key)):
            if answer is not None and answer.is_good:
                self._journal.hear(self._asked, answer.body)
            elif answer is not None and answer.body.get("code") not in refusals:
                self._complain(act, answer)

    async def _clicked(self, ask: Callable[[], Coroutine[Any, Any, Answer | None]]) -> list[Answer | None]:
        clicks = 2 if self._checkout.click is Click.TWICE else 1
        return list(await asyncio.gather(*[ask() for _ in range(clicks)]))

    # Refunds

    async def _give_back(self, payment: Mapping[str, Any]) -> None:
        captured = {order["payment_order_id"]: order["captured"] for order in payment["payment_orders"]}
        wanted = [order for order in self._checkout.orders if order.gives_back is not GivesBack.NOTHING]
        for order in wanted:
            amount_minor = minor_units(captured[order.payment_order_id], order.currency)
            if amount_minor:
                await self._refund_order(order, amount_minor)

    async def _refund_order(self, order: Order, captured_minor: int) -> None:
        half = captured_minor // 2
        match order.gives_back:
            case GivesBack.ALL:
                asked = [self._refund(order, "all", None)]
            case GivesBack.PART:
                asked = [self._refund(order, "part", max(captured_minor // 3, 1))]
            case GivesBack.HALVES:
                parts = [part for part in (half, captured_minor - half) if part]
                asked = [self._refund(order, f"half-{place}", part) for place, part in enumerate(parts)]
            case _:
                asked = [self._refund(order, f"all-{place}", captured_minor) for place in range(2)]
        refunds = [refund for refund in await asyncio.gather(*asked) if refund is not None]
        if order.gives_back is GivesBack.TOO_MUCH and await self._have_both_succeeded(refunds):
            self._journal.complain(f"{order.payment_order_id} was given back twice: {refunds}")

    async def _refund(self, order: Order, name: str, amount_minor: int | None) -> str | None:
        """Ask for a refund and wait for its end; returns its id, None when it was refused."""
        body: dict[str, Any] = {"payment_order_id": order.payment_order_id, "reason": f"drill: {order.gives_back}"}
        if amount_minor is not None:
            body["amount"] = amount_text(amount_minor, order.currency)
        key = f"refund-{name}-{order.payment_order_id}"
        answers = await self._clicked(lambda: self._insist("POST", "/v1/refunds", msgspec.json.encode(body), key))
        refund_id = None
        for answer in answers:
            if answer is None:
                continue
            if answer.is_good:
                refund_id = str(answer.body["refund_id"])
                self._asked.refunds[refund_id] = answer.body["status"]
            elif answer.body.get("code") != "refund_not_possible" or order.gives_back is not GivesBack.TOO_MUCH:
                self._complain("a refund", answer)
        if refund_id is not None:
            self._journal.counts["refunds"] += 1
            await self._until_refunded(refund_id)
        return refund_id

    async def _until_refunded(self, refund_id: str) -> None:
        deadline = monotonic() + PATIENCE_S
        while self._asked.refunds[refund_id] == "PENDING" and monotonic() < deadline:
            await asyncio.sleep(0.3 + 0.4 * self._dice.random())
            if not await self._read_refund(refund_id):
                return

    async def _read_refund(self, refund_id: str) -> bool:
        answer = await self._insist("GET", f"/v1/refunds/{refund_id}")
        if answer is None or not answer.is_good:
            if answer is not None:
                self._complain("reading a refund", answer)
            return False
        self._asked.refunds[refund_id] = answer.body["status"]
        return True

    async def _have_both_succeeded(self, refunds: Sequence[str]) -> bool:
        """Say whether two refunds of everything went, as both stand now.

        The second may go once the first has come back from the buyer's bank: what was told of that one is old then.
        """
        if len(refunds) < 2:  # noqa: PLR2004 - the other one was refused
            return False
        are_read = [await self._read_refund(refund_id) for refund_id in refunds]
        return all(are_read) and all(self._asked.refunds[refund_id] == "SUCCEEDED" for refund_id in refunds)

    # Disputes

    async def _dispute(self, payment: Mapping[str, Any]) -> None:
        """Be the buyer at the bank: of an order that was charged."""
        charges = {order["payment_order_id"]: order for order in payment["payment_orders"]}
        for order in self._checkout.orders:
            if order.dispute is not Dispute.NONE and charges[order.payment_order_id]["status"] == "SUCCESS":
                self._journal.counts[f"disputes: {order.dispute}"] += 1
                await self._claim(order, charges[order.payment_order_id]["provider_reference"])

    async def _claim(self, order: Order, charge: str) -> None:
        opened = await self._at_bank("/admin/disputes", {"charge": charge, "reason": "fraudulent"})
        if opened is None:
            return
        await asyncio.sleep(2 * self._dice.random())
        if order.dispute is Dispute.WON:
            await self._answer(order)
        if order.dispute is not Dispute.LEFT:
            await self._at_bank(f"/admin/disputes/{opened['id']}/{_VERBS[order.dispute]}", {})

    async def _at_bank(self, path: str, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """Tell the bank something, on a line of its own."""
        url = self._shop.simulator_url + path
        try:
            async with self._shop.session.post(url, data=msgspec.json.encode(body)) as response:
                return msgspec.json.decode(await response.read(), type=dict[str, Any]) if response.ok else None
        except GAVE_NO_ANSWER:
            self._journal.counts["banks that did not answer"] += 1
            return None

    async def _answer(self, order: Order) -> None:
        """Answer the dispute, where the gateway has heard of it by now; the bank may be faster than the answer."""
        found = await self._insist("GET", f"/v1/disputes?payment_order_id={order.payment_order_id}")
        for dispute in found.body["disputes"] if found is not None and found.is_good else ():
            body = msgspec.json.encode({"texts": {"explanation": "signed for"}})
            key = f"evidence-{order.payment_order_id}"
            answer = await self._insist("POST", f"/v1/disputes/{dispute['dispute_id']}/evidence", body, key)
            if answer is not None and not answer.is_good and answer.status != _CONFLICT:
                self._complain("a dispute's answer", answer)

    # The wire

    async def _insist(
        self, method: str, path: str, body: bytes | None = None, key: str | None = None, flight: Flight | None = None
    ) -> Answer | None:
        if key is not None and body is not None and flight is None:
            self._asked.acts[key] = (path, body)
        return await self._shop.insist(self._dice, Request(method, path, body, key, flight))

    def _complain(self, about: str, answer: Answer) -> None:
        said = f"{answer.status} {answer.body.get('code')}: {answer.body.get('detail')}"
        self._journal.complain(f"{self._checkout.checkout_id}, {about}: {said} {answer.body.get('problems') or ''}")


def _part(order: Mapping[str, Any], divisor: int) -> dict[str, str]:
    """Ask for a part of an order's amount."""
    currency = order["currency"]
    amount_minor = max(minor_units(order["amount"], currency) // divisor, 1)
    return {"payment_order_id": order["payment_order_id"], "amount": amount_text(amount_minor, currency)}
