"""The simulated PSP's HTTP interface: requests in, replies out, no sockets.

Ordinary functions, not coroutines: the simulator shares its cores with what it measures, and every microsecond that a
charge costs here is missing there.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final
from urllib.parse import parse_qs, unquote

import msgspec

from coatcheck.simulator.actions import Decision, decide_capture, decide_refund, decide_void
from coatcheck.simulator.admin import MAX_PAGE, Admin
from coatcheck.simulator.bank import Bank
from coatcheck.simulator.bodies import (
    MAX_AMOUNT,
    Query,
    read_acceptance,
    read_capture,
    read_charge,
    read_expire,
    read_payout,
    read_refund,
    read_session,
    read_void,
    whole_number,
)
from coatcheck.simulator.chaos import Chaos, Fault, Weather
from coatcheck.simulator.page import Pages
from coatcheck.simulator.records import (
    DECLINED,
    PENDING,
    SUCCEEDED,
    Answer,
    Charge,
    Merchant,
    Refusal,
    RememberedKey,
    Sending,
)
from coatcheck.simulator.replies import CSV, JSON, REPLAYED, Reply, encode, problem, refused, server_error
from coatcheck.simulator.tokens import Behaviour, Manner
from coatcheck.simulator.webhooks import Courier

__all__ = ["JSON", "MAX_AMOUNT", "MAX_PAGE", "REPLAYED", "App", "Reply"]

_API_KEY = re.compile(rb"Bearer sk_sim_(test|live)_([A-Za-z0-9]{1,64})")
_IDEMPOTENCY_KEY = re.compile(rb"[\x21-\x7e]{1,255}")
_HOST = re.compile(rb"[A-Za-z0-9.:\[\]_-]{1,255}")

_Headers = Mapping[bytes, bytes]
_Act = Callable[[Merchant, bytes, Sending], Answer]  # does what a body asks of one address
_List = Callable[[Merchant, float, int, int], tuple[Sequence[object], int | None]]  # what was made since a time
_Execute = Callable[[Weather, Merchant, str, str, bytes], Reply]

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
    tok_slow takes. Without a `courier` the app makes one, which is off until an admin gives it an address.
    """

    def __init__(
        self, bank: Bank, chaos: Chaos, *, cache_errors: bool, slow_s: float, courier: Courier | None = None
    ) -> None:
        self.bank = bank
        self.chaos = chaos
        self.courier: Final = courier or Courier(bank, chaos)
        self._cache_errors = cache_errors
        self._slow_s = slow_s
        self._accounts: dict[bytes, tuple[str, bool]] = {}
        self._erred: set[tuple[str, str]] = set()  # keys whose token has had its one error
        self._admin = Admin(bank, chaos, self.courier, self._erred.clear)
        self._pages = Pages(bank)
        self._listed: Mapping[str, _List] = {
            "charges": bank.made_since,
            "actions": bank.done_since,
            "payouts": bank.payouts.made_since,
            "disputes": bank.disputes.opened_since,
        }

    def handle(self, method: bytes, target: bytes, headers: _Headers, body: bytes) -> Reply:
        """Answer one request."""
        try:
            if target == b"/v1/charges" and method == b"POST":
                return self._send(headers, body, body, self._charge)
            return self._route(method, target, headers, body)
        except Refusal as refusal:
            return refused(refusal)

    def _route(self, method: bytes, target: bytes, headers: _Headers, body: bytes) -> Reply:
        raw_path, _, raw_query = target.partition(b"?")
        path = unquote(raw_path.decode("latin-1"))
        query = parse_qs(raw_query.decode("latin-1"), keep_blank_values=True)
        if path.startswith("/v1/"):
            if path == "/v1/settlements" or path.startswith("/v1/settlements/"):
                return self._show_settlements(method, path, self._authenticate(headers))
            if method == b"GET" and ("since" in query or path.endswith("/metadata")):
                return self._list(path, query, self._authenticate(headers))
            return self._route_v1(method, path, query.get("reference"), headers, body)
        if path.startswith("/admin/"):
            return self._admin.handle(method, path, query, body)
        if path.startswith("/page/"):
            return self._pages.handle(method, path.removeprefix("/page/"), body)
        if path != "/health":
            raise Refusal(404, "not_found", "There is nothing at this address.")
        if method != b"GET":
            raise Refusal(405, "method_not_allowed", "This address does not take that method.")
        return Reply(200, b'{"status":"ok"}')

    def _route_v1(
        self, method: bytes, path: str, references: list[str] | None, headers: _Headers, body: bytes
    ) -> Reply:
        act: _Act
        match method, path.split("/")[2:]:
            case b"GET", ["charges" | "actions" | "sessions" | "disputes" | "payouts" as shelf]:
                return self._look_up(self._authenticate(headers), shelf, references, None)
            case b"GET", ["charges" | "actions" | "sessions" | "disputes" | "payouts" as shelf, *names]:
                return self._look_up(self._authenticate(headers), shelf, None, "/".join(names))
            case b"POST", ["charges", charge_id, "capture" | "void" | "refund" as verb]:
                act = partial({"capture": self._capture, "void": self._void, "refund": self._refund}[verb], charge_id)
            case b"POST", ["payouts"]:
                act = self._pay_out
            case b"POST", ["sessions"]:
                act = partial(self._open_session, headers.get(b"host", b"127.0.0.1"))
            case b"POST", ["sessions", session_id, "expire"]:
                act = partial(self._expire_session, session_id)
            case b"POST", ["disputes", dispute_id, "evidence"]:
                act = partial(self.bank.disputes.answer, dispute_id)
            case b"POST", ["disputes", dispute_id, "accept"]:
                act = partial(self._accept_dispute, dispute_id)
            case _, ["charges" | "actions" | "sessions" | "disputes" | "payouts", *_]:
                raise Refusal(405, "method_not_allowed", "This address does not take that method.")
            case _:
                raise Refusal(404, "not_found", "There is nothing at this address.")
        # The address belongs to what a key stands for: the same body elsewhere is another request.
        return self._send(headers, body, path.encode() + b"\n" + body, partial(self._execute, act=act))

    def _show_settlements(self, method: bytes, path: str, merchant: Merchant) -> Reply:
        if method != b"GET":
            raise Refusal(405, "method_not_allowed", "This address does not take that method.")
        match path.split("/")[3:]:
            case []:
                return Reply(200, encode({"data": self.bank.settlements.batches(merchant)}))
            case [batch_id, "file"]:
                return Reply(200, "".join(self.bank.settlements.file(merchant, batch_id)).encode(), CSV)
        raise Refusal(404, "not_found", "There is nothing at this address.")

    def _list(self, path: str, query: Query, merchant: Merchant) -> Reply:
        """Answer what was made since a time, page by page, or one thing with what the merchant wrote on it."""
        match path.split("/")[2:]:
            case ["charges" | "actions" | "payouts" | "disputes" as shelf]:
                since, after = whole_number(query, "since", 0), whole_number(query, "after", 0)
                limit = min(max(whole_number(query, "limit", 100), 1), MAX_PAGE)
                shown, following = self._listed[shelf](merchant, since, after, limit)
                return _found({"data": shown, "next": None if following is None else str(following)})
            case ["charges" | "actions" | "payouts" as shelf, name, "metadata"]:
                shelves = {"charges": self.bank.made, "actions": self.bank.done, "payouts": self.bank.payouts.made}
                found = shelves[shelf](merchant, name)
                if found is not None:
                    return _found(found)
        raise Refusal(404, "not_found", "There is nothing at this address.")

    def _authenticate(self, headers: _Headers) -> Merchant:
        credentials = headers.get(b"authorization", b"")
        account = self._accounts.get(credentials)
        if account is None:
            found = _API_KEY.fullmatch(credentials)
            if found is None:
                message = "Send 'Authorization: Bearer sk_sim_test_<account>' or sk_sim_live_<account>."
                raise Refusal(401, "invalid_api_key", message)
            account = self._accounts[credentials] = (found[2].decode(), found[1] == b"live")
        return self.bank.merchant(account[0], is_live=account[1])

    # what moves money, under a key

    def _send(self, headers: _Headers, body: bytes, identity: bytes, execute: _Execute) -> Reply:
        """Do what a request asks for once; `identity` is what must be the same when its key comes again."""
        merchant = self._authenticate(headers)
        raw_key = headers.get(b"idempotency-key")
        if raw_key is None:
            raise Refusal(400, "idempotency_key_missing", "What moves money needs an Idempotency-Key header.")
        if _IDEMPOTENCY_KEY.fullmatch(raw_key) is None:
            raise Refusal(400, "idempotency_key_invalid", "The key must be 1 to 255 visible ASCII characters.")
        key = raw_key.decode("ascii")
        weather = self.chaos.of_sending(key)
        try:
            reply = self._send_in(weather, merchant, key, body=body, identity=identity, execute=execute)
        except Refusal as refusal:
            reply = refused(refusal)
        reply.delay_s += weather.delay_s
        return reply

    def _send_in(
        self, weather: Weather, merchant: Merchant, key: str, *, body: bytes, identity: bytes, execute: _Execute
    ) -> Reply:
        """Execute or replay under what the chaos dial has in store for this sending."""
        fault = weather.fault
        if weather.is_slow:
            self.bank.faults["slow"] += 1
        if fault is Fault.RATE_LIMIT:
            self.bank.faults[fault] += 1
            headers = JSON + b"retry-after: %d\r\n" % self.chaos.dial.retry_after_s
            return problem(429, "rate_limited", "Too many requests; nothing was done.", headers)
        if fault is Fault.ERROR_BEFORE:
            self.bank.faults[fault] += 1
            return server_error()
        digest = hashlib.blake2b(identity, digest_size=16).hexdigest()
        remembered = self.bank.recall(merchant, key, digest)
        if remembered is not None:
            reply = self._replay(remembered)
            if fault is Fault.ERROR_AFTER:
                self.bank.faults["error_on_replay"] += 1
                reply = server_error()
        else:
            reply = execute(weather, merchant, key, digest, body)
        if fault is Fault.DROP:
            self.bank.faults[fault] += 1
            reply.is_dropped = True
        return reply

    def _replay(self, remembered: RememberedKey) -> Reply:
        return server_error(REPLAYED) if remembered.is_error else Reply(201, encode(remembered.answer), REPLAYED)

    def _charge(self, weather: Weather, merchant: Merchant, key: str, digest: str, raw_body: bytes) -> Reply:
        """Charge the card: the key is new, or was forgotten."""
        body, behaviour = read_charge(raw_body)
        manner = behaviour.manner
        if manner is Manner.ERROR_BEFORE and self._errs_once(merchant, key):
            self.bank.faults[Fault.ERROR_BEFORE] += 1
            return server_error()
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
            manner=manner.value if behaviour.is_later else None,
        )
        if is_error:
            self.bank.faults[Fault.ERROR_AFTER] += 1
            return server_error()
        if manner is Manner.HTML:
            return Reply(200, b"<html><body>Please wait</body></html>", b"content-type: text/html\r\n")
        if manner is Manner.DROP:
            self.bank.faults[Fault.DROP] += 1
        return Reply(201, encode(answer), JSON, delay_s, manner is Manner.DROP)

    def _errs_once(self, merchant: Merchant, key: str) -> bool:
        """Whether this is the first time that a key meets the error its token asks for."""
        name = (merchant.account, key)
        if name in self._erred:
            return False
        self._erred.add(name)
        return True

    def _execute(
        self, weather: Weather, merchant: Merchant, key: str, digest: str, raw_body: bytes, *, act: _Act
    ) -> Reply:
        """Do anything but a charge: the key is new, or was forgotten."""
        is_error = weather.fault is Fault.ERROR_AFTER
        kept_key = None if is_error and not self._cache_errors else key
        answer = act(merchant, raw_body, Sending(kept_key, digest, is_error, weather.delay_s))
        if is_error:
            self.bank.faults[Fault.ERROR_AFTER] += 1
            return server_error()
        return Reply(201, encode(answer))

    def _capture(self, charge_id: str, merchant: Merchant, raw_body: bytes, sending: Sending) -> Answer:
        body = read_capture(raw_body)
        decide: Callable[[Charge, str | None], Decision]
        decide = partial(decide_capture, amount=body.amount, is_final=body.final)
        return self.bank.act(merchant, charge_id, decide, body.reference, _noted(sending, body.metadata))

    def _void(self, charge_id: str, merchant: Merchant, raw_body: bytes, sending: Sending) -> Answer:
        body = read_void(raw_body)
        return self.bank.act(merchant, charge_id, decide_void, body.reference, _noted(sending, body.metadata))

    def _refund(self, charge_id: str, merchant: Merchant, raw_body: bytes, sending: Sending) -> Answer:
        body, dial = read_refund(raw_body), self.chaos.dial
        settle_s, fail_s = dial.refund_settle_ms / 1000, dial.refund_fails_later_ms / 1000
        decide = partial(decide_refund, amount=body.amount, settle_s=settle_s, fail_s=fail_s)
        return self.bank.act(merchant, charge_id, decide, body.reference, _noted(sending, body.metadata))

    def _open_session(self, host: bytes, merchant: Merchant, raw_body: bytes, sending: Sending) -> Answer:
        body, items = read_session(raw_body)
        if _HOST.fullmatch(host) is None:
            raise Refusal(400, "invalid_request", "The Host header is not a name or an address.")
        origin = f"http://{host.decode('ascii')}"
        return self.bank.sessions.open(merchant, body.reference, items, body.return_url, origin=origin, sending=sending)

    def _expire_session(self, session_id: str, merchant: Merchant, raw_body: bytes, sending: Sending) -> Answer:
        read_expire(raw_body)
        if self.bank.sessions.find(merchant, session_id) is None:
            raise Refusal(404, "not_found", f"There is no session {session_id}.")
        return self.bank.sessions.view(self.bank.sessions.expire(session_id, sending))

    def _accept_dispute(self, dispute_id: str, merchant: Merchant, raw_body: bytes, sending: Sending) -> Answer:
        return self.bank.disputes.accept(dispute_id, merchant, read_acceptance(raw_body).reference, sending)

    def _pay_out(self, merchant: Merchant, raw_body: bytes, sending: Sending) -> Answer:
        body, dial = read_payout(raw_body), self.chaos.dial
        return self.bank.payouts.pay(
            merchant,
            body,
            sending,
            declines=self.chaos.declines(body.reference),
            settle_s=dial.payout_settle_ms / 1000,
            return_s=dial.payout_returns_later_ms / 1000,
        )

    # what only asks

    def _look_up(self, merchant: Merchant, shelf: str, references: list[str] | None, name: str | None) -> Reply:
        fails, delay_s = self.chaos.of_look_up()
        if fails:
            self.bank.faults["look_up_error"] += 1
            reply = server_error()
        elif name is not None:
            found = self._find(merchant, shelf, name)
            what = shelf.removesuffix("s")
            reply = problem(404, "not_found", f"There is no {what} {name}.") if found is None else _found(found)
        elif references is None:
            reply = problem(400, "reference_missing", f"Ask with ?reference= or for /v1/{shelf}/{{id}}.")
        else:
            reply = _found({"data": self._search(merchant, shelf, references[0])})
        reply.delay_s += delay_s
        return reply

    def _find(self, merchant: Merchant, shelf: str, name: str) -> Answer | None:
        if shelf == "charges":
            return self.bank.find(merchant, name)
        if shelf == "disputes":
            return self.bank.disputes.find(merchant, name)
        if shelf == "payouts":
            return self.bank.payouts.find(merchant, name)
        return self.bank.find_action(merchant, name) if shelf == "actions" else self.bank.sessions.find(merchant, name)

    def _search(self, merchant: Merchant, shelf: str, reference: str) -> object:
        lag_s = self.chaos.dial.search_lag_ms / 1000
        if shelf == "charges":
            return self.bank.search(merchant, reference, lag_s)
        if shelf == "disputes":
            return self.bank.disputes.search(merchant, reference, lag_s)
        if shelf == "actions":
            return self.bank.search_actions(merchant, reference, lag_s)
        if shelf == "payouts":
            return self.bank.payouts.search(merchant, reference, lag_s)
        return self.bank.sessions.search(merchant, reference, lag_s)


def _noted(sending: Sending, metadata: dict[str, str] | None) -> Sending:
    return sending if metadata is None else msgspec.structs.replace(sending, metadata=metadata)


def _found(thing: object) -> Reply:
    return Reply(200, encode(thing))


def _decide(behaviour: Behaviour, weather: Weather) -> tuple[str, str | None]:
    if behaviour.manner is Manner.DECLINE:
        return DECLINED, behaviour.decline_code
    if weather.declines:
        return DECLINED, "card_declined"
    return (PENDING if behaviour.manner is Manner.PENDING else SUCCEEDED), None
