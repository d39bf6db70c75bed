"""A simulated PSP without sockets for tests: its clock stands still, its changes are kept, its events are heard."""

from typing import TYPE_CHECKING, Any

import msgspec

from coatcheck.simulator.app import App, Reply
from coatcheck.simulator.bank import Bank, Entry
from coatcheck.simulator.chaos import Chaos, Dial

if TYPE_CHECKING:
    from coatcheck.simulator.records import Happening

START = 1_000_000.0
KEY_WINDOW_S = 10_000_000


class Desk:
    """Asks a PSP and reads its answers. Each request has a key of its own unless the test names one."""

    def __init__(self, *, dial: Dial | None = None, cache_errors: bool = True) -> None:
        self.time = START
        self.entries: list[Entry] = []
        self.told: list[Happening] = []
        self.bank = self.new_bank()
        self.bank.record = self.entries.append
        self.bank.tell = self.told.append
        self.app = App(self.bank, Chaos(dial or Dial()), cache_errors=cache_errors, slow_s=3)
        self._keys = 0

    def new_bank(self) -> Bank:
        return Bank(clock=lambda: self.time, key_window_s=KEY_WINDOW_S)

    def send(
        self, method: str, target: str, body: object = None, *, key: str | None = None, account: str = "test_shop"
    ) -> Reply:
        self._keys += 1
        headers = {
            b"authorization": f"Bearer sk_sim_{account}".encode(),
            b"idempotency-key": (key or f"key_{self._keys}").encode(),
            b"host": b"psp.example:8090",
        }
        raw = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        return self.app.handle(method.encode(), target.encode(), headers, raw)

    def post(self, target: str, body: object = None, *, key: str | None = None) -> Any:
        """What is made by a request that must be taken."""
        reply = self.send("POST", target, body, key=key)
        assert reply.status in (200, 201), reply.body
        return content(reply)

    def get(self, target: str) -> Any:
        reply = self.send("GET", target)
        assert reply.status == 200, reply.body
        return content(reply)

    def refusal(self, target: str, body: object = None) -> tuple[int, str]:
        reply = self.send("POST", target, body)
        return reply.status, content(reply)["code"]

    def charge(
        self, token: str = "tok_approve", *, reference: str = "op_1", amount: int = 1000, capture: bool = True
    ) -> str:
        """Charge a card; the id of what was made."""
        body = {"amount": amount, "currency": "EUR", "token": token, "reference": reference, "capture": capture}
        return str(self.post("/v1/charges", body)["id"])

    def authorize(self, token: str = "tok_approve", *, reference: str = "op_1") -> str:
        return self.charge(token, reference=reference, capture=False)

    def session(self, *, reference: str = "cart_1", entries: int = 2, capture: bool = True) -> Any:
        charges = [
            {"reference": f"{reference}_{number}", "amount": 1000 + number, "currency": "EUR", "capture": capture}
            for number in range(entries)
        ]
        body = {"reference": reference, "return_url": "https://shop.example/back?cart=7#top", "charges": charges}
        return self.post("/v1/sessions", body)

    def heard(self) -> list[str]:
        return [happening.type for happening in self.told]

    def rebuilt(self) -> Bank:
        """A bank made of what the journal would hold."""
        bank = self.new_bank()
        for line in [msgspec.json.encode(entry) for entry in self.entries]:
            bank.apply(msgspec.json.decode(line, type=Entry))
        return bank


def content(reply: Reply) -> Any:
    return msgspec.json.decode(reply.body)
