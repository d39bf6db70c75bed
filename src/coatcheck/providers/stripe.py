"""Stripe, through its official SDK: an object is created first, and the money moves in a second step.

A PaymentIntent is created, which moves no money and gives an id that the caller stores; only confirming it charges or
authorizes. A Checkout Session is created, and the buyer pays on its page. So whatever becomes of the second step,
Stripe can be asked by id what it did. Captures, voids and refunds name the first object.
docs/providers/stripe.md has the tables and their sources.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import aiohttp
import msgspec
import stripe

from coatcheck.ids import OPERATION, PAYMENT, print_id
from coatcheck.providers import stripe_dispute_calls
from coatcheck.providers.disputes import DisputeAnswer, DisputePage, Parcel
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import (
    Capabilities,
    ChargeRequest,
    Found,
    FoundPage,
    HostedPage,
    Intent,
    NotChargeableError,
    NotListedError,
)
from coatcheck.providers.stripe_answers import (
    CheckoutSession,
    Made,
    Page,
    PaymentIntent,
    Refund,
    Stage,
    Transfer,
    outcome_of_capture,
    outcome_of_error,
    outcome_of_page,
    outcome_of_page_void,
    outcome_of_payment,
    outcome_of_refund,
    outcome_of_refusal,
    outcome_of_search,
    outcome_of_transfer,
    outcome_of_unpaid_page,
    outcome_of_void,
    read,
    silence,
    unclear,
)
from coatcheck.providers.stripe_list import (
    found_in_payment,
    found_in_refund,
    found_in_transfer,
    written_of,
    written_on_refund,
    written_on_transfer,
)
from coatcheck.providers.stripe_words import CAPTURE_KEY, PAGE_KEY, REFERENCE_KEY, from_stripe_amount, to_stripe_amount
from coatcheck.providers.transport import sendable
from coatcheck.states import Mode, OperationKind

__all__ = ["API_VERSION", "REFERENCE_KEY", "StripeProvider", "from_stripe_amount", "to_stripe_amount"]

# The answers were read against this version; an upgrade of the SDK must not change it silently.
API_VERSION = "2026-10-28.endive"

_PAYMENT_METHOD = re.compile(r"(?:(cus_[A-Za-z0-9_]{1,120})/)?(pm_[A-Za-z0-9_]{1,120})")
_CARD_TOKEN = re.compile(r"tok_[A-Za-z0-9_]{1,120}")
_CONNECTED_ACCOUNT = r"acct_[A-Za-z0-9]{8,120}"
_KEY_MODE = re.compile(r"(?:sk|rk)_(test|live)_")
_SESSION_PREFIX = "cs_"

_PAGE_SIZE = 100
_PAGES_AT_MOST = 50
_CLOCK_SKEW_S = 3600
_CONNECTIONS_AT_MOST = 100  # what an account may do per second in live mode, so a wait here is a wait at Stripe too


class _SingleRequestClient(stripe.AIOHTTPClient):
    """The SDK's aiohttp client, held to one request per call.

    aiohttp rather than httpx: the gateway's own client, one deadline for a whole call instead of one per read, no
    proxies from the environment, and exceptions that tell a connection that was never made from an answer that was
    lost. The SDK's version of this method follows redirects and lets errors of the body's reading escape unwrapped.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        super().__init__(session=session)
        self._own_session = session

    async def close_async(self) -> None:
        """Close the session, which the SDK leaves to whoever made it."""
        await self._own_session.close()

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """Send once and read the whole answer; the error that prevented it stays as `__cause__`."""
        data = sendable(post_data) if isinstance(post_data, bytes) else post_data  # documents may be large
        try:
            async with self._own_session.request(
                method, url, headers=headers, data=data, allow_redirects=False
            ) as response:
                content = await response.read()
        except Exception as error:  # noqa: BLE001 - the SDK's contract: every failure becomes its APIConnectionError
            self._handle_request_error(error)
        return content, response.status, {name.lower(): value for name, value in response.headers.items()}


class _Connection(NamedTuple):
    client: stripe.StripeClient
    http: _SingleRequestClient


@dataclass(slots=True)
class _Call:
    """One call on its way: how far it has come decides what a silence means."""

    client: stripe.StripeClient
    intent: Intent
    stage: Stage
    was_refused: bool = False


