"""The simulator's adapter: one HTTP call in, one Outcome out.

What the simulated PSP answers to a charge, and what that means for money (its own documentation: docs/simulator.md):

| answer | outcome | why |
|---|---|---|
| 201 succeeded | APPROVED | its word |
| 201 declined | DECLINED, its decline_code | its word |
| 201 pending | PENDING | it decides later |
| 400 invalid_token, invalid_amount, invalid_currency, invalid_reference, invalid_request | DECLINED, that code | a \
documented refusal before anything was done; the body is frozen, so every later sending gets it too |
| 400 with any other code it documents (malformed_json, missing or invalid key) | NOT_SENT | nothing was done, and the \
fault is ours or of what lies between, not the card's |
| 401, 403 with its code | NOT_SENT | nothing was done; the credentials can be put right |
| 429 rate_limited | NOT_SENT, retry_after | it documents that nothing was done |
| 409 idempotency_key_in_use | UNKNOWN | the first sending is still running |
| 422 idempotency_key_reused | UNKNOWN | something else was sent under this key: a person must look |
| 5xx | UNKNOWN, is_server_error | it may have charged, and it may be its stored answer to an earlier sending |
| 3xx | UNKNOWN | redirects are not followed |
| anything else: other status or code, HTML, truncated, another shape, too large | UNKNOWN | not its documented word |

NOT_SENT speaks of this sending only: an earlier one with the same key may still have charged.

A look-up moves no money, and its NOT_SENT would mean "certainly not charged". So whatever keeps a look-up from an
answer is UNKNOWN.
"""

import re
from datetime import timedelta
from typing import Final, Literal

import aiohttp
import msgspec
from yarl import URL

from coatcheck.ids import OPERATION, print_id
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Capabilities, Charge, ChargeRequest, NotChargeableError
from coatcheck.providers.transport import TRANSPORT_ERRORS, outcome_of_exception
from coatcheck.states import Mode

MAX_AMOUNT_MINOR: Final = 10**15 - 1  # the PSP's documented limit
MAX_ANSWER_BYTES: Final = 1024 * 1024
_MAX_DESCRIPTION: Final = 500
_MAX_EVIDENCE: Final = 200
_CREATED, _OK, _NOT_FOUND, _FIRST_SERVER_ERROR = 201, 200, 404, 500

_TOKEN = re.compile(r"tok_[A-Za-z0-9_-]{1,60}(\.[A-Za-z0-9_-]{1,63})?")
_SECONDS = re.compile(r"[0-9]{1,6}")

# (status, code) -> what a charge refused in this way means.
_REFUSALS: Final[dict[tuple[int, str], tuple[OutcomeKind, str]]] = {
    (400, "invalid_token"): (OutcomeKind.DECLINED, "the token was refused"),
    (400, "invalid_amount"): (OutcomeKind.DECLINED, "the amount was refused"),
    (400, "invalid_currency"): (OutcomeKind.DECLINED, "the currency was refused"),
    (400, "invalid_reference"): (OutcomeKind.DECLINED, "the reference was refused"),
    (400, "invalid_request"): (OutcomeKind.DECLINED, "the request was refused"),
    (400, "malformed_json"): (OutcomeKind.NOT_SENT, "the body did not arrive as it was sent"),
    (400, "idempotency_key_missing"): (OutcomeKind.NOT_SENT, "the idempotency key did not arrive"),
    (400, "idempotency_key_invalid"): (OutcomeKind.NOT_SENT, "the idempotency key was refused"),
    (401, "invalid_api_key"): (OutcomeKind.NOT_SENT, "the provider refused the API key"),
    (403, "forbidden"): (OutcomeKind.NOT_SENT, "the provider does not allow this to the API key"),
    (429, "rate_limited"): (OutcomeKind.NOT_SENT, "the provider asks to slow down"),
    (409, "idempotency_key_in_use"): (OutcomeKind.UNKNOWN, "the first sending is still running"),
    (422, "idempotency_key_reused"): (OutcomeKind.UNKNOWN, "another body was sent under this key"),
}


