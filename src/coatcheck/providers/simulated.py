"""The simulator's adapter: one HTTP call in, one Outcome out.

What the PSP's answers mean is in simulated_answers.py; here is what is sent, and where to.
"""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import aiohttp
import msgspec
from yarl import URL

from coatcheck.ids import OPERATION, PAYMENT, print_id
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
    Origin,
    PayoutOrigin,
)
from coatcheck.providers.simulated_answers import (
    Raw,
    action_outcome,
    charge_outcome,
    found_action,
    found_charge,
    found_page,
    found_page_end,
    found_payout,
    listed_action,
    listed_actions,
    listed_charge,
    listed_charges,
    listed_payout,
    listed_payouts,
    page_end_outcome,
    page_outcome,
    payout_outcome,
    unanswered,
)
from coatcheck.providers.simulated_disputes import body_of, found_dispute, listed_disputes, passed_on
from coatcheck.providers.transport import TRANSPORT_ERRORS, outcome_of_exception, sendable
from coatcheck.states import EvidenceKind, Mode, OperationKind

MAX_AMOUNT_MINOR: Final = 10**15 - 1  # the PSP's documented limit
MAX_ANSWER_BYTES: Final = 1024 * 1024
MAX_HOSTED_ORDERS: Final = 100
_MAX_DESCRIPTION: Final = 500

_TOKEN = re.compile(r"tok_[A-Za-z0-9_-]{1,60}(\.[A-Za-z0-9_-]{1,63})?")
_DESTINATION: Final = r"dest_[a-z_]{1,40}(\.[A-Za-z0-9_-]{1,64})?"
_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")  # of the PSP's: nothing that would lead elsewhere in an address
_CHARGE_ID, _PAGE_ID = "ch_", "cs_"


class _ChargeBody(msgspec.Struct, frozen=True, gc=False):
    amount: int
    currency: str
    token: str
    reference: str
    description: str
    metadata: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


class _AuthorizationBody(_ChargeBody, frozen=True, gc=False):
    capture: bool = False


class _PageOrder(msgspec.Struct, frozen=True, gc=False):
    reference: str
    amount: int
    currency: str
    description: str
    capture: bool
    metadata: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


class _PageBody(msgspec.Struct, frozen=True):
    reference: str
    return_url: str
    charges: list[_PageOrder]


class _CaptureBody(msgspec.Struct, frozen=True, gc=False):
    amount: int
    reference: str
    final: bool


class _VoidBody(msgspec.Struct, frozen=True, gc=False):
    reference: str


class _RefundBody(msgspec.Struct, frozen=True, gc=False):
    amount: int
    reference: str
    metadata: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


class _PayoutBody(msgspec.Struct, frozen=True, gc=False):
    amount: int
    currency: str
    destination: str
    reference: str
    metadata: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


_encode_body = msgspec.json.Encoder().encode
_decode_page_body = msgspec.json.Decoder(_PageBody).decode