class StripeProvider:
    """Stripe's PaymentIntents, Checkout Sessions and Refunds, and its Transfers, which are our payouts.

    An `idempotency_window` of zero says that the server at `base_url` is a stand-in without keys (localstripe); it
    knows neither pages, descriptions, `error_on_requires_action` nor metadata of a capture, so these are left out
    there, nor Transfers. `account` is a connected account's id, in whose name to charge. Deadlines in seconds;
    `call_deadline_s` bounds each method in all.
    """

    name = "stripe"

    def __init__(
        self,
        api_key: str,
        *,
        base_url: str | None = None,
        call_deadline_s: int = 10,
        connect_deadline_s: int = 3,
        idempotency_window: timedelta = timedelta(hours=24),
        account: str | None = None,
    ) -> None:
        self.capabilities = Capabilities(
            idempotency_window=idempotency_window,
            registers_first=True,
            look_up_before_resend=True,
            replays_errors=True,
            hosted_orders=1 if idempotency_window else 0,
            disputes=bool(idempotency_window),
            payout_token=_CONNECTED_ACCOUNT if idempotency_window else None,
        )
        self._api_key = api_key
        self._base_url = base_url.rstrip("/") if base_url else None
        self._account = account
        self._call_deadline_s = call_deadline_s
        self._timeout = aiohttp.ClientTimeout(total=call_deadline_s, connect=connect_deadline_s)
        self._is_stand_in = not idempotency_window
        key_mode = _KEY_MODE.match(api_key)
        self._mode = key_mode[1] if key_mode else None
        # aiohttp's connections belong to the event loop that made them, so each loop has its own client.
        self._connections: WeakKeyDictionary[asyncio.AbstractEventLoop, _Connection] = WeakKeyDictionary()
        # A module's variable is all the SDK has; left on, it reports timings and keeps an id in the home directory.
        stripe.enable_telemetry = False

    def prepare(self, request: ChargeRequest) -> bytes:
        """Freeze what creating the PaymentIntent or the Checkout Session sends, as canonical JSON.

        Raises NotChargeableError.
        """
        parameters = self._payment_parameters(request) if request.hosted is None else self._page_parameters(request)
        return msgspec.json.encode(parameters, order="sorted")

    def _payment_parameters(self, request: ChargeRequest) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "amount": to_stripe_amount(request.amount_minor, request.currency),
            "currency": request.currency.lower(),
            "confirm": False,
            "metadata": {REFERENCE_KEY: print_id(OPERATION, request.operation_id)} | written_of(request.origin),
            # Without this Stripe takes every method switched on in the dashboard and asks for a return address.
            "payment_method_types": ["card"],
            **_method_of(request.token or ""),
            **_capture_method_of(request.kind),
        }
        if not self._is_stand_in:
            parameters["description"] = request.payment_order_id
        return parameters

    def _page_parameters(self, request: ChargeRequest) -> dict[str, Any]:
        page = _page_of(request, self.capabilities.hosted_orders)
        reference = print_id(OPERATION, request.operation_id)
        price = {
            "currency": request.currency.lower(),
            "unit_amount": to_stripe_amount(request.amount_minor, request.currency),
            "product_data": {"name": request.payment_order_id},
        }
        return {
            "mode": "payment",
            "client_reference_id": reference,
            "metadata": {REFERENCE_KEY: reference},
            "payment_intent_data": {
                "description": request.payment_order_id,
                "metadata": {REFERENCE_KEY: reference, PAGE_KEY: print_id(PAYMENT, page.payment_id)}
                | written_of(request.origin),
                **_capture_method_of(request.kind),
            },
            "line_items": [{"quantity": 1, "price_data": price}],
            "payment_method_types": ["card"],
            # Else the dashboard may let the buyer pay in a currency of his own.
            "adaptive_pricing": {"enabled": False},
            "success_url": page.return_url,
            "cancel_url": page.return_url,
        }

    async def register(self, intent: Intent) -> Outcome:
        """Create the PaymentIntent, unconfirmed, or the page. Moves no money, so it is safe to repeat.

        NOT_SENT with the id, of a page PENDING with its address; DECLINED only where Stripe refuses the request for
        good. Idempotent at Stripe on `<reference>-create` inside the window; after it a second one is made, which stays
        unconfirmed and charges nothing.
        """
        if not intent.kind.starts_an_order:
            return Outcome(kind=OutcomeKind.NOT_SENT, reference=intent.reference, cause="nothing to register")
        return await self._ask(intent, Stage.REGISTER, self._create_page if intent.is_hosted else self._create)

    async def send(self, intent: Intent) -> Outcome:
        """Do what the intent says: confirm, capture, cancel, expire or refund. A page is only asked about.

        Idempotent on `<reference>-confirm` for a charge or authorization, on `<reference>-expire` for voiding a page,
        on `<reference>` for the rest.
        """
        if intent.kind.starts_an_order:
            if intent.provider_reference is None:
                return silence(OutcomeKind.NOT_SENT, intent, "not registered: there is nothing to confirm")
            if intent.is_hosted:
                return await self._ask(intent, Stage.LOOK_UP, self._look_up)
            return await self._ask(intent, Stage.SEND, self._confirm)
        if not intent.target_reference:
            return silence(OutcomeKind.NOT_SENT, intent, "there is no charge to act on")
        if intent.kind is not OperationKind.VOID:
            try:
                to_stripe_amount(intent.amount_minor, intent.currency)
            except NotChargeableError as error:
                # No sending of it can have been taken, nor will one be: nothing has left and nothing will.
                return Outcome(kind=OutcomeKind.DECLINED, decline_code="invalid_amount", evidence=str(error))
        actions = {
            OperationKind.CAPTURE: self._capture,
            OperationKind.VOID: self._void,
            OperationKind.REFUND: self._refund,
            OperationKind.PAYOUT: self._transfer,
        }
        stage = Stage.SEND if intent.kind is OperationKind.PAYOUT else Stage.FIND_TARGET
        return await self._ask(intent, stage, actions[intent.kind])

    async def look_up(self, intent: Intent) -> Outcome:
        """Ask for the object by its id, else list the recent ones and match our reference.

        Both see every earlier write at once; Stripe's search does not, so it is not used. Captures and voids are read
        from the state of what they act on.
        """
        has_own_object = intent.kind is OperationKind.REFUND and intent.provider_reference is not None
        if not (intent.kind.starts_an_order or has_own_object or intent.target_reference):
            return silence(OutcomeKind.UNKNOWN, intent, "there is no charge to ask about")
        return await self._ask(intent, Stage.LOOK_UP, self._look_up)

    async def list_since(self, since: datetime, following: str | None = None) -> FoundPage:
        """List PaymentIntents, then Refunds, then Transfers, newest first, with what we wrote on them.

        Raises NotListedError.
        """
        shelf, _, after = (following or "payments:").partition(":")
        asked: dict[str, Any] = {"limit": _PAGE_SIZE}
        if not self._is_stand_in:
            asked["created"] = {"gte": int(since.timestamp())}
        if after:
            asked["starting_after"] = after
        found: list[Found] = []
        last: str | None = None
        async with self._listing(is_for_one=False):
            client = self._client().v1
            if shelf == "payments":
                payments = read(await client.payment_intents.list_async(cast("Any", asked)), Page[PaymentIntent])
                found = [each for payment in payments.data for each in found_in_payment(payment)]
                last = payments.data[-1].id if payments.has_more else None
            elif shelf == "refunds":
                refunds = read(await client.refunds.list_async(cast("Any", asked)), Page[Refund])
                found = [found_in_refund(refund) for refund in refunds.data]
                last = refunds.data[-1].id if refunds.has_more else None
            else:
                transfers = read(await client.transfers.list_async(cast("Any", asked)), Page[Transfer])
                found = [found_in_transfer(transfer) for transfer in transfers.data]
                last = transfers.data[-1].id if transfers.has_more else None
        if last is not None:
            return FoundPage(found, f"{shelf}:{last}")
        # A stand-in knows no Transfers, and has paid nobody out.
        then = {"payments": "refunds:", "refunds": None if self._is_stand_in else "transfers:"}
        return FoundPage(found, then.get(shelf))

    async def find(self, provider_reference: str, kind: OperationKind | None) -> Found | None:
        """Find a PaymentIntent (a charge, authorization or capture), a Refund or a Transfer by its id.

        Raises NotListedError.
        """
        async with self._listing(is_for_one=True):
            client = self._client().v1
            if kind is OperationKind.REFUND:
                return found_in_refund(read(await client.refunds.retrieve_async(provider_reference), Refund))
            if kind is OperationKind.PAYOUT:
                return found_in_transfer(read(await client.transfers.retrieve_async(provider_reference), Transfer))
            payment = read(await client.payment_intents.retrieve_async(provider_reference), PaymentIntent)
            return next((each for each in found_in_payment(payment) if each.kind is kind), None)
        return None

    @asynccontextmanager
    async def _listing(self, *, is_for_one: bool) -> AsyncIterator[None]:
        """Turn every way of getting no list into NotListedError; an object that is not there is none."""
        try:
            async with asyncio.timeout(self._call_deadline_s):
                yield
        except stripe.InvalidRequestError as error:
            if not is_for_one or error.code != "resource_missing":
                raise NotListedError(f"Stripe gave no list: {error.code}") from error
        except Exception as error:
            raise NotListedError(f"Stripe gave no list: {type(error).__name__}") from error

    async def read_dispute(self, provider_reference: str, mode: Mode, at: datetime) -> DisputeAnswer:
        """Ask how a dispute stands."""
        return await self._ask_of_dispute(
            mode, lambda client: stripe_dispute_calls.read_dispute(client, provider_reference, at), is_question=True
        )

    async def list_disputes_since(self, since: datetime, at: datetime, following: str | None = None) -> DisputePage:
        """List Disputes, newest first, each with its PaymentIntent. Raises NotListedError."""
        if self._is_stand_in:  # it knows none, and nobody has disputed there
            return DisputePage([])
        async with self._listing(is_for_one=False):
            return await stripe_dispute_calls.list_disputes(self._client(), since, at, following)
        return DisputePage([])

    async def submit_evidence(self, parcel: Parcel, at: datetime) -> DisputeAnswer:
        """Pass evidence or an acceptance on. Idempotent at Stripe on `parcel.reference` inside its window."""
        return await self._ask_of_dispute(
            parcel.mode, lambda client: stripe_dispute_calls.pass_on(client, parcel, at), is_question=False
        )

    async def _ask_of_dispute(
        self, mode: Mode, request: Callable[[stripe.StripeClient], Awaitable[DisputeAnswer]], *, is_question: bool
    ) -> DisputeAnswer:
        if self._mode not in (None, mode.value):
            cause = f"the API key is for {self._mode} mode, the dispute is not"
            return DisputeAnswer(kind=OutcomeKind.NOT_SENT, cause=cause)
        try:
            async with asyncio.timeout(self._call_deadline_s):
                return await request(self._client())
        except stripe.StripeError as error:
            return stripe_dispute_calls.answer_of_error(error, is_question=is_question)
        except TimeoutError:
            return DisputeAnswer(kind=OutcomeKind.UNKNOWN, cause="no answer in time")
        except Exception as error:  # noqa: BLE001 - an answer nobody can read is silence, whatever broke on it
            return DisputeAnswer(kind=OutcomeKind.UNKNOWN, cause=f"unreadable answer ({type(error).__name__})")

    async def close(self) -> None:
        """Let go of the connections of the running event loop."""
        connection = self._connections.pop(asyncio.get_running_loop(), None)
        if connection is not None:
            await connection.http.close_async()

    async def _ask(self, intent: Intent, stage: Stage, request: Callable[[_Call], Awaitable[Outcome]]) -> Outcome:
        if self._mode not in (None, intent.mode.value):
            # Sent all the same, a test order would take real money, and a look-up would miss it in the other world.
            kind = OutcomeKind.UNKNOWN if stage is Stage.LOOK_UP else OutcomeKind.NOT_SENT
            return silence(kind, intent, f"the API key is for {self._mode} mode, the order is not")
        call = _Call(self._client(), intent, stage)
        try:
            async with asyncio.timeout(self._call_deadline_s):
                return await request(call)
        except stripe.StripeError as error:
            return outcome_of_error(error, intent, call.stage)
        except TimeoutError:
            return silence(unclear(call.stage), intent, "no answer in time")
        except Exception as error:  # noqa: BLE001 - an answer nobody can read is silence, whatever broke on it
            return silence(unclear(call.stage), intent, f"unreadable answer ({type(error).__name__})")

    async def _create(self, call: _Call) -> Outcome:
        answer = await call.client.v1.payment_intents.create_async(
            cast("Any", msgspec.json.decode(call.intent.body)), {"idempotency_key": f"{call.intent.reference}-create"}
        )
        return outcome_of_payment(read(answer, PaymentIntent), call.intent.kind)

    async def _create_page(self, call: _Call) -> Outcome:
        answer = await call.client.v1.checkout.sessions.create_async(
            cast("Any", msgspec.json.decode(call.intent.body)), {"idempotency_key": f"{call.intent.reference}-create"}
        )
        return outcome_of_page(read(answer, CheckoutSession), call.intent.kind)

    async def _confirm(self, call: _Call) -> Outcome:
        parameters: dict[str, Any] = {} if self._is_stand_in else {"error_on_requires_action": True}
        try:
            answer = await call.client.v1.payment_intents.confirm_async(
                call.intent.provider_reference or "",
                cast("Any", parameters | _expansion_of(call.intent)),
                {"idempotency_key": f"{call.intent.reference}-confirm"},
            )
        except stripe.InvalidRequestError as refusal:
            return await self._settle(call, refusal)
        return outcome_of_payment(read(answer, PaymentIntent), call.intent.kind)

    async def _capture(self, call: _Call) -> Outcome:
        intent = call.intent
        target = await self._find_payment_id(call)
        if isinstance(target, Outcome):
            return target
        parameters: dict[str, Any] = {"amount_to_capture": to_stripe_amount(intent.amount_minor, intent.currency)}
        if not self._is_stand_in:
            parameters["metadata"] = {CAPTURE_KEY: intent.reference}
        call.stage = Stage.SEND
        try:
            answer = await call.client.v1.payment_intents.capture_async(
                target, cast("Any", parameters), {"idempotency_key": intent.reference}
            )
        except (stripe.InvalidRequestError, stripe.CardError) as refusal:
            return await self._settle(call, refusal)
        return outcome_of_capture(read(answer, PaymentIntent), intent)

    async def _void(self, call: _Call) -> Outcome:
        intent = call.intent
        target = intent.target_reference or ""
        if target.startswith(_SESSION_PREFIX):
            session = await self._session(call, target)
            if session.payment is None:
                return await self._expire(call, session)
            target = session.payment.id
        call.stage = Stage.SEND
        try:
            answer = await call.client.v1.payment_intents.cancel_async(
                target, {}, {"idempotency_key": intent.reference}
            )
        except (stripe.InvalidRequestError, stripe.CardError) as refusal:
            return await self._settle(call, refusal)
        return outcome_of_void(read(answer, PaymentIntent), intent)

    async def _expire(self, call: _Call, session: CheckoutSession) -> Outcome:
        """Close a page that nobody has paid on. One that is paid meanwhile is cancelled by the next sending."""
        if session.status != "open":
            return outcome_of_page_void(session, call.intent)
        call.stage = Stage.SEND
        try:
            answer = await call.client.v1.checkout.sessions.expire_async(
                session.id, {}, {"idempotency_key": f"{call.intent.reference}-expire"}
            )
        except stripe.InvalidRequestError as refusal:
            try:
                session = await self._session(call, session.id)
            except stripe.StripeError:
                raise refusal from None
            if session.status == "open":
                raise
            return outcome_of_page_void(session, call.intent)
        return outcome_of_page_void(read(answer, CheckoutSession), call.intent)

    async def _refund(self, call: _Call) -> Outcome:
        intent = call.intent
        target = await self._find_payment_id(call)
        if isinstance(target, Outcome):
            return target
        parameters = {
            "payment_intent": target,
            "amount": to_stripe_amount(intent.amount_minor, intent.currency),
            "metadata": {REFERENCE_KEY: intent.reference} | written_on_refund(intent.refund_id),
        }
        call.stage = Stage.SEND
        try:
            answer = await call.client.v1.refunds.create_async(
                cast("Any", parameters), {"idempotency_key": intent.reference}
            )
        except (stripe.InvalidRequestError, stripe.CardError) as refusal:
            return await self._settle(call, refusal)
        return outcome_of_refund(read(answer, Refund), target)

    async def _transfer(self, call: _Call) -> Outcome:
        intent = call.intent
        parameters = {
            "amount": to_stripe_amount(intent.amount_minor, intent.currency),
            "currency": intent.currency.lower(),
            "destination": intent.target_reference,
            "transfer_group": intent.reference,  # what a list can be asked for
            "metadata": {REFERENCE_KEY: intent.reference} | written_on_transfer(intent.payout),
        }
        try:
            answer = await call.client.v1.transfers.create_async(
                cast("Any", parameters), {"idempotency_key": intent.reference}
            )
        except stripe.InvalidRequestError as refusal:
            return await self._settle(call, refusal)
        return outcome_of_transfer(read(answer, Transfer), intent.target_reference)

    async def _settle(self, call: _Call, refusal: stripe.StripeError) -> Outcome:
        """Find out whether a refused sending came too late (it was done before) or can never succeed."""
        call.was_refused = True
        try:
            found = await self._look_up(call)
        except stripe.StripeError:
            raise refusal from None
        settled = outcome_of_refusal(refusal, found, call.intent.kind)
        if settled is None:
            raise refusal
        return settled

    async def _look_up(self, call: _Call) -> Outcome:
        intent = call.intent
        if intent.kind is OperationKind.REFUND:
            return await self._look_up_refund(call)
        if intent.kind is OperationKind.PAYOUT:
            return await self._look_up_transfer(call)
        if not intent.kind.starts_an_order:
            return await self._look_up_target(call)
        if intent.provider_reference is None:
            return await (self._search_pages(call) if intent.is_hosted else self._search(call))
        if intent.is_hosted:
            return outcome_of_page(await self._session(call, intent.provider_reference), intent.kind)
        return outcome_of_payment(await self._payment(call, intent.provider_reference), intent.kind)

    async def _look_up_target(self, call: _Call) -> Outcome:
        intent = call.intent
        target = intent.target_reference or ""
        is_void = intent.kind is OperationKind.VOID
        if not target.startswith(_SESSION_PREFIX):
            payment = await self._payment(call, target)
            if is_void:
                return outcome_of_void(payment, intent)
            return outcome_of_capture(payment, intent, was_refused=call.was_refused)
        session = await self._session(call, target)
        if is_void:
            return outcome_of_page_void(session, intent)
        if session.payment is None:
            return outcome_of_unpaid_page(session, intent)
        return outcome_of_capture(session.payment, intent, was_refused=call.was_refused)

    async def _look_up_refund(self, call: _Call) -> Outcome:
        if call.intent.provider_reference is not None:
            answer = await call.client.v1.refunds.retrieve_async(call.intent.provider_reference)
            return outcome_of_refund(read(answer, Refund))
        target = await self._find_payment_id(call)
        if isinstance(target, Outcome):
            return target
        found = await self._list(call, call.client.v1.refunds.list_async, Page[Refund], {"payment_intent": target})
        if found is None:
            return silence(OutcomeKind.UNKNOWN, call.intent, "too many refunds to look through")
        return outcome_of_search([outcome_of_refund(refund, target) for refund in found], "refund")

    async def _look_up_transfer(self, call: _Call) -> Outcome:
        intent, transfers = call.intent, call.client.v1.transfers
        if intent.provider_reference is not None:
            answer = await transfers.retrieve_async(intent.provider_reference)
            return outcome_of_transfer(read(answer, Transfer), intent.target_reference)
        found = await self._list(call, transfers.list_async, Page[Transfer], {"transfer_group": intent.reference})
        if found is None:
            return silence(OutcomeKind.UNKNOWN, intent, "too many transfers to look through")
        return outcome_of_search([outcome_of_transfer(made, intent.target_reference) for made in found], "Transfer")

    async def _search(self, call: _Call) -> Outcome:
        listed = call.client.v1.payment_intents.list_async
        found = await self._list(call, listed, Page[PaymentIntent], self._since(call.intent))
        if found is None:
            return silence(OutcomeKind.UNKNOWN, call.intent, "too many PaymentIntents to look through")
        return outcome_of_search([outcome_of_payment(made, call.intent.kind) for made in found], "PaymentIntent")

    async def _search_pages(self, call: _Call) -> Outcome:
        listed = call.client.v1.checkout.sessions.list_async
        parameters = self._since(call.intent) | {"expand": ["data.payment_intent"]}
        found = await self._list(call, listed, Page[CheckoutSession], parameters)
        if found is None:
            return silence(OutcomeKind.UNKNOWN, call.intent, "too many Checkout Sessions to look through")
        return outcome_of_search([outcome_of_page(made, call.intent.kind) for made in found], "Checkout Session")

    def _since(self, intent: Intent) -> dict[str, Any]:
        if intent.first_sent_at is None or self._is_stand_in:
            return {}
        return {"created": {"gte": int(intent.first_sent_at.timestamp()) - _CLOCK_SKEW_S}}

    async def _list(
        self,
        call: _Call,
        request: Callable[[Any], Awaitable[stripe.StripeObject]],
        shape: type[Page[Made]],
        parameters: Mapping[str, Any],
    ) -> list[Made] | None:
        """List what carries our reference; None when there is more than anybody wants to look through."""
        found: list[Made] = []
        asked: dict[str, Any] = {"limit": _PAGE_SIZE, **parameters}
        for _ in range(_PAGES_AT_MOST):
            page = read(await request(asked), shape)
            found += [made for made in page.data if made.reference == call.intent.reference]
            if not page.has_more:
                return found
            asked["starting_after"] = page.data[-1].id
        return None

    async def _find_payment_id(self, call: _Call) -> str | Outcome:
        """Name the PaymentIntent that a capture or refund acts on; of a page, once it was paid."""
        target = call.intent.target_reference or ""
        if not target.startswith(_SESSION_PREFIX):
            return target
        session = await self._session(call, target)
        return session.payment.id if session.payment is not None else outcome_of_unpaid_page(session, call.intent)

    async def _payment(self, call: _Call, payment_id: str) -> PaymentIntent:
        expansion = cast("Any", _expansion_of(call.intent))
        return read(await call.client.v1.payment_intents.retrieve_async(payment_id, expansion), PaymentIntent)

    async def _session(self, call: _Call, session_id: str) -> CheckoutSession:
        parts = cast("Any", {"expand": ["payment_intent.latest_charge"]})
        return read(await call.client.v1.checkout.sessions.retrieve_async(session_id, parts), CheckoutSession)

    def _client(self) -> stripe.StripeClient:
        loop = asyncio.get_running_loop()
        connection = self._connections.get(loop)
        if connection is None:
            http = self._new_http_client()
            client = stripe.StripeClient(
                self._api_key,
                stripe_account=self._account,
                stripe_version=API_VERSION,
                base_addresses={"api": self._base_url, "files": self._base_url} if self._base_url else None,
                max_network_retries=0,  # the executor is the one layer that retries
                http_client=http,
            )
            connection = self._connections[loop] = _Connection(client, http)
        return connection.client

    def _new_http_client(self) -> _SingleRequestClient:
        connector = aiohttp.TCPConnector(
            limit=_CONNECTIONS_AT_MOST, ssl=ssl.create_default_context(cafile=stripe.ca_bundle_path)
        )
        return _SingleRequestClient(aiohttp.ClientSession(connector=connector, timeout=self._timeout))


