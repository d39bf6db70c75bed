"""What a shop, a buyer and a PSP do: one scenario for every part of the money path. Each ends at rest.

Nothing in a scenario may depend on how often something is asked, so that a fault changes nothing of how it ends.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from tests.failpoints.outside_world import DECLINES_CAPTURES_OF, Line, TwoStepLine
from tests.failpoints.stage import TROUBLE, Process, Stage, UnexpectedError
from tests.integration.outside import CALLER, SETTINGS, checkout

from coatcheck.config import Settings
from coatcheck.ids import order_id_of, payment_id_of, time_ordered_ids
from coatcheck.ledger import Account, Ledger, Transfer, psp_receivable, seller_available
from coatcheck.payments import PaymentView
from coatcheck.payouts import PayoutRequest
from coatcheck.refunds import RefundRequest
from coatcheck.shops import create_key
from coatcheck.states import Capture, OnFailure
from coatcheck.validation import PaymentRequest

PAYMENT_ID: Final = payment_id_of(CALLER.shop_id, CALLER.mode, "c1")
_PATIENCE: Final = 12
_A_WHILE_S: Final = 0.1
_A_WHILE: Final = timedelta(minutes=2)
_ONCE_A_YEAR: Final = "0 13 1 3 *"  # an hour after a stage begins
_LIFE: Final = timedelta(days=7, minutes=1)  # of an authorization, and a little more


@dataclass(frozen=True, slots=True)
class Scenario:
    """A play and what it needs."""

    play: Callable[[Stage], Awaitable[None]]
    settings: Settings = SETTINGS
    line: type[Line] = Line


def order_id(name: str) -> UUID:
    return order_id_of(CALLER.shop_id, CALLER.mode, name)


# what a shop does


async def pay(stage: Stage, request: PaymentRequest) -> PaymentView:
    async def what(process: Process) -> PaymentView:
        gateway = process.gateway
        accepted = await gateway.payments.accept(CALLER, request, "key of c1")
        await gateway.executor.start(accepted.operations)
        view = await gateway.payments.read(accepted.payment_id)
        assert view is not None
        return view

    return await stage.ask(what)


async def capture(stage: Stage, key: str, amount_minor: int | None = None, *, is_final: bool = True) -> None:
    async def what(process: Process) -> None:
        act = await process.gateway.acts.capture(PAYMENT_ID, {order_id("o1"): amount_minor}, is_final=is_final, key=key)
        assert all(verdict.is_good for verdict in act.verdicts.values()), act.verdicts
        await process.gateway.executor.start(act.operations)

    await stage.ask(what)
    await stage.settle_down()


async def cancel(stage: Stage) -> None:
    async def what(process: Process) -> None:
        act = await process.gateway.acts.cancel(PAYMENT_ID, [order_id("o1")], "v1")
        assert all(verdict.is_good for verdict in act.verdicts.values()), act.verdicts
        await process.gateway.executor.start(act.operations)

    await stage.ask(what)


async def refund(stage: Stage, amount_minor: int | None, key: str) -> None:
    async def what(process: Process) -> None:
        asked = RefundRequest(order_id=order_id("o1"), amount_minor=amount_minor)
        answer = await process.gateway.refunds.request(CALLER, asked, key)
        assert answer.verdict.is_good, answer.verdict
        await process.gateway.executor.start(answer.operations)

    await stage.ask(what)


# plays


async def pay_in(stage: Stage) -> None:
    await pay(stage, checkout("c1", "o1"))


async def two_orders(stage: Stage) -> None:
    await pay(stage, checkout("c1", "o1", "o2"))


async def declined(stage: Stage) -> None:
    await pay(stage, checkout("c1", "o1", token="tok_decline_insufficient_funds"))


async def retry(stage: Stage) -> None:
    """Nobody listens at the PSP at first: sent again later."""
    stage.psp.refuses = 1
    await pay(stage, checkout("c1", "o1"))


async def look_up(stage: Stage) -> None:
    """The PSP charges, fails, and would replay that failure: so it is asked."""
    await pay(stage, checkout("c1", "o1", token="tok_error_after"))


async def two_steps(stage: Stage) -> None:
    await pay(stage, checkout("c1", "o1"))


async def wrong_amount(stage: Stage) -> None:
    await pay(stage, checkout("c1", "o1", token="tok_wrong_amount"))


async def pending(stage: Stage) -> None:
    await pay(stage, checkout("c1", "o1", token="tok_pending"))
    await _until(stage, "SELECT status = 'PENDING' FROM payment_order")
    stage.psp.settle_pending()


async def hosted(stage: Stage) -> None:
    await pay(stage, checkout("c1", "o1", "o2", return_url="https://shop.example/"))
    await _until(stage, "SELECT bool_and(redirect_url IS NOT NULL) FROM payment_order")
    stage.psp.pay_page()


async def captured(stage: Stage) -> None:
    """Authorized, then captured in two parts that leave something over."""
    await pay(stage, checkout("c1", "o1", amount_minor=1001, capture=Capture.MANUAL))
    await _until(stage, "SELECT status = 'AUTHORIZED' FROM payment_order")
    await capture(stage, "first", 333, is_final=False)
    await capture(stage, "last", 400)


async def cancelled(stage: Stage) -> None:
    await pay(stage, checkout("c1", "o1", capture=Capture.MANUAL))
    await _until(stage, "SELECT status = 'AUTHORIZED' FROM payment_order")
    await cancel(stage)


async def refunded(stage: Stage) -> None:
    """Given back in two parts, to the last minor unit."""
    await pay(stage, checkout("c1", "o1", amount_minor=1003))
    await _until(stage, "SELECT status = 'SUCCESS' FROM payment_order")
    await refund(stage, 400, "r1")
    await refund(stage, None, "r2")


async def all_or_nothing(stage: Stage) -> None:
    await pay(stage, checkout("c1", "o1", "o2", on_failure=OnFailure.ALL_OR_NOTHING))


async def undone(stage: Stage) -> None:
    """All or nothing, and the PSP declines one of the captures: what was taken is given back."""
    request = checkout("c1", "o1", "o2", on_failure=OnFailure.ALL_OR_NOTHING)
    *orders, last = request.orders
    last = msgspec.structs.replace(last, amount_minor=DECLINES_CAPTURES_OF)
    await pay(stage, msgspec.structs.replace(request, orders=(*orders, last)))


async def _arrange(stage: Stage, seller: str, amount_minor: int, cron: str | None = None) -> None:
    """Make a seller who has money, somewhere to be paid to, and perhaps a schedule."""
    ledger, at = Ledger(stage.store), stage.clock.now()
    names = (psp_receivable("simulator"), seller_available(seller))
    receivable, available = [Account(CALLER.shop_id, CALLER.mode, name, "EUR") for name in names]
    await ledger.open_accounts([receivable, available], at)
    funding = Transfer(
        transfer_id=order_id(f"funding of {seller}"),
        kind="funding",
        debit_account_id=receivable.account_id,
        credit_account_id=available.account_id,
        amount_minor=amount_minor,
        currency="EUR",
        subject_id=available.account_id,
    )
    assert (await ledger.post([funding], at))[0].is_booked
    told = msgspec.json.encode({"transfers": [funding]}).decode()  # what a rebuild from the events needs
    (event_id,) = time_ordered_ids(at, 1)
    await stage.store.pool.execute(
        stage.store.queries["event_write"],
        *(available.account_id, event_id, "test.funded", CALLER.shop_id, CALLER.mode.value, at, told),
    )

    async def what(process: Process) -> None:
        payees = process.gateway.payees
        await payees.put_destination(CALLER, seller, "EUR", "dest_ok", provider=None, by="person ada")
        if cron is not None:
            await payees.put_schedule(CALLER, seller, "EUR", cron=cron, threshold_minor=None, by="person ada")

    await stage.ask(what)


async def paid_out(stage: Stage) -> None:
    """A seller is paid in two parts; the first answer of the PSP's is lost."""
    await _arrange(stage, "s1", 1003)
    stage.psp.loses = 1
    for key, amount_minor in (("p1", 400), ("p2", 603)):

        async def what(process: Process, key: str = key, amount_minor: int = amount_minor) -> None:
            asked = PayoutRequest(seller_account="s1", currency="EUR", amount_minor=amount_minor)
            answer = await process.gateway.payouts.request(CALLER, asked, key)
            assert answer.verdict.is_good, answer.verdict
            await process.gateway.executor.start(answer.operations)

        await stage.ask(what)