class SimulatedProvider:
    """The whole life of a charge at the simulated PSP, and payouts.

    One connection pool, made in the loop that first calls, kept until `close`.
    `base_url` is where every request goes: redirects are refused and no proxy is asked. `idempotency_window` must not
    be longer than the PSP's own. `connection_limit` 0 means as many connections as there are calls.
    """

    name = "simulator"

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        call_deadline_s: int = 10,
        connect_deadline_s: int = 3,
        idempotency_window: timedelta,
        replays_errors: bool = True,
        connection_limit: int = 0,
    ) -> None:
        base = URL(base_url)
        if base.scheme not in ("http", "https") or not base.host:
            raise ValueError(f"the provider's address must be an http or https URL, not {base_url!r}")
        if not api_key.startswith(("sk_sim_test_", "sk_sim_live_")):
            raise ValueError("the simulator's API key must start with sk_sim_test_ or sk_sim_live_")
        self.capabilities = Capabilities(
            idempotency_window=idempotency_window,
            window_margin=min(timedelta(minutes=5), idempotency_window / 4),
            look_up_before_resend=not replays_errors,
            replays_errors=replays_errors,
            # A page that all orders register under one key is one page only where the key outlives an error.
            hosted_orders=MAX_HOSTED_ORDERS if replays_errors else 1,
            several_captures=True,
            disputes=True,
            payout_token=_DESTINATION,
        )
        self._mode = Mode.LIVE if api_key.startswith("sk_sim_live_") else Mode.TEST
        self._charges_url = base / "v1" / "charges"
        self._actions_url = base / "v1" / "actions"
        self._pages_url = base / "v1" / "sessions"
        self._disputes_url = base / "v1" / "disputes"
        self._payouts_url = base / "v1" / "payouts"
        self._authorization = f"Bearer {api_key}"
        self._connection_limit = connection_limit
        self._timeout = aiohttp.ClientTimeout(total=call_deadline_s, connect=connect_deadline_s)
        self._session: aiohttp.ClientSession | None = None

    def prepare(self, request: ChargeRequest) -> bytes:
        """Freeze the body of a charge, an authorization or a page. Raises NotChargeableError.

        The same bytes for the same request, and for every order of a page.
        """
        _check_amount(request.amount_minor)
        if request.hosted is not None:
            return _page_body(
                request.hosted, most=self.capabilities.hosted_orders, captures=request.kind is OperationKind.CHARGE
            )
        if request.token is None or _TOKEN.fullmatch(request.token) is None:
            raise NotChargeableError("write one of the simulator's tokens, such as tok_approve", is_about_token=True)
        body_of = _ChargeBody if request.kind is OperationKind.CHARGE else _AuthorizationBody
        return _encode_body(
            body_of(
                amount=request.amount_minor,
                currency=request.currency,
                token=request.token,
                reference=print_id(OPERATION, request.operation_id),
                description=request.payment_order_id[:_MAX_DESCRIPTION],
                metadata=_written(request.origin),
            )
        )

    async def register(self, intent: Intent) -> Outcome:
        """Make the page on which the buyer pays all orders of a payment. Idempotent on the payment inside the window.

        All its orders ask under one key with the same body, so the PSP makes the page once. Without a page there is
        nothing to register: a charge is one step here.
        """
        if not intent.is_hosted:
            return Outcome(kind=OutcomeKind.NOT_SENT, reference=intent.reference, cause="nothing to register")
        if intent.mode is not self._mode:
            return self._other_mode(intent, OutcomeKind.NOT_SENT)
        raw = await self._post(self._pages_url, intent.body, f"sess_{_page_reference(intent)}")
        return raw if isinstance(raw, Outcome) else page_outcome(raw, intent)

    async def send(self, intent: Intent) -> Outcome:
        """Ask for what the intent says. Idempotent at the PSP on `intent.reference` inside its window."""
        if intent.mode is not self._mode:
            return self._other_mode(intent, OutcomeKind.NOT_SENT)
        if intent.kind is OperationKind.PAYOUT:
            raw = await self._post(self._payouts_url, _payout_body(intent), intent.reference)
            return raw if isinstance(raw, Outcome) else payout_outcome(raw, intent)
        if not intent.kind.starts_an_order:
            return await self._act(intent)
        if intent.is_hosted:  # UNKNOWN, since the buyer may have paid
            cause = "the buyer pays on the provider's page: there is nothing to send"
            return Outcome(kind=OutcomeKind.UNKNOWN, provider_reference=intent.provider_reference, cause=cause)
        raw = await self._post(self._charges_url, intent.body, intent.reference)
        return raw if isinstance(raw, Outcome) else charge_outcome(raw, intent.kind)

    async def _act(self, intent: Intent) -> Outcome:
        """Capture, void or refund a charge, or void what still waits on an open page by ending it."""
        target = intent.target_reference or ""
        if _ID.fullmatch(target) is None:
            return Outcome(kind=OutcomeKind.NOT_SENT, cause="there is no charge at the provider to act on")
        url, read = self._charges_url / target / intent.kind.value, action_outcome
        if target.startswith(_PAGE_ID):
            if intent.kind is not OperationKind.VOID:
                return Outcome(kind=OutcomeKind.NOT_SENT, cause="the page shows no charge yet to act on")
            url, read = self._pages_url / target / "expire", page_end_outcome
        raw = await self._post(url, _action_body(intent), intent.reference)
        return raw if isinstance(raw, Outcome) else read(raw, intent)

    async def look_up(self, intent: Intent) -> Outcome:
        """Ask what became of an intent, by the PSP's id or by our reference; what took money wins."""
        if intent.mode is not self._mode:
            return self._other_mode(intent, OutcomeKind.UNKNOWN)
        is_payout = intent.kind is OperationKind.PAYOUT  # its target is no object of the PSP's, and in no address
        ids = (intent.provider_reference, None if is_payout else intent.target_reference)
        if any(each is not None and _ID.fullmatch(each) is None for each in ids):
            return Outcome(kind=OutcomeKind.UNKNOWN, cause="the stored id is not one that the provider gives")
        url, read = self._question(intent)
        raw = await self._get(url)
        return unanswered(raw) if isinstance(raw, Outcome) else read(raw)

    def _question(self, intent: Intent) -> tuple[URL, Callable[[Raw], Outcome]]:
        """Find out where to ask about an intent, and who reads the answer."""
        known = intent.provider_reference
        if intent.kind is OperationKind.PAYOUT:
            return _address(self._payouts_url, known, intent.reference), lambda raw: found_payout(raw, intent)
        if not intent.kind.starts_an_order:
            if (intent.target_reference or "").startswith(_PAGE_ID):
                return self._pages_url / str(intent.target_reference), lambda raw: found_page_end(raw, intent)
            return _address(self._actions_url, known, intent.reference), lambda raw: found_action(raw, intent)
        if intent.is_hosted and not (known or "").startswith(_CHARGE_ID):
            reference = _page_reference(intent)
            return _address(self._pages_url, known, reference), lambda raw: found_page(raw, intent, reference)
        return _address(self._charges_url, known, intent.reference), lambda raw: found_charge(raw, intent)

    async def list_since(self, since: datetime, following: str | None = None) -> FoundPage:
        """List charges and authorizations, then captures, voids and refunds, then payouts, each oldest first.

        Raises NotListedError.
        """
        shelf, _, after = (following or "charges").partition("-")
        url, listed, then = {
            "charges": (self._charges_url, listed_charges, "actions-0"),
            "actions": (self._actions_url, listed_actions, "payouts-0"),
            "payouts": (self._payouts_url, listed_payouts, None),
        }[shelf]
        asked = {"since": str(max(int(since.timestamp()), 0)), "after": after or "0", "limit": "500"}
        found, place = listed(_answered(await self._get(url.with_query(asked))))
        return FoundPage(found, then if place is None else f"{shelf}-{place}")

    async def find(self, provider_reference: str, kind: OperationKind | None) -> Found | None:
        """Find one object by the PSP's id, with what we wrote on it. Raises NotListedError."""
        if _ID.fullmatch(provider_reference) is None:
            return None
        url, listed = self._actions_url, listed_action
        if kind is None:
            url, listed = self._charges_url, listed_charge
        elif kind is OperationKind.PAYOUT:
            url, listed = self._payouts_url, listed_payout
        return listed(_answered(await self._get(url / provider_reference / "metadata")))

    async def read_dispute(self, provider_reference: str, mode: Mode, at: datetime) -> DisputeAnswer:  # noqa: ARG002 - it has a count of its own
        """Ask how a dispute stands."""
        if mode is not self._mode or _ID.fullmatch(provider_reference) is None:
            return DisputeAnswer(
                kind=OutcomeKind.UNKNOWN, cause="another mode, or an id that the provider does not give"
            )
        return found_dispute(await self._get(self._disputes_url / provider_reference), "look-up")

    async def list_disputes_since(self, since: datetime, at: datetime, following: str | None = None) -> DisputePage:  # noqa: ARG002 - it has a count of its own
        """List disputes, oldest first. Raises NotListedError."""
        asked = {"since": str(max(int(since.timestamp()), 0)), "after": following or "0", "limit": "500"}
        return listed_disputes(_answered(await self._get(self._disputes_url.with_query(asked))))

    async def submit_evidence(self, parcel: Parcel, at: datetime) -> DisputeAnswer:  # noqa: ARG002 - it has a count of its own
        """Pass evidence or an acceptance on. Idempotent at the PSP on `parcel.reference` inside its window."""
        if parcel.mode is not self._mode or _ID.fullmatch(parcel.provider_reference) is None:
            return DisputeAnswer(
                kind=OutcomeKind.NOT_SENT, cause="another mode, or an id that the provider does not give"
            )
        verb = "accept" if parcel.kind is EvidenceKind.ACCEPTANCE else "evidence"
        url = self._disputes_url / parcel.provider_reference / verb
        return passed_on(await self._post(url, body_of(parcel), parcel.reference), "answer")

    async def close(self) -> None:
        """Let go of connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _post(self, url: URL, body: bytes, key: str) -> Raw | Outcome:
        """Send once under an idempotency key; an Outcome where no answer came."""
        try:
            async with self._open_session().post(
                url, data=sendable(body), headers={"Idempotency-Key": key}, allow_redirects=False
            ) as response:
                return await _read(response)
        except TRANSPORT_ERRORS as error:
            return outcome_of_exception(error)

    async def _get(self, url: URL) -> Raw | Outcome:
        """Ask once; an Outcome where no answer came."""
        try:
            async with self._open_session().get(url, allow_redirects=False) as response:
                return await _read(response)
        except TRANSPORT_ERRORS as error:
            return outcome_of_exception(error)

    def _other_mode(self, intent: Intent, kind: OutcomeKind) -> Outcome:
        cause = (
            f"this is a {intent.mode.value} {intent.kind.value} and the provider's API key is for {self._mode.value}"
        )
        return Outcome(kind=kind, cause=cause)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connection_limit, keepalive_timeout=30),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={
                    "Authorization": self._authorization,
                    "Content-Type": "application/json",
                    "Accept-Encoding": "identity",
                    "User-Agent": "coatcheck",
                },
                skip_auto_headers=("Accept",),
                timeout=self._timeout,
                trust_env=False,
            )
        return self._session


def _check_amount(amount_minor: int) -> None:
    if not 0 < amount_minor <= MAX_AMOUNT_MINOR:
        raise NotChargeableError(f"the amount must be from 1 to {MAX_AMOUNT_MINOR} minor units")


def _page_body(page: HostedPage, *, most: int, captures: bool) -> bytes:
    if not 0 < len(page.orders) <= most:
        raise NotChargeableError(f"a page takes from 1 to {most} payment orders", is_about_token=True)
    for order in page.orders:
        _check_amount(order.amount_minor)
    return _encode_body(
        _PageBody(
            reference=print_id(PAYMENT, page.payment_id),
            return_url=page.return_url,
            charges=[
                _PageOrder(
                    reference=print_id(OPERATION, order.operation_id),
                    amount=order.amount_minor,
                    currency=order.currency,
                    description=order.payment_order_id[:_MAX_DESCRIPTION],
                    capture=captures,
                    metadata=_written(order.origin),
                )
                for order in page.orders
            ],
        )
    )


def _written(origin: Origin | None) -> dict[str, str] | msgspec.UnsetType:
    """Say on a charge whose it is; the description has the payment order's id."""
    if origin is None:
        return msgspec.UNSET
    written = {"shop": origin.shop_id.hex, "checkout": origin.checkout_id, "seller": origin.seller_account}
    return written | {"commission": str(origin.commission_minor)} if origin.commission_minor else written


