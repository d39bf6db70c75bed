"""The simulated PSP's HTTP interface: requests in, replies out, no sockets.

Ordinary functions, not coroutines: the simulator shares its cores with what it measures, and every microsecond that a
charge costs here is missing there.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar
from urllib.parse import parse_qs, unquote

import msgspec

from coatcheck.simulator.bank import (
    DECLINED,
    PENDING,
    SUCCEEDED,
    Bank,
    Charge,
    ChargeBody,
    Merchant,
    Refusal,
    RememberedKey,
)
from coatcheck.simulator.chaos import Chaos, Dial, Fault, Weather
from coatcheck.simulator.currencies import CURRENCIES
from coatcheck.simulator.tokens import Behaviour, Manner, behaviour_of

MAX_AMOUNT = 10**15 - 1  # minor units; far below 2^53, so that any JSON reader gets it exactly
MAX_PAGE = 1_000

JSON = b"content-type: application/json\r\n"
REPLAYED = JSON + b"idempotent-replayed: true\r\n"

_API_KEY = re.compile(rb"Bearer sk_sim_(test|live)_([A-Za-z0-9]{1,64})")
_IDEMPOTENCY_KEY = re.compile(rb"[\x21-\x7e]{1,255}")
_REFERENCE = re.compile(r"[\x21-\x7e]{1,64}")
_MAX_DESCRIPTION = 500


class Reply(msgspec.Struct, gc=False):
    """An answer, ready to be written: after `delay_s`, or never where `is_dropped` (the connection is closed)."""

    status: int
    body: bytes
    headers: bytes = JSON
    delay_s: float = 0.0
    is_dropped: bool = False


class Settlement(msgspec.Struct, forbid_unknown_fields=True):
    """How an admin decides a pending charge."""

    status: Literal["succeeded", "declined"]
    decline_code: str | None = None


_encode = msgspec.json.Encoder().encode
_decode_charge = msgspec.json.Decoder(ChargeBody).decode
_decode_dial = msgspec.json.Decoder(Dial).decode
_decode_settlement = msgspec.json.Decoder(Settlement).decode

_Query = Mapping[str, list[str]]
_T = TypeVar("_T")


def _problem(status: int, code: str, message: str, headers: bytes = JSON) -> Reply:
    return Reply(status, _encode({"code": code, "message": message}), headers)


def _server_error(headers: bytes = JSON) -> Reply:
    return _problem(500, "internal_error", "Something went wrong on our side.", headers)


# What some tokens answer instead of the truth. The books keep the truth.
_LIES: dict[Manner, Callable[[Charge], Charge]] = {
    Manner.WRONG_AMOUNT: lambda charge: msgspec.structs.replace(charge, amount=charge.amount + 1),
    Manner.WRONG_CURRENCY: lambda charge: msgspec.structs.replace(
        charge, currency="USD" if charge.currency != "USD" else "EUR"
    ),
    Manner.WRONG_REFERENCE: lambda charge: msgspec.structs.replace(charge, reference="someone-elses"),
    Manner.WRONG_MODE: lambda charge: msgspec.structs.replace(charge, livemode=not charge.livemode),
}


class App:
    """Answers requests.

    `cache_errors`: a 500 after charging is stored under the key and replayed, as Stripe v1 does. `slow_s`: how long
    tok_slow takes.
    """

    def __init__(self, bank: Bank, chaos: Chaos, *, cache_errors: bool, slow_s: float) -> None:
        self.bank = bank
        self.chaos = chaos
        self._cache_errors = cache_errors
        self._slow_s = slow_s
        self._accounts: dict[bytes, tuple[str, bool]] = {}
        self._erred: set[tuple[str, str]] = set()  # keys whose token has had its one error
        self._routes: dict[tuple[bytes, str], Callable[[_Query, bytes], Reply]] = {
            (b"GET", "/health"): lambda _query, _body: Reply(200, b'{"status":"ok"}'),
            (b"GET", "/admin/chaos"): lambda _query, _body: Reply(200, _encode(self.chaos.dial)),
            (b"PUT", "/admin/chaos"): self._turn_dial,
            (b"GET", "/admin/books"): lambda _query, _body: Reply(200, _encode(self.bank.books())),
            (b"GET", "/admin/charges"): self._page_charges,
            (b"GET", "/admin/references"): self._list_references,
            (b"POST", "/admin/forget-keys"): self._forget_keys,
            (b"POST", "/admin/reset"): self._reset,
        }

    def handle(self, method: bytes, target: bytes, headers: Mapping[bytes, bytes], body: bytes) -> Reply:
        """Answer one request."""
        try:
            if target == b"/v1/charges" and method == b"POST":
                return self._charge(headers, body)
            return self._route(method, target, headers, body)
        except Refusal as refusal:
            return _problem(refusal.status, refusal.code, refusal.message)

    def _route(self, method: bytes, target: bytes, headers: Mapping[bytes, bytes], body: bytes) -> Reply:
        raw_path, _, raw_query = target.partition(b"?")
        path = unquote(raw_path.decode("latin-1"))
        query = parse_qs(raw_query.decode("latin-1"), keep_blank_values=True)
        answer = self._routes.get((method, path))
        if answer is not None:
            return answer(query, body)
        if path == "/v1/charges" and method == b"GET":
            return self._look_up(self._authenticate(headers), query.get("reference"), None)
        if path.startswith("/v1/charges/") and method == b"GET":
            return self._look_up(self._authenticate(headers), None, path.removeprefix("/v1/charges/"))
        if path.startswith("/admin/settle/") and method == b"POST":
            return self._settle(path.removeprefix("/admin/settle/"), body)
        if path.startswith(("/v1/charges", "/admin/settle/")) or any(path == known for _, known in self._routes):
            raise Refusal(405, "method_not_allowed", "This address does not take that method.")
        raise Refusal(404, "not_found", "There is nothing at this address.")

    def _authenticate(self, headers: Mapping[bytes, bytes]) -> Merchant:
        credentials = headers.get(b"authorization", b"")
        account = self._accounts.get(credentials)
        if account is None:
            found = _API_KEY.fullmatch(credentials)
            if found is None:
                message = "Send 'Authorization: Bearer sk_sim_test_<account>' or sk_sim_live_<account>."
                raise Refusal(401, "invalid_api_key", message)
            account = self._accounts[credentials] = (found[2].decode(), found[1] == b"live")
        return self.bank.merchant(account[0], is_live=account[1])

    def _charge(self, headers: Mapping[bytes, bytes], body: bytes) -> Reply:
        merchant = self._authenticate(headers)
        raw_key = headers.get(b"idempotency-key")
        if raw_key is None:
            raise Refusal(400, "idempotency_key_missing", "A charge needs an Idempotency-Key header.")
        if _IDEMPOTENCY_KEY.fullmatch(raw_key) is None:
            raise Refusal(400, "idempotency_key_invalid", "The key must be 1 to 255 visible ASCII characters.")
        key = raw_key.decode("ascii")
        weather = self.chaos.of_sending(key)
        try:
            reply = self._charge_in(weather, merchant, key, body)
        except Refusal as refusal:
            reply = _problem(refusal.status, refusal.code, refusal.message)
        reply.delay_s += weather.delay_s
        return reply

    def _charge_in(self, weather: Weather, merchant: Merchant, key: str, body: bytes) -> Reply:
        """Charge under what the chaos dial has in store for this sending."""
        fault = weather.fault
        if weather.is_slow:
            self.bank.faults["slow"] += 1
        if fault is Fault.RATE_LIMIT:
            self.bank.faults[fault] += 1
            headers = JSON + b"retry-after: %d\r\n" % self.chaos.dial.retry_after_s
            return _problem(429, "rate_limited", "Too many requests; nothing was done.", headers)
        if fault is Fault.ERROR_BEFORE:
            self.bank.faults[fault] += 1
            return _server_error()
        digest = hashlib.blake2b(body, digest_size=16).hexdigest()
        remembered = self.bank.recall(merchant, key, digest)
        if remembered is not None:
            reply = self._replay(remembered)
            if fault is Fault.ERROR_AFTER:
                self.bank.faults["error_on_replay"] += 1
                reply = _server_error()
        else:
            reply = self._execute(weather, merchant, key, digest, body)
        if fault is Fault.DROP:
            self.bank.faults[fault] += 1
            reply.is_dropped = True
        return reply

    def _replay(self, remembered: RememberedKey) -> Reply:
        return _server_error(REPLAYED) if remembered.is_error else Reply(201, _encode(remembered.answer), REPLAYED)

    def _execute(self, weather: Weather, merchant: Merchant, key: str, digest: str, raw_body: bytes) -> Reply:
        """Charge the card: the key is new, or was forgotten."""
        body, behaviour = _read_charge(raw_body)
        manner = behaviour.manner
        if manner is Manner.ERROR_BEFORE and self._errs_once(merchant, key):
            self.bank.faults[Fault.ERROR_BEFORE] += 1
            return _server_error()
        is_error = weather.fault is Fault.ERROR_AFTER or (
            manner is Manner.ERROR_AFTER and self._errs_once(merchant, key)
        )
        status, decline_code = _decide(behaviour, weather)
        delay_s = self._slow_s if manner is Manner.SLOW else 0.0
        answer = self.bank.charge(
            merchant,
            body,
            status=status,
            decline_code=decline_code,
            key=None if is_error and not self._cache_errors else key,
            digest=digest,
            is_error=is_error,
            busy_s=delay_s + weather.delay_s,
            answer_as=_LIES.get(manner),
        )
        if is_error:
            self.bank.faults[Fault.ERROR_AFTER] += 1
            return _server_error()
        if manner is Manner.HTML:
            return Reply(200, b"<html><body>Please wait</body></html>", b"content-type: text/html\r\n")
        if manner is Manner.DROP:
            self.bank.faults[Fault.DROP] += 1
        return Reply(201, _encode(answer), JSON, delay_s, manner is Manner.DROP)

    def _errs_once(self, merchant: Merchant, key: str) -> bool:
        """Whether this is the first time that a key meets the error its token asks for."""
        name = (merchant.account, key)
        if name in self._erred:
            return False
        self._erred.add(name)
        return True

    def _look_up(self, merchant: Merchant, references: list[str] | None, charge_id: str | None) -> Reply:
        fails, delay_s = self.chaos.of_look_up()
        if fails:
            self.bank.faults["look_up_error"] += 1
            reply = _server_error()
        elif charge_id is not None:
            charge = self.bank.find(merchant, charge_id)
            if charge is None:
                reply = _problem(404, "not_found", f"There is no charge {charge_id}.")
            else:
                reply = Reply(200, _encode(charge))
        elif references is None:
            reply = _problem(400, "reference_missing", "Ask with ?reference= or for /v1/charges/{id}.")
        else:
            charges = self.bank.search(merchant, references[0], self.chaos.dial.search_lag_ms / 1000)
            reply = Reply(200, _encode({"data": charges}))
        reply.delay_s += delay_s
        return reply

    def _turn_dial(self, _query: _Query, body: bytes) -> Reply:
        self.chaos.set(_read(_decode_dial, body))
        return Reply(200, _encode(self.chaos.dial))

    def _page_charges(self, query: _Query, _body: bytes) -> Reply:
        start, limit = _whole_number(query, "cursor", 0), _whole_number(query, "limit", 100)
        charges = self.bank.page(start, min(max(limit, 1), MAX_PAGE))
        end = start + len(charges)
        cursor = str(end) if end < self.bank.charge_count else None
        return Reply(200, _encode({"data": charges, "next_cursor": cursor}))

    def _list_references(self, query: _Query, _body: bytes) -> Reply:
        status = query.get("status", [None])[0]
        if status not in (None, SUCCEEDED, DECLINED, PENDING):
            raise Refusal(400, "invalid_request", "status is succeeded, declined or pending.")
        return Reply(200, _encode(self.bank.references(status)))

    def _forget_keys(self, _query: _Query, _body: bytes) -> Reply:
        return Reply(200, _encode({"forgotten": self.bank.forget_keys()}))

    def _settle(self, charge_id: str, body: bytes) -> Reply:
        settlement = _read(_decode_settlement, body)
        code = (settlement.decline_code or "card_declined") if settlement.status == DECLINED else None
        return Reply(200, _encode(self.bank.settle(charge_id, settlement.status, code)))

    def _reset(self, _query: _Query, _body: bytes) -> Reply:
        self.bank.reset()
        self.chaos.set(self.chaos.dial)
        self._erred.clear()
        return Reply(200, b'{"status":"ok"}')


def _decide(behaviour: Behaviour, weather: Weather) -> tuple[str, str | None]:
    if behaviour.manner is Manner.DECLINE:
        return DECLINED, behaviour.decline_code
    if weather.declines:
        return DECLINED, "card_declined"
    return (PENDING if behaviour.manner is Manner.PENDING else SUCCEEDED), None


def _read(decode: Callable[[bytes], _T], body: bytes) -> _T:
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise Refusal(400, "invalid_request", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, "malformed_json", f"The body is not JSON that can be read: {error}") from None


def _read_charge(raw_body: bytes) -> tuple[ChargeBody, Behaviour]:
    body = _read(_decode_charge, raw_body)
    if not 0 < body.amount <= MAX_AMOUNT:
        raise Refusal(400, "invalid_amount", f"amount is a whole number of minor units from 1 to {MAX_AMOUNT}.")
    if body.currency not in CURRENCIES:
        raise Refusal(400, "invalid_currency", "currency is an ISO 4217 code in capitals.")
    if _REFERENCE.fullmatch(body.reference) is None:
        raise Refusal(400, "invalid_reference", "reference is 1 to 64 visible ASCII characters.")
    if body.description is not None and len(body.description) > _MAX_DESCRIPTION:
        raise Refusal(400, "invalid_request", f"description has at most {_MAX_DESCRIPTION} characters.")
    behaviour = behaviour_of(body.token)
    if behaviour is None:
        raise Refusal(400, "invalid_token", "This payment token is not known.")
    return body, behaviour


def _whole_number(query: _Query, name: str, default: int) -> int:
    text = query.get(name, [""])[0]
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):  # noqa: PLR2004 - fits 64 bits
        raise Refusal(400, "invalid_request", f"{name} is a whole number.")
    return int(text)