async def payout_run(stage: Stage) -> None:
    """A run of two sellers waits for a second person, and is let go."""
    await _arrange(stage, "s1", 1003, _ONCE_A_YEAR)
    await _arrange(stage, "s2", 500, _ONCE_A_YEAR)
    stage.clock.advance(timedelta(hours=1))
    await _until(stage, "SELECT EXISTS (SELECT FROM payout_run WHERE status = 'WAITING')")
    run_id: UUID = await stage.store.pool.fetchval("SELECT run_id FROM payout_run")

    async def what(process: Process) -> None:
        assert (await process.gateway.payout_runs.decide(run_id, "person grace", is_approved=True)).is_good

    await stage.ask(what)


async def late(stage: Stage) -> None:
    """Given up by the PSP's word, charged all the same, and by policy given back."""
    await pay(stage, checkout("c1", "o1", token="tok_pending"))
    await _until(stage, "SELECT status = 'PENDING' FROM payment_order")
    stage.psp.says_lapsed = True
    await stage.settle_down()
    stage.psp.says_lapsed = False
    stage.psp.settle_pending()
    await stage.deliver()


async def webhook(stage: Stage) -> None:
    """The answer is lost; the PSP's event brings the news."""
    stage.psp.loses = 1
    await pay(stage, checkout("c1", "o1"))
    await stage.deliver()

    async def handle(process: Process) -> None:
        await process.gateway.inbox.handle_once()

    await stage.ask(handle)