class _ChargeBody(msgspec.Struct, frozen=True, gc=False):
    amount: int
    currency: str
    token: str
    reference: str
    description: str


class _Answer(msgspec.Struct, frozen=True, gc=False):
    id: str
    status: Literal["succeeded", "declined", "pending"]
    amount: int
    currency: str
    reference: str
    livemode: bool
    decline_code: str | None = None


class _Answers(msgspec.Struct, frozen=True):
    data: list[_Answer]


class _Problem(msgspec.Struct, frozen=True, gc=False):
    code: str
    message: str = ""


class _Raw(msgspec.Struct, frozen=True, gc=False):
    """An HTTP answer that was read to its end."""

    status: int
    is_json: bool
    retry_after: str | None
    body: bytes

    @property
    def evidence(self) -> str:
        start = self.body[:_MAX_EVIDENCE].decode("utf-8", "backslashreplace")
        return f"HTTP {self.status}: {start}".replace("\x00", "\\x00")


_encode_body = msgspec.json.Encoder().encode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_answers = msgspec.json.Decoder(_Answers).decode
_decode_problem = msgspec.json.Decoder(_Problem).decode
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_KIND_OF: Final = {
    "succeeded": OutcomeKind.APPROVED,
    "declined": OutcomeKind.DECLINED,
    "pending": OutcomeKind.PENDING,
}
_BEST_FIRST: Final = ("succeeded", "pending", "declined")


class SimulatedProvider:
    """Charges at the simulated PSP. One connection pool, made in the loop that first calls, kept until `close`.

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
        )
        self._mode = Mode.LIVE if api_key.startswith("sk_sim_live_") else Mode.TEST
        self._charges_url = base / "v1" / "charges"
        self._authorization = f"Bearer {api_key}"
        self._connection_limit = connection_limit
        self._timeout = aiohttp.ClientTimeout(total=call_deadline_s, connect=connect_deadline_s)
        self._session: aiohttp.ClientSession | None = None

    def prepare(self, request: ChargeRequest) -> bytes:
        """Freeze the body of a charge: the same bytes for the same request. Raises NotChargeableError."""
        if not 0 < request.amount_minor <= MAX_AMOUNT_MINOR:
            raise NotChargeableError(f"the amount must be from 1 to {MAX_AMOUNT_MINOR} minor units")
        if _TOKEN.fullmatch(request.token) is None:
            raise NotChargeableError("write one of the simulator's tokens, such as tok_approve", is_about_token=True)
        return _encode_body(
            _ChargeBody(
                amount=request.amount_minor,
                currency=request.currency,
                token=request.token,
                reference=print_id(OPERATION, request.operation_id),
                description=request.payment_order_id[:_MAX_DESCRIPTION],
            )
        )

    async def register(self, charge: Charge) -> Outcome:
        """There is nothing to register: a charge is one step here."""
        return Outcome(kind=OutcomeKind.NOT_SENT, reference=charge.reference, cause="nothing to register")

    async def charge(self, charge: Charge) -> Outcome:
        """Ask for the money. Idempotent at the PSP on `charge.reference` inside its window."""
        if charge.mode is not self._mode:
            cause = f"this is a {charge.mode.value} charge and the provider's API key is for {self._mode.value}"
            return Outcome(kind=OutcomeKind.NOT_SENT, cause=cause)
        try:
            async with self._open_session().post(
                self._charges_url,
                data=charge.body,
                headers={"Idempotency-Key": charge.reference},
                allow_redirects=False,
            ) as response:
                raw = await _read(response)
        except TRANSPORT_ERRORS as error:
            return outcome_of_exception(error)
        return _charge_outcome(raw)

    async def look_up(self, charge: Charge) -> Outcome:
        """Ask what became of a charge, by the PSP's id or by our reference; a succeeded one wins."""
        if charge.provider_reference is not None:
            url = self._charges_url / charge.provider_reference
        else:
            url = self._charges_url.with_query(reference=charge.reference)
        try:
            async with self._open_session().get(url, allow_redirects=False) as response:
                raw = await _read(response)
        except TRANSPORT_ERRORS as error:
            return _unanswered(outcome_of_exception(error))
        return _look_up_outcome(raw, charge)

    async def close(self) -> None:
        """Let go of connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

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


async def _read(response: aiohttp.ClientResponse) -> _Raw:
    """Read an answer to its end, or to the largest size that one may have."""
    chunks = []
    size = 0
    while size <= MAX_ANSWER_BYTES and (chunk := await response.content.readany()):
        chunks.append(chunk)
        size += len(chunk)
    body = b"".join(chunks)
    if size > MAX_ANSWER_BYTES:
        response.close()
    return _Raw(
        response.status,
        size <= MAX_ANSWER_BYTES and response.content_type == "application/json",
        response.headers.get("Retry-After"),
        body,
    )


def _charge_outcome(raw: _Raw) -> Outcome:
    if raw.status == _CREATED and raw.is_json:
        try:
            return _outcome_of(_decode_answer(raw.body))
        except _UNREADABLE:
            return _no_decision(raw)
    code = _problem_code(raw)
    meaning = _REFUSALS.get((raw.status, code))
    if meaning is None:
        return _no_decision(raw)
    kind, cause = meaning
    return Outcome(
        kind=kind,
        decline_code=code if kind is OutcomeKind.DECLINED else None,
        cause=cause,
        evidence=raw.evidence,
        retry_after=_retry_after(raw),
    )


def _problem_code(raw: _Raw) -> str:
    """Read the code of a refusal; empty when this is not the PSP's problem body."""
    try:
        return _decode_problem(raw.body).code if raw.is_json else ""
    except _UNREADABLE:
        return ""


