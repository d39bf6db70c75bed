"""The simulated PSP's admin interface: the dial, the books, and what a cardholder, a bank or the time would do."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from coatcheck.simulator.bodies import (
    PayBody,
    Query,
    Settlement,
    WebhookBody,
    check_address,
    read,
    read_token,
    whole_number,
)
from coatcheck.simulator.chaos import Chaos, Dial
from coatcheck.simulator.records import CHARGE_STATUSES, DECLINED, FAILED, PAID, Refusal, Session
from coatcheck.simulator.replies import Reply, encode

if TYPE_CHECKING:
    from coatcheck.simulator.bank import Bank
    from coatcheck.simulator.webhooks import Courier

MAX_PAGE = 1_000
_ACCOUNT = "coatcheck"
_MODES = frozenset({"test", "live"})

_decode_dial = msgspec.json.Decoder(Dial).decode
_decode_settlement = msgspec.json.Decoder(Settlement).decode
_decode_pay = msgspec.json.Decoder(PayBody).decode
_decode_webhook = msgspec.json.Decoder(WebhookBody).decode


class Admin:
    """Answers what is asked under /admin/. `on_reset` forgets what the application itself keeps."""

    def __init__(self, bank: "Bank", chaos: Chaos, courier: "Courier", on_reset: Callable[[], None]) -> None:
        self._bank = bank
        self._chaos = chaos
        self._courier = courier
        self._on_reset = on_reset
        self._routes: dict[tuple[bytes, str], Callable[[Query, bytes], Reply]] = {
            (b"GET", "/admin/chaos"): lambda _query, _body: Reply(200, encode(chaos.dial)),
            (b"PUT", "/admin/chaos"): self._turn_dial,
            (b"GET", "/admin/books"): lambda _query, _body: Reply(200, encode(bank.books())),
            (b"GET", "/admin/charges"): self._page_charges,
            (b"GET", "/admin/actions"): self._page_actions,
            (b"GET", "/admin/disputes"): self._page_disputes,
            (b"POST", "/admin/disputes"): lambda _query, body: Reply(200, encode(bank.disputes.open(body))),
            (b"GET", "/admin/payouts"): self._page_payouts,
            (b"GET", "/admin/references"): self._list_references,
            (b"GET", "/admin/webhooks"): lambda _query, _body: Reply(200, encode(courier.counts())),
            (b"PUT", "/admin/webhooks"): self._set_webhooks,
            (b"POST", "/admin/close-batches"): self._close_batches,
            (b"POST", "/admin/forget-keys"): self._forget_keys,
            (b"POST", "/admin/reset"): self._reset,
        }
        self._named: dict[str, Callable[[str, bytes], object]] = {
            "settle": self._settle,
            "fail-refund": lambda name, _body: bank.fail_refund(name),
            "return": lambda name, _body: bank.payouts.send_back(name),
            "expire": self._expire,
            "dispute": lambda name, _body: bank.disputes.open_whole(name),
        }

    def handle(self, method: bytes, path: str, query: Query, body: bytes) -> Reply:
        """Answer one request. Raises Refusal."""
        answer = self._routes.get((method, path))
        if answer is not None:
            return answer(query, body)
        if any(path == known for _, known in self._routes):
            raise Refusal(405, "method_not_allowed", "This address does not take that method.")
        match path.split("/")[2:]:
            case [verb, name] if verb in self._named:
                act = self._named[verb]
            case ["sessions", name, "pay"]:
                act = self._pay
            case ["sessions", name, "cancel"]:
                act = self._cancel
            case ["disputes", name, change]:
                act = partial(self._change_dispute, change)
            case _:
                raise Refusal(404, "not_found", "There is nothing at this address.")
        if method != b"POST":
            raise Refusal(405, "method_not_allowed", "This address does not take that method.")
        return Reply(200, encode(act(name, body)))

    def _turn_dial(self, _query: Query, body: bytes) -> Reply:
        self._chaos.set(read(_decode_dial, body))
        return Reply(200, encode(self._chaos.dial))

    def _page_charges(self, query: Query, _body: bytes) -> Reply:
        return _page(query, self._bank.page, self._bank.charge_count)

    def _page_actions(self, query: Query, _body: bytes) -> Reply:
        return _page(query, self._bank.page_actions, self._bank.action_count)

    def _page_disputes(self, query: Query, _body: bytes) -> Reply:
        return _page(query, self._bank.disputes.page, self._bank.disputes.count)

    def _change_dispute(self, verb: str, name: str, body: bytes) -> object:
        return self._bank.disputes.change(name, verb, body)

    def _page_payouts(self, query: Query, _body: bytes) -> Reply:
        return _page(query, self._bank.payouts.page, self._bank.payouts.count)

    def _list_references(self, query: Query, _body: bytes) -> Reply:
        status = query.get("status", [None])[0]
        if status is not None and status not in CHARGE_STATUSES:
            raise Refusal(400, "invalid_request", f"status is one of {', '.join(CHARGE_STATUSES)}.")
        return Reply(200, encode(self._bank.references(status)))

    def _set_webhooks(self, _query: Query, body: bytes) -> Reply:
        wanted = read(_decode_webhook, body)
        if wanted.url is not None:
            check_address(wanted.url, "url")
        if wanted.secret == "":
            raise Refusal(400, "invalid_request", "secret is not empty.")
        self._courier.send_to(wanted.url, wanted.secret)
        return Reply(200, encode({"url": wanted.url}))

    def _close_batches(self, query: Query, _body: bytes) -> Reply:
        account, mode = query.get("account", [_ACCOUNT])[0], query.get("mode", ["test"])[0]
        if mode not in _MODES:
            raise Refusal(400, "invalid_request", "mode is test or live.")
        merchant = self._bank.merchant(account, is_live=mode == "live")
        return Reply(200, encode({"data": self._bank.close_batches(merchant)}))

    def _forget_keys(self, _query: Query, _body: bytes) -> Reply:
        return Reply(200, encode({"forgotten": self._bank.forget_keys()}))

    def _reset(self, _query: Query, _body: bytes) -> Reply:
        self._bank.reset()
        self._chaos.set(self._chaos.dial)
        self._courier.forget()
        self._on_reset()
        return Reply(200, b'{"status":"ok"}')

    def _settle(self, name: str, body: bytes) -> object:
        settlement = read(_decode_settlement, body)
        if name.startswith("po_"):
            if settlement.status == DECLINED:
                raise Refusal(400, "invalid_request", "A payout is settled as succeeded or failed.")
            return self._bank.payouts.settle(name, FAILED if settlement.status == FAILED else PAID)
        if name.startswith("re_"):
            if settlement.status == DECLINED:
                raise Refusal(400, "invalid_request", "A refund is settled as succeeded or failed.")
            return self._bank.settle_refund(name, settlement.status)
        if settlement.status == FAILED:
            raise Refusal(400, "invalid_request", "A charge is settled as succeeded or declined.")
        code = (settlement.decline_code or "card_declined") if settlement.status == DECLINED else None
        return self._bank.settle(name, settlement.status, code)

    def _expire(self, name: str, _body: bytes) -> object:
        if name.startswith("cs_"):
            return self._view(self._bank.sessions.expire(name))
        return self._bank.expire(name)

    def _pay(self, name: str, body: bytes) -> object:
        wanted = read(_decode_pay, body) if body else PayBody()
        return self._view(self._bank.sessions.pay(name, read_token(wanted.token)))

    def _cancel(self, name: str, _body: bytes) -> object:
        return self._view(self._bank.sessions.cancel(name))

    def _view(self, session: Session) -> object:
        return self._bank.sessions.view(session)


def _page(query: Query, page: Callable[[int, int], Sequence[msgspec.Struct]], count: int) -> Reply:
    start, limit = whole_number(query, "cursor", 0), whole_number(query, "limit", 100)
    shown = page(start, min(max(limit, 1), MAX_PAGE))
    end = start + len(shown)
    return Reply(200, encode({"data": shown, "next_cursor": str(end) if end < count else None}))
