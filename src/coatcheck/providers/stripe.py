"""Stripe, through its official SDK: a PaymentIntent is created first and confirmed second.

Creating one moves no money and gives an id that the caller stores; only confirming it charges. So whatever becomes of
the confirmation, Stripe can be asked by id what it did. docs/providers/stripe.md has the tables and their sources.
"""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from enum import Enum, auto
from typing import Any, Literal, NamedTuple, cast
from weakref import WeakKeyDictionary

import aiohttp
import msgspec
import stripe
from stripe import oauth_error

from coatcheck.ids import OPERATION, print_id
from coatcheck.money import CurrencyError, exponent_of, format_amount
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Capabilities, Charge, ChargeRequest, NotChargeableError

# The answers below were read against this version; an upgrade of the SDK must not change it silently.
API_VERSION = "2026-10-28.endive"
REFERENCE_KEY = "coatcheck_operation"

_ZERO_DECIMALS = frozenset(
    {"BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"}
)
_THREE_DECIMALS = frozenset({"BHD", "JOD", "KWD", "OMR", "TND"})
# Where Stripe counts differently from ISO 4217. HUF and TWD differ in payouts only, so they are not here.
# (a, b): Stripe's amount is a / b of ISO's minor units, and must come out whole.
_RATIOS = {"ISK": (100, 1), "UGX": (100, 1), "MGA": (1, 100)}
_DIGITS = {"IDR": 12}
_DIGITS_OTHERWISE = 8

_PAYMENT_METHOD = re.compile(r"(?:(cus_[A-Za-z0-9_]{1,120})/)?(pm_[A-Za-z0-9_]{1,120})")
_CARD_TOKEN = re.compile(r"tok_[A-Za-z0-9_]{1,120}")
_KEY_MODE = re.compile(r"(?:sk|rk)_(test|live)_")

_PAGE_SIZE = 100
_PAGES_AT_MOST = 50
_CLOCK_SKEW_S = 3600
_CONNECTIONS_AT_MOST = 100  # what an account may do per second in live mode, so a wait here is a wait at Stripe too


class _Stage(Enum):
    """What was being asked when something went wrong: the same silence means different things."""

    REGISTER = auto()
    CONFIRM = auto()
    LOOK_UP = auto()


class _Failure(msgspec.Struct):
    type: str | None = None
    code: str | None = None
    decline_code: str | None = None
    param: str | None = None


class _Intent(msgspec.Struct):
    id: str
    object: Literal["payment_intent"]
    status: str
    amount: int
    currency: str
    livemode: bool
    metadata: dict[str, str] | None = None
    amount_received: int | None = None
    last_payment_error: _Failure | None = None

    @property
    def reference(self) -> str | None:
        return (self.metadata or {}).get(REFERENCE_KEY)


class _Page(msgspec.Struct):
    data: list[_Intent]
    has_more: bool


class _Problem(_Failure):
    payment_intent: _Intent | None = None


class _ProblemBody(msgspec.Struct):
    error: _Problem


_decode_intent = msgspec.json.Decoder(_Intent).decode
_decode_page = msgspec.json.Decoder(_Page).decode
_decode_problem = msgspec.json.Decoder(_ProblemBody).decode