def _look_up_outcome(raw: _Raw, charge: Charge) -> Outcome:
    if charge.provider_reference is not None and (raw.status, _problem_code(raw)) == (_NOT_FOUND, "not_found"):
        return Outcome(kind=OutcomeKind.NOT_FOUND, cause="the provider has no charge with this id")
    if raw.status != _OK or not raw.is_json:
        return _no_decision(raw)
    try:
        if charge.provider_reference is not None:
            return _outcome_of(_decode_answer(raw.body))
        answers = _decode_answers(raw.body).data
    except _UNREADABLE:
        return _no_decision(raw)
    ours = [answer for answer in answers if answer.reference == charge.reference]
    if not ours:
        return Outcome(kind=OutcomeKind.NOT_FOUND, cause="the provider lists no charge with this reference")
    return _outcome_of(min(ours, key=lambda answer: _BEST_FIRST.index(answer.status)))


def _outcome_of(answer: _Answer) -> Outcome:
    return Outcome(
        kind=_KIND_OF[answer.status],
        provider_reference=answer.id,
        reference=answer.reference,
        amount_minor=answer.amount,
        currency=answer.currency,
        is_live=answer.livemode,
        decline_code=answer.decline_code,
    )


def _no_decision(raw: _Raw) -> Outcome:
    """Say UNKNOWN: this answer is not one that the PSP documents as a decision."""
    is_server_error = raw.status >= _FIRST_SERVER_ERROR
    return Outcome(
        kind=OutcomeKind.UNKNOWN,
        cause="the provider failed" if is_server_error else "the answer is not one the provider documents",
        evidence=raw.evidence,
        is_server_error=is_server_error,
        retry_after=_retry_after(raw),
    )


def _unanswered(outcome: Outcome) -> Outcome:
    """Say that a look-up got no answer: a look-up that was not sent tells nothing about the charge."""
    return msgspec.structs.replace(outcome, kind=OutcomeKind.UNKNOWN)


def _retry_after(raw: _Raw) -> timedelta | None:
    if raw.retry_after is None or _SECONDS.fullmatch(raw.retry_after) is None:
        return None
    return timedelta(seconds=int(raw.retry_after))