def _expansion_of(intent: Intent) -> dict[str, Any]:
    """Ask for the charge along with an authorization: only it says until when the authorization lives."""
    return {"expand": ["latest_charge"]} if intent.kind is OperationKind.AUTHORIZE else {}


def _capture_method_of(kind: OperationKind) -> dict[str, Any]:
    return {"capture_method": "manual"} if kind is OperationKind.AUTHORIZE else {}


def _page_of(request: ChargeRequest, orders_at_most: int) -> HostedPage:
    page = request.hosted
    if page is None or not orders_at_most:
        raise NotChargeableError("this server has no payment page; send a payment method", is_about_token=True)
    if request.token is not None:
        raise NotChargeableError("write either a payment method or a page, not both", is_about_token=True)
    if len(page.orders) > orders_at_most:
        raise NotChargeableError(
            "Stripe's page takes one payment order; make one payment for each, or send a payment method that was saved "
            "with a customer",
            is_about_token=True,
        )
    return page


def _method_of(token: str) -> dict[str, Any]:
    saved = _PAYMENT_METHOD.fullmatch(token)
    if saved is not None:
        customer, method = saved.groups()
        return {"payment_method": method} | ({"customer": customer} if customer else {})
    if _CARD_TOKEN.fullmatch(token):
        return {"payment_method_data": {"type": "card", "card": {"token": token}}}
    raise NotChargeableError(
        "the payment method must be a Stripe PaymentMethod (pm_...), one saved with a customer (cus_.../pm_...) or a "
        "card token (tok_...), as Stripe's page in the buyer's browser gives it",
        is_about_token=True,
    )