# Exact classes, never base classes: a class that a new SDK brings is UNKNOWN until somebody has thought about it.
# Of these, InvalidRequestError and APIConnectionError are looked at more closely below.
ERRORS: Mapping[type[stripe.StripeError], tuple[OutcomeKind, str]] = {
    stripe.CardError: (OutcomeKind.DECLINED, "refused"),
    stripe.InvalidRequestError: (OutcomeKind.UNKNOWN, "request refused"),
    stripe.AuthenticationError: (OutcomeKind.NOT_SENT, "API key refused"),
    stripe.PermissionError: (OutcomeKind.NOT_SENT, "API key not permitted"),
    stripe.RateLimitError: (OutcomeKind.UNKNOWN, "rate limited"),
    stripe.IdempotencyError: (OutcomeKind.UNKNOWN, "idempotency key used for another request"),
    stripe.APIError: (OutcomeKind.UNKNOWN, "error at Stripe"),
    stripe.APIConnectionError: (OutcomeKind.UNKNOWN, "no answer"),
    # What the SDK raises elsewhere (webhooks, OAuth, version 2 of the API). None of it is a word about a charge.
    **dict.fromkeys(
        (
            stripe.StripeError,
            stripe.StripeErrorWithParamCode,
            stripe.SignatureVerificationError,
            stripe.AlreadyCanceledError,
            stripe.BlockedByStripeError,
            stripe.CannotProceedError,
            stripe.CapabilityNotEnabledError,
            stripe.ControlledByAlternateResourceError,
            stripe.FeatureNotEnabledError,
            stripe.FinancialAccountNotOpenError,
            stripe.FxQuoteNeedsRefreshError,
            stripe.InsufficientFundsError,
            stripe.InvalidPaymentMethodError,
            stripe.InvalidPayoutMethodError,
            stripe.InvalidVaultedCredentialError,
            stripe.NotCancelableError,
            stripe.QuotaExceededError,
            stripe.RecipientNotNotifiableError,
            stripe.TemporarySessionExpiredError,
            stripe.VerificationAttemptFailedError,
            stripe.VerificationExpiredError,
            stripe.VerificationNotInitiatedError,
            oauth_error.OAuthError,
            oauth_error.InvalidClientError,
            oauth_error.InvalidGrantError,
            oauth_error.InvalidRequestError,
            oauth_error.InvalidScopeError,
            oauth_error.UnsupportedGrantTypeError,
            oauth_error.UnsupportedResponseTypeError,
        ),
        (OutcomeKind.UNKNOWN, "unexpected error"),
    ),
}

# What aiohttp raises before a byte of the request has left: name resolution, connecting, TLS, no free connection.
BEFORE_ANY_BYTE = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)

STATUSES: Mapping[str, tuple[OutcomeKind, str | None]] = {
    "succeeded": (OutcomeKind.APPROVED, None),
    "processing": (OutcomeKind.PENDING, "processing"),
    "requires_action": (OutcomeKind.PENDING, "waits for the buyer"),
    "requires_confirmation": (OutcomeKind.NOT_SENT, "registered, not confirmed"),
    "requires_payment_method": (OutcomeKind.NOT_SENT, "registered, not charged"),
    "canceled": (OutcomeKind.DECLINED, None),
    "requires_capture": (OutcomeKind.UNKNOWN, "authorized only, which was not asked for"),
}

# When two objects carry our reference, the one that says most about money speaks for the operation.
_PRECEDENCE = (
    OutcomeKind.APPROVED,
    OutcomeKind.PENDING,
    OutcomeKind.UNKNOWN,
    OutcomeKind.DECLINED,
    OutcomeKind.NOT_SENT,
)


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
        try:
            async with self._own_session.request(
                method, url, headers=headers, data=post_data, allow_redirects=False
            ) as response:
                content = await response.read()
        except Exception as error:  # noqa: BLE001 - the SDK's contract: every failure becomes its APIConnectionError
            self._handle_request_error(error)
        return content, response.status, {name.lower(): value for name, value in response.headers.items()}


class _Connection(NamedTuple):
    client: stripe.StripeClient
    http: _SingleRequestClient