def _page_reference(intent: Intent) -> str:
    """Read the payment's printed id, the page's reference at the PSP, out of the frozen body."""
    return _decode_page_body(intent.body).reference


def _action_body(intent: Intent) -> bytes:
    """Make the body of a capture, void or refund of the intent's fields alone: the same bytes at every attempt."""
    if intent.kind is OperationKind.CAPTURE:
        return _encode_body(_CaptureBody(amount=intent.amount_minor, reference=intent.reference, final=intent.is_final))
    if intent.kind is OperationKind.REFUND:
        written = msgspec.UNSET if intent.refund_id is None else {"refund": intent.refund_id.hex}
        return _encode_body(_RefundBody(amount=intent.amount_minor, reference=intent.reference, metadata=written))
    return _encode_body(_VoidBody(reference=intent.reference))


def _payout_body(intent: Intent) -> bytes:
    """Make the body of a payout of the intent's fields alone: the same bytes at every attempt."""
    return _encode_body(
        _PayoutBody(
            amount=intent.amount_minor,
            currency=intent.currency,
            destination=intent.target_reference or "",
            reference=intent.reference,
            metadata=_written_on_payout(intent.payout),
        )
    )


def _written_on_payout(origin: PayoutOrigin | None) -> dict[str, str] | msgspec.UnsetType:
    """Say on a payout whose it is; with its key it can be proven."""
    if origin is None:
        return msgspec.UNSET
    written = {"shop": origin.shop_id.hex, "seller": origin.seller_account, "key": origin.key}
    return written if origin.run_id is None else written | {"run": origin.run_id.hex}


def _address(url: URL, provider_reference: str | None, reference: str) -> URL:
    """Ask for one object by its id where that is known, else for all with our reference."""
    return url.with_query(reference=reference) if provider_reference is None else url / provider_reference


def _answered(raw: Raw | Outcome) -> Raw:
    if isinstance(raw, Outcome):
        raise NotListedError(f"the simulator gave no list: {raw.cause}")
    return raw


async def _read(response: aiohttp.ClientResponse) -> Raw:
    """Read an answer to its end, or to the largest size that one may have."""
    chunks = []
    size = 0
    while size <= MAX_ANSWER_BYTES and (chunk := await response.content.readany()):
        chunks.append(chunk)
        size += len(chunk)
    body = b"".join(chunks)
    if size > MAX_ANSWER_BYTES:
        response.close()
    return Raw(
        response.status,
        size <= MAX_ANSWER_BYTES and response.content_type == "application/json",
        response.headers.get("Retry-After"),
        body,
    )
