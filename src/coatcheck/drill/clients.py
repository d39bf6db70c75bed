"""The clients: they place orders over HTTP, click twice, vanish, come back and retry everything with the same keys."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec

from coatcheck.drill.journal import FINAL, Flight, Journal
from coatcheck.drill.plan import Buyer, Checkout, Click, GivesBack, Later, Manner, Order, amount_text, minor_units

# A page that the PSP answered with a 500 is looked for again after a minute, three times at most.
_PATIENCE_S: Final = 300.0
_REQUEST_S: Final = 8.0
_WAIT: Final = "wait=5"
_VANISHES_AFTER_S: Final = 0.015
_REFUSES_FOR_S: Final = 0.5
_LAST_GOOD, _SERVER_ERROR = 202, 500
_BUSY: Final = frozenset({"request_in_progress", "operation_in_progress"})
_AUTHORIZED: Final = "AUTHORIZED"
_GOES_ON: Final = frozenset({Manner.HOSTED, Manner.MANUAL})  # after the order was placed


class Answer(NamedTuple):
    """A settled answer to one request."""

    status: int
    body: dict[str, Any]

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
        self._checkouts = checkouts
        self._think_s = think_s
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers={"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=_REQUEST_S),
            trust_env=False,
        )

    def some_gateway(self, dice: random.Random) -> tuple[str, str]:
        """Choose a gateway and its address; like any balancer, not one that has just refused a connection."""
        now = monotonic()
        listening = [each for each in self.gateways if self._refuses_until.get(each[0], 0) < now]
        return dice.choice(listening or self.gateways)

    def refused(self, gateway: str) -> None:
        """Note that nobody listens there."""
        self._refuses_until[gateway] = monotonic() + _REFUSES_FOR_S

    async def shop(self, clients: int, is_over: asyncio.Event, tick: Callable[[], None]) -> None:
        """Let so many clients buy until it is over; what they have begun they finish."""

        async def client() -> None:
            while not is_over.is_set():
                checkout = next(self._checkouts)
                try:
                    await _Client(self, checkout).buy()
                except (LookupError, TypeError, ValueError) as error:  # an answer without what it must have
                    self.journal.complain(f"{checkout.checkout_id}: an answer could not be understood: {error!r}")
                tick()
                await asyncio.sleep(self._think_s * random.random() * 2)  # noqa: S311 - pacing, not part of the plan

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
        if self._checkout.click is Click.AGAIN:
            await self._post_payment(self._checkout.checkout_id + "-again", None)

    # The order itself

    async def _place(self) -> dict[str, Any] | None:
        flight = Flight(self._checkout.checkout_id)
        if self._checkout.manner is not Manner.HOSTED:  # of a page the buyer decides, not the gateway
            self._journal.flights.add(flight)
        key = f"click-{self._checkout.checkout_id}"
        if self._checkout.click is Click.VANISHES:
            await self._vanish(key, flight)
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

    async def _vanish(self, key: str, flight: Flight) -> None:
        """Click, and break the connection before any answer."""
        try:
            async with asyncio.timeout(_VANISHES_AFTER_S):
                await self._send("POST", "/v1/payments", self._checkout.body, key, flight)
        except TimeoutError:
            self._journal.counts["clients gone before the answer"] += 1
        except (aiohttp.ClientError, OSError, msgspec.DecodeError):
            pass  # gone all the same
        await asyncio.sleep(0.1)

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
        deadline = monotonic() + _PATIENCE_S
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
        except (aiohttp.ClientError, OSError, TimeoutError):
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
        if order.gives_back is GivesBack.TOO_MUCH and len(refunds) > 1:
            statuses = [self._asked.refunds[refund] for refund in refunds]
            if statuses.count("SUCCEEDED") > 1:
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
        deadline = monotonic() + _PATIENCE_S
        while self._asked.refunds[refund_id] == "PENDING" and monotonic() < deadline:
            await asyncio.sleep(0.3 + 0.4 * self._dice.random())
            answer = await self._insist("GET", f"/v1/refunds/{refund_id}")
            if answer is None or not answer.is_good:
                if answer is not None:
                    self._complain("reading a refund", answer)
                return
            self._asked.refunds[refund_id] = answer.body["status"]

    # The wire

    async def _insist(
        self, method: str, path: str, body: bytes | None = None, key: str | None = None, flight: Flight | None = None
    ) -> Answer | None:
        """Send, to either gateway, until there is an answer that means something; always the same key and body."""
        deadline = monotonic() + _PATIENCE_S
        while monotonic() < deadline:
            try:
                answer = await self._send(method, path, body, key, flight)
            except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError):
                self._journal.counts["requests without an answer"] += 1
                answer = None
            if answer is not None and answer.status < _SERVER_ERROR and answer.body.get("code") not in _BUSY:
                return answer
            if answer is not None:
                self._journal.counts[f"answers {answer.status}"] += 1
            await asyncio.sleep(0.1 + 0.3 * self._dice.random())
        self._journal.counts["clients who gave up"] += 1
        return None

    async def _send(self, method: str, path: str, body: bytes | None, key: str | None, flight: Flight | None) -> Answer:
        gateway, url = self._shop.some_gateway(self._dice)
        headers = {} if key is None else {"Idempotency-Key": key, "Prefer": _WAIT}
        self._journal.counts["requests"] += 1
        if flight is not None:
            flight.at_gateways[gateway] += 1
        try:
            async with self._shop.session.request(method, url + path, data=body, headers=headers) as response:
                return Answer(response.status, msgspec.json.decode(await response.read(), type=dict[str, Any]))
        except aiohttp.ClientConnectorError:
            self._shop.refused(gateway)
            raise
        finally:
            if flight is not None:
                flight.at_gateways[gateway] -= 1

    def _complain(self, about: str, answer: Answer) -> None:
        said = f"{answer.status} {answer.body.get('code')}: {answer.body.get('detail')}"
        self._journal.complain(f"{self._checkout.checkout_id}, {about}: {said} {answer.body.get('problems') or ''}")


def _part(order: Mapping[str, Any], divisor: int) -> dict[str, str]:
    """Ask for a part of an order's amount."""
    currency = order["currency"]
    amount_minor = max(minor_units(order["amount"], currency) // divisor, 1)
    return {"payment_order_id": order["payment_order_id"], "amount": amount_text(amount_minor, currency)}