class StripeProvider:
    """Stripe's PaymentIntents.

    An `idempotency_window` of zero says that the server at `base_url` is a stand-in without keys (localstripe); it
    knows neither descriptions nor `error_on_requires_action`, so these are left out there. `account` is a connected
    account's id, in whose name to charge. Deadlines in seconds; `call_deadline_s` bounds each method in all.
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
        """Freeze what creating the PaymentIntent sends, as canonical JSON. Raises NotChargeableError."""
        parameters: dict[str, Any] = {
            "amount": to_stripe_amount(request.amount_minor, request.currency),
            "currency": request.currency.lower(),
            "confirm": False,
            "metadata": {REFERENCE_KEY: print_id(OPERATION, request.operation_id)},
            # Without this Stripe takes every method switched on in the dashboard and asks for a return address.
            "payment_method_types": ["card"],
            **_method_of(request.token),
        }
        if not self._is_stand_in:
            parameters["description"] = request.payment_order_id
        return msgspec.json.encode(parameters, order="sorted")

    async def register(self, charge: Charge) -> Outcome:
        """Create the PaymentIntent, unconfirmed. NOT_SENT whatever happens, unless Stripe refuses the request for good.

        Idempotent at Stripe on `<reference>-create` inside the window; after it a second one is made and stays
        unconfirmed, which charges nothing.
        """
        return await self._ask(charge, _Stage.REGISTER, self._create)

    async def charge(self, charge: Charge) -> Outcome:
        """Confirm the registered PaymentIntent, which takes the money. Idempotent on `<reference>-confirm`."""
        if charge.provider_reference is None:
            return Outcome(kind=OutcomeKind.NOT_SENT, cause="not registered: there is no PaymentIntent to confirm")
        return await self._ask(charge, _Stage.CONFIRM, self._confirm)

    async def look_up(self, charge: Charge) -> Outcome:
        """Ask for the PaymentIntent by its id, else list the recent ones and match our reference.

        Both see every earlier write at once; Stripe's search does not, so it is not used.
        """
        return await self._ask(charge, _Stage.LOOK_UP, self._retrieve if charge.provider_reference else self._search)

    async def close(self) -> None:
        """Let go of the connections of the running event loop."""
        connection = self._connections.pop(asyncio.get_running_loop(), None)
        if connection is not None:
            await connection.http.close_async()

    async def _ask(
        self,
        charge: Charge,
        stage: _Stage,
        request: Callable[[stripe.StripeClient, Charge], Awaitable[Outcome]],
    ) -> Outcome:
        if self._mode not in (None, charge.mode.value):
            # Sent all the same, a test order would take real money, and a look-up would miss it in the other world.
            kind = OutcomeKind.UNKNOWN if stage is _Stage.LOOK_UP else OutcomeKind.NOT_SENT
            return _silence(kind, charge, f"the API key is for {self._mode} mode, the order is not")
        try:
            async with asyncio.timeout(self._call_deadline_s):
                return await request(self._client(), charge)
        except stripe.StripeError as error:
            return _outcome_of_error(error, charge, stage)
        except TimeoutError:
            return _silence(_unclear(stage), charge, "no answer in time")
        except Exception as error:  # noqa: BLE001 - an answer nobody can read is silence, whatever broke on it
            return _silence(_unclear(stage), charge, f"unreadable answer ({type(error).__name__})")

    async def _create(self, client: stripe.StripeClient, charge: Charge) -> Outcome:
        answer = await client.v1.payment_intents.create_async(
            cast("Any", msgspec.json.decode(charge.body)), {"idempotency_key": f"{charge.reference}-create"}
        )
        return _outcome_of_answer(answer)

    async def _confirm(self, client: stripe.StripeClient, charge: Charge) -> Outcome:
        try:
            answer = await client.v1.payment_intents.confirm_async(
                charge.provider_reference or "",
                {} if self._is_stand_in else {"error_on_requires_action": True},
                {"idempotency_key": f"{charge.reference}-confirm"},
            )
        except stripe.InvalidRequestError as refusal:
            return await self._settle(refusal, client, charge)
        return _outcome_of_answer(answer)

    async def _settle(
        self, refusal: stripe.InvalidRequestError, client: stripe.StripeClient, charge: Charge
    ) -> Outcome:
        """Find out whether a refused confirmation came too late (it was confirmed before) or can never succeed."""
        try:
            found = await self._retrieve(client, charge)
        except stripe.StripeError:
            raise refusal from None
        if found.kind is not OutcomeKind.NOT_SENT:
            return found
        if refusal.code == "payment_intent_unexpected_state":
            raise refusal
        return msgspec.structs.replace(
            found, kind=OutcomeKind.DECLINED, decline_code="invalid_request", evidence=_evidence_of(refusal)
        )

    async def _retrieve(self, client: stripe.StripeClient, charge: Charge) -> Outcome:
        return _outcome_of_answer(await client.v1.payment_intents.retrieve_async(charge.provider_reference or ""))

    async def _search(self, client: stripe.StripeClient, charge: Charge) -> Outcome:
        found: list[_Intent] = []
        parameters: dict[str, Any] = {"limit": _PAGE_SIZE}
        if charge.first_sent_at is not None and not self._is_stand_in:
            parameters["created"] = {"gte": int(charge.first_sent_at.timestamp()) - _CLOCK_SKEW_S}
        for _ in range(_PAGES_AT_MOST):
            answer = await client.v1.payment_intents.list_async(cast("Any", parameters))
            page = _decode_page(_body_of(answer))
            found += [intent for intent in page.data if intent.reference == charge.reference]
            if not page.has_more:
                return _outcome_of_search(found)
            parameters["starting_after"] = page.data[-1].id
        return _silence(OutcomeKind.UNKNOWN, charge, "too many PaymentIntents to look through")

    def _client(self) -> stripe.StripeClient:
        loop = asyncio.get_running_loop()
        connection = self._connections.get(loop)
        if connection is None:
            http = self._new_http_client()
            client = stripe.StripeClient(
                self._api_key,
                stripe_account=self._account,
                stripe_version=API_VERSION,
                base_addresses={"api": self._base_url} if self._base_url else None,
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


def to_stripe_amount(amount_minor: int, currency: str) -> int:
    """Turn ISO 4217 minor units into Stripe's. Raises NotChargeableError for what Stripe cannot take exactly."""
    times, over = _ratio_of(currency)
    if amount_minor < 1:
        raise NotChargeableError("the amount must be more than zero")
    amount, rest = divmod(amount_minor * times, over)
    if rest:
        raise NotChargeableError(
            f"Stripe charges {currency} in whole units; the decimals must be 0, "
            f"not as in {format_amount(amount_minor, currency)}"
        )
    step = 10 if currency in _THREE_DECIMALS else 1
    if amount % step:
        raise NotChargeableError(
            f"Stripe charges {currency} in steps of 0.010; the last of the three decimals must be 0, "
            f"not as in {format_amount(amount_minor, currency)}"
        )
    largest = 10 ** _DIGITS.get(currency, _DIGITS_OTHERWISE) - step
    if amount > largest:
        largest_minor = largest // times * over
        raise NotChargeableError(f"Stripe charges at most {format_amount(largest_minor, currency)} {currency} at once")
    return amount


