"""The other side of the gateway's lines: the simulator's own application, without sockets, on the cell's clock."""

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
from yarl import URL

from coatcheck.clock import ManualClock
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Intent
from coatcheck.providers.simulated import SimulatedProvider
from coatcheck.providers.simulated_answers import Raw
from coatcheck.providers.transport import outcome_of_exception
from coatcheck.simulator.app import App
from coatcheck.simulator.bank import Bank
from coatcheck.simulator.chaos import Chaos, Dial
from coatcheck.simulator.records import SUCCEEDED, Charge, Happening
from coatcheck.simulator.tokens import Manner
from coatcheck.simulator.webhooks import DEFAULT_SECRET, SIGNATURE_HEADER, event_of, sign

if TYPE_CHECKING:
    from tests.failpoints.stage import Process

API_KEY: Final = "sk_sim_test_coatcheck"
_HEADERS: Final = {b"authorization": f"Bearer {API_KEY}".encode()}
DECLINES_CAPTURES_OF: Final = 2222  # an authorization of this amount has its captures declined


class Psp:
    """One PSP for all gateways of a cell. It keeps its own books, and every event it would send."""

    def __init__(self, clock: ManualClock) -> None:
        self.bank = Bank(clock=lambda: clock.now().timestamp(), key_window_s=86_400)
        self.refuses = 0  # so many of the next requests find nobody listening
        self.loses = 0  # so many of the next answers get lost
        self.says_lapsed = False  # look-ups lie: whatever is asked about is said to be over
        self.letters: list[bytes] = []
        self._clock = clock
        self._app = App(self.bank, Chaos(Dial()), cache_errors=True, slow_s=0)
        self.bank.tell = self._tell

    def take(self, method: str, url: URL, body: bytes = b"", key: str | None = None) -> Raw | Outcome:
        """Answer one request."""
        if self.refuses and method == "POST":
            self.refuses -= 1
            return outcome_of_exception(ConnectionRefusedError())
        headers = _HEADERS if key is None else {**_HEADERS, b"idempotency-key": key.encode()}
        reply = self._app.handle(method.encode(), url.raw_path_qs.encode(), headers, body)
        if self.loses and method == "POST":
            self.loses -= 1
            return outcome_of_exception(TimeoutError())
        return Raw(reply.status, b"application/json" in reply.headers, None, reply.body)

    def sign(self, letter: bytes) -> dict[str, str]:
        """Make the headers that a letter is posted with now."""
        return {SIGNATURE_HEADER.lower(): sign(DEFAULT_SECRET, letter, int(self._clock.now().timestamp()))}

    def charges(self) -> list[Charge]:
        """List every charge that was made."""
        return list(self.bank.page(0, self.bank.charge_count))

    def pay_page(self) -> None:
        """Let the buyer pay the only page."""
        (session,) = self.bank.sessions._sessions
        self.bank.sessions.pay(session.id)

    def settle_pending(self) -> None:
        """Let the PSP decide for what is pending there."""
        for charge in self.charges():
            self.bank.settle(charge.id, SUCCEEDED)

    def books(self) -> dict[str, list[Any]]:
        """Sum up the money: what was charged or reserved, and what was done to it. Refusals move none."""
        charges = [
            (charge.reference, charge.status, charge.amount, charge.amount_captured, charge.amount_refunded)
            for charge in self.charges()
        ]
        actions = [
            (action.reference, action.object, action.amount, action.status)
            for action in self.bank.page_actions(0, self.bank.action_count)
        ]
        payouts = [
            (payout.reference, payout.destination, payout.amount, payout.status)
            for payout in self.bank.payouts.page(0, self.bank.payouts.count)
        ]
        return {"charges": sorted(charges), "actions": sorted(actions), "payouts": sorted(payouts)}

    def _tell(self, happening: Happening) -> None:
        thing = happening.thing
        if isinstance(thing, Charge) and thing.amount == DECLINES_CAPTURES_OF:
            self.bank._manners[thing.id] = Manner.CAPTURE_DECLINED.value
        self.letters.append(msgspec.json.encode(event_of(happening)))

    def write_about_more(self) -> None:
        """Change the letters: each is now about one minor unit more."""
        self.letters = [letter.replace(b'"amount":', b'"amount":1') for letter in self.letters]


class Line(SimulatedProvider):
    """A gateway process's line to the PSP: it ends with the process's life."""

    def __init__(self, psp: Psp, process: "Process") -> None:
        super().__init__("http://psp.example", API_KEY, idempotency_window=timedelta(hours=24))
        self._psp = psp
        self._process = process

    async def look_up(self, intent: Intent) -> Outcome:
        """Ask what became of an intent."""
        outcome = await super().look_up(intent)
        if self._psp.says_lapsed and outcome.kind is not OutcomeKind.UNKNOWN:
            return Outcome(
                kind=OutcomeKind.DECLINED, decline_code="expired", is_cancelled=True, reference=intent.reference
            )
        return outcome

    async def _post(self, url: URL, body: bytes, key: str) -> Raw | Outcome:
        return await self._process.call(lambda: self._psp.take("POST", url, body, key))

    async def _get(self, url: URL) -> Raw | Outcome:
        return await self._process.call(lambda: self._psp.take("GET", url))


class TwoStepLine(Line):
    """The same PSP with an object that is made before money moves, as Stripe has it."""

    def __init__(self, psp: Psp, process: "Process") -> None:
        super().__init__(psp, process)
        self.capabilities = replace(self.capabilities, registers_first=True)

    async def register(self, intent: Intent) -> Outcome:
        """Make the object."""
        made = Outcome(kind=OutcomeKind.NOT_SENT, provider_reference=f"pi_{intent.reference}")
        answer = await self._process.call(lambda: made)
        assert isinstance(answer, Outcome)
        return answer

    async def send(self, intent: Intent) -> Outcome:
        """Send what the object stands for."""
        return _of_object(intent, await super().send(msgspec.structs.replace(intent, provider_reference=None)))

    async def look_up(self, intent: Intent) -> Outcome:
        """Ask by our reference."""
        return _of_object(intent, await super().look_up(msgspec.structs.replace(intent, provider_reference=None)))


def _of_object(intent: Intent, outcome: Outcome) -> Outcome:
    if outcome.provider_reference is None:
        return outcome
    return msgspec.structs.replace(outcome, provider_reference=intent.provider_reference)