async def lapsed(stage: Stage) -> None:
    """An authorization lapses, and the PSP says so."""
    await pay(stage, checkout("c1", "o1", capture=Capture.MANUAL))
    await _until(stage, "SELECT status = 'AUTHORIZED' FROM payment_order")
    stage.psp.letters.clear()
    stage.psp.bank.expire(stage.psp.charges()[0].id)
    await stage.deliver()


async def overdue(stage: Stage) -> None:
    """An authorization lapses, and nobody says so."""
    await pay(stage, checkout("c1", "o1", capture=Capture.MANUAL))
    await _until(stage, "SELECT status = 'AUTHORIZED' FROM payment_order")
    await stage.wake()  # nobody sleeps for a week between the gate and the sending
    stage.clock.advance(_LIFE)


async def mistaken(stage: Stage) -> None:
    """An authentic event about another amount."""
    await pay(stage, checkout("c1", "o1"))
    await _until(stage, "SELECT status = 'SUCCESS' FROM payment_order")
    stage.psp.write_about_more()
    await stage.deliver()


async def stopped(stage: Stage) -> None:
    """A gateway stops between its two commits; another goes on."""

    async def what(process: Process) -> None:
        await process.gateway.payments.accept(CALLER, checkout("c1", "o1"), "key of c1")
        await process.gateway.executor.stop(timedelta(seconds=1))

    await stage.ask(what)


async def over_http(stage: Stage) -> None:
    """A shop posts a payment over HTTP and repeats it until it has a final answer."""
    key, _ = await create_key(stage.store, stage.clock, CALLER.shop_name, CALLER.mode)
    body = {
        "buyer": {"reference": "buyer-1"},
        "checkout_id": "c1",
        "payment_method": {"token": "tok_approve"},
        "payment_orders": [
            {"payment_order_id": "o1", "seller_account": "seller-o1", "amount": "10.00", "currency": "EUR"}
        ],
    }
    raw = json.dumps(body).encode()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "idempotency-key": "key-of-c1"}

    async def what(process: Process) -> tuple[int, Any]:
        posting = asyncio.ensure_future(send_request(process, "/v1/payments", headers, raw))
        while not (await asyncio.wait([posting], timeout=_A_WHILE_S))[0]:
            stage.clock.advance(_A_WHILE)  # the request waits for its payment, and the gateway's recovery goes on
            with contextlib.suppress(*TROUBLE):
                await process.gateway.executor.recover_once()
        status, answer = posting.result()
        if status >= 500:
            raise UnexpectedError(f"HTTP {status}")
        return status, json.loads(answer)

    for _ in range(_PATIENCE):
        status, answer = await stage.ask(what)
        if status == 201:
            assert answer["status"] == "SUCCESS", answer
            return
        assert status in (202, 409), answer
        await stage.settle_down()
    raise AssertionError(f"no final answer: {status} {answer}")


async def send_request(process: Process, path: str, headers: Mapping[str, str], raw: bytes) -> tuple[int, bytes]:
    """Post to a gateway's application; returns the status and the body."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("192.0.2.7", 1),
        "server": ("gateway", 80),
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": raw, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await process.app(scope, receive, send)  # type: ignore[arg-type]
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


async def _until(stage: Stage, question: str) -> None:
    """Go on when something is so; what a fault has delayed is waited for."""
    for _ in range(_PATIENCE):
        if await stage.store.pool.fetchval(question):
            return
        await stage.tend()
    raise AssertionError(f"it never came so far: {question}")


SCENARIOS: Final[Mapping[str, Scenario]] = {
    "pay_in": Scenario(pay_in),
    "two_orders": Scenario(two_orders),
    "declined": Scenario(declined),
    "retry": Scenario(retry),
    "look_up": Scenario(look_up),
    "two_steps": Scenario(two_steps, line=TwoStepLine),
    "wrong_amount": Scenario(wrong_amount),
    "pending": Scenario(pending),
    "hosted": Scenario(hosted),
    "captured": Scenario(captured),
    "cancelled": Scenario(cancelled),
    "refunded": Scenario(refunded),
    "paid_out": Scenario(paid_out),
    "payout_run": Scenario(payout_run),
    "all_or_nothing": Scenario(all_or_nothing),
    "undone": Scenario(undone),
    "late": Scenario(late, settings=replace(SETTINGS, late_success="refund")),
    "webhook": Scenario(webhook),
    "lapsed": Scenario(lapsed),
    "overdue": Scenario(overdue),
    "mistaken": Scenario(mistaken),
    "stopped": Scenario(stopped),
    "over_http": Scenario(over_http),
}