def from_stripe_amount(amount: int, currency: str) -> int:
    """Turn Stripe's amount into ISO 4217 minor units. Raises NotChargeableError for one that has no exact equal."""
    times, over = _ratio_of(currency)
    amount_minor, rest = divmod(amount * over, times)
    if rest:
        raise NotChargeableError(f"Stripe's {amount} {currency} is not a whole number of minor units")
    return amount_minor


def _ratio_of(currency: str) -> tuple[int, int]:
    try:
        iso = exponent_of(currency)
    except CurrencyError as error:
        raise NotChargeableError(str(error)) from error
    if currency in _RATIOS:
        return _RATIOS[currency]
    if iso == 2 or currency in _ZERO_DECIMALS or currency in _THREE_DECIMALS:  # noqa: PLR2004 - most have two
        return 1, 1
    raise NotChargeableError(f"Stripe does not charge {currency}; use another currency")


def _method_of(token: str) -> dict[str, Any]:
    saved = _PAYMENT_METHOD.fullmatch(token)
    if saved is not None:
        customer, method = saved.groups()
        return {"payment_method": method} | ({"customer": customer} if customer else {})
    if _CARD_TOKEN.fullmatch(token):
        return {"payment_method_data": {"type": "card", "card": {"token": token}}}
    raise NotChargeableError(
        "the payment method must be a Stripe PaymentMethod (pm_...), one saved with a customer (cus_.../pm_...) or a "
        "card token (tok_...), as Stripe's page in the buyer's browser gives it"
    )


def _body_of(answer: stripe.StripeObject) -> str:
    response = answer.last_response
    if response is None:
        raise ValueError("an answer without a response")
    return response.body


def _outcome_of_answer(answer: stripe.StripeObject) -> Outcome:
    intent = _decode_intent(_body_of(answer))
    response = answer.last_response
    request_id = response.request_id if response is not None else None
    return _outcome_of_intent(intent, f"PaymentIntent {intent.status}, request {request_id}")


def _outcome_of_intent(intent: _Intent, evidence: str) -> Outcome:
    kind, cause = STATUSES.get(intent.status, (OutcomeKind.UNKNOWN, "unknown status"))
    decline_code = None
    if intent.status == "canceled":
        decline_code = "canceled"
    elif intent.status == "requires_payment_method" and intent.last_payment_error is not None:
        kind, cause, decline_code = OutcomeKind.DECLINED, None, _decline_code_of(intent.last_payment_error)
    currency = intent.currency.upper()
    amount = intent.amount
    if kind is OutcomeKind.APPROVED and intent.amount_received is not None:
        amount = intent.amount_received
    try:
        amount_minor = from_stripe_amount(amount, currency)
    except NotChargeableError as error:
        # An amount that ISO units cannot express is not the one that was asked for: nothing to post, but to look into.
        return Outcome(
            kind=OutcomeKind.UNKNOWN, provider_reference=intent.id, cause="unreadable amount", evidence=str(error)
        )
    return Outcome(
        kind=kind,
        provider_reference=intent.id,
        reference=intent.reference,
        amount_minor=amount_minor,
        currency=currency,
        is_live=intent.livemode,
        decline_code=decline_code,
        cause=cause,
        evidence=evidence,
    )


def _outcome_of_search(found: Sequence[_Intent]) -> Outcome:
    outcomes = [_outcome_of_intent(intent, f"PaymentIntent {intent.status}, listed") for intent in found]
    if not outcomes:
        return Outcome(kind=OutcomeKind.NOT_FOUND, cause="no PaymentIntent carries our reference")
    approved = [outcome.provider_reference for outcome in outcomes if outcome.kind is OutcomeKind.APPROVED]
    if len(approved) > 1:
        return Outcome(
            kind=OutcomeKind.UNKNOWN, cause="charged more than once at Stripe", evidence=" ".join(map(str, approved))
        )
    return min(outcomes, key=lambda outcome: _PRECEDENCE.index(outcome.kind))


def _outcome_of_error(error: stripe.StripeError, charge: Charge, stage: _Stage) -> Outcome:
    kind, cause = ERRORS.get(type(error), (OutcomeKind.UNKNOWN, f"unmapped error {type(error).__name__}"))
    decline_code = None
    if isinstance(error, stripe.APIConnectionError) and isinstance(error.__cause__, BEFORE_ANY_BYTE):
        kind, cause = OutcomeKind.NOT_SENT, "not connected"
    elif isinstance(error, stripe.CardError):
        decline_code = _decline_code_of(_problem_of(error))
    elif isinstance(error, stripe.InvalidRequestError) and stage is _Stage.REGISTER:
        kind, decline_code = OutcomeKind.DECLINED, "invalid_request"
    if stage is _Stage.LOOK_UP:
        kind, decline_code = OutcomeKind.UNKNOWN, None  # a question that failed says nothing about the charge
    elif kind is OutcomeKind.UNKNOWN:
        kind = _unclear(stage)
    status = error.http_status or 0
    told = _problem_of(error).payment_intent
    words = _outcome_of_intent(told, "") if told is not None else _silence(kind, charge, cause)
    return msgspec.structs.replace(
        words,
        kind=kind,
        decline_code=decline_code,
        cause=cause,
        evidence=_evidence_of(error),
        is_server_error=status >= 500,  # noqa: PLR2004 - HTTP's own number
        retry_after=_retry_after_of(error),
    )


def _unclear(stage: _Stage) -> OutcomeKind:
    """Say what silence means: creating is always safe to repeat, as an unconfirmed PaymentIntent charges nothing."""
    return OutcomeKind.NOT_SENT if stage is _Stage.REGISTER else OutcomeKind.UNKNOWN


def _silence(kind: OutcomeKind, charge: Charge, cause: str) -> Outcome:
    return Outcome(kind=kind, provider_reference=charge.provider_reference, cause=cause)


def _problem_of(error: stripe.StripeError) -> _Problem:
    try:
        return _decode_problem(error.http_body or "").error
    except msgspec.MsgspecError:
        return _Problem()


def _decline_code_of(failure: _Failure) -> str:
    code = failure.decline_code or failure.code or "card_declined"
    # The documents have both words for a bank that wants to see the buyer.
    return "authentication_required" if code == "requires_action_not_handled" else code


def _evidence_of(error: stripe.StripeError) -> str:
    """Collect what a person needs to find the call at Stripe; messages are left out, they may repeat what was sent."""
    problem = _problem_of(error)
    facts = {
        "HTTP": error.http_status,
        "type": problem.type,
        "code": problem.code,
        "decline_code": problem.decline_code,
        "param": problem.param,
        "request": error.request_id,
        "should_retry": (error.headers or {}).get("stripe-should-retry"),
        "error": type(error.__cause__).__name__ if error.__cause__ is not None else None,
    }
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)


def _retry_after_of(error: stripe.StripeError) -> timedelta | None:
    seconds = (error.headers or {}).get("retry-after", "")
    return timedelta(seconds=int(seconds)) if re.fullmatch(r"[0-9]{1,6}", seconds) else None
