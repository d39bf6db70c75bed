"""The PSP of the simulation: the simulator's own bank, chaos and HTTP application, on the world's clock, no sockets.

What it does wrong depends on the seed, the key and which sending of it this is, never on who comes first. It keeps a
diary of what it was asked and what it answered, which the judge reads.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aiohttp
import msgspec
from tests.simulation.life import Life
from yarl import URL

from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Intent
from coatcheck.providers.simulated import SimulatedProvider
from coatcheck.providers.simulated_answers import Raw
from coatcheck.providers.transport import outcome_of_exception
from coatcheck.simulator.app import App, Reply
from coatcheck.simulator.bank import PENDING, SUCCEEDED, Bank, Refusal
from coatcheck.simulator.chaos import Chaos, Dial
from coatcheck.simulator.records import AUTHORIZED, FAILED, REFUND, Charge, Happening, SessionView
from coatcheck.simulator.tokens import behaviour_of
from coatcheck.simulator.webhooks import DEFAULT_SECRET, SIGNATURE_HEADER, event_of, sign

WINDOW: Final = timedelta(hours=24)
CALL_DEADLINE_S: Final = 10
API_KEY: Final = "sk_sim_test_coatcheck"
_HEADERS: Final = {b"authorization": f"Bearer {API_KEY}".encode()}
_FAULTS_AT_MOST: Final = 4  # of the ones drawn here; the chaos dial has a bound of its own

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How bad it is. Shares of all sendings: `refused` connections, calls that `hang` until long after their lease.

    Shares per wave: authorizations that `lapse` before their time, refunds that `return` from the buyer's bank.
    """

    dial: Dial
    refused: float
    hang: float
    lapse: float
    returned: float


STORMY = Weather(
    dial=Dial(
        drop_after_charge_share=0.06,
        error_before_share=0.03,
        error_after_share=0.04,
        rate_limit_share=0.02,
        retry_after_s=7,
        slow_share=0.02,
        slow_ms=20_000,
        decline_share=0.03,
        look_up_error_share=0.03,
        search_lag_ms=45_000,
        max_faults_per_key=4,
        webhook_lost_share=0.5,
        webhook_duplicate_share=0.1,
        webhook_late_share=0.2,
        webhook_reorder_share=0.1,
        webhook_forged_share=0.02,
        webhook_wrong_amount_share=0.01,
    ),
    refused=0.03,
    hang=0.03,
    lapse=0.02,
    returned=0.006,
)


@dataclass(slots=True)
class Entry:
    """What the PSP knows of one reference. `told`: the decisions it truthfully answered with, or sent as an event."""

    first_at: float = 0.0
    sendings: int = 0
    look_ups: int = 0
    lies: int = 0
    told: set[OutcomeKind] = field(default_factory=set)
    last_look_up_at: float | None = None
    log: list[str] = field(default_factory=list)


class Psp:
    """One PSP for all gateways. `remembers_errors`: an error after execution is stored under the key (hazard A4), else
    only successful answers are (hazard A5)."""

    def __init__(self, clock: Callable[[], float], seed: int, weather: Weather, *, remembers_errors: bool) -> None:
        self.remembers_errors = remembers_errors
        self.bank = Bank(clock=clock, key_window_s=WINDOW.total_seconds())
        self.diary: dict[str, Entry] = {}
        self.hanging: dict[asyncio.Task[Any], asyncio.Future[None]] = {}
        self.hung = 0
        self.refused = 0
        self.lapsed: set[str] = set()  # references of authorizations that ended before their time
        self._clock = clock
        self._seed = seed
        self._weather = weather
        self.chaos = Chaos(msgspec.structs.replace(weather.dial, seed=seed))
        self._app = App(self.bank, self.chaos, cache_errors=remembers_errors, slow_s=2 * CALL_DEADLINE_S)
        self.post = PostOffice(self, self.chaos)
        self.bank.tell = self.post.take

    def entry(self, reference: str) -> Entry:
        """Open the diary at a reference."""
        found = self.diary.get(reference)
        if found is None:
            found = self.diary[reference] = Entry(first_at=self._clock())
        return found

    def release(self, share: float = 1.0) -> None:
        """Let calls go on that hung; whoever made them has long lost its lease."""
        dice = random.Random(f"release {self._seed} {self.hung}")
        for caller, waiting in list(self.hanging.items()):
            if dice.random() < share:
                del self.hanging[caller]  # from now on it is busy, not hanging
                if not waiting.done():
                    waiting.set_result(None)

    # what happens there without being asked

    def let_time_work(self, share: float, *, is_ending: bool) -> int:
        """Decide a share of what is pending, let a few authorizations lapse and refunds come back.

        Returns how much is still pending.
        """
        dice = random.Random(f"settle {self._seed} {self._clock()}")
        left = self._settle_charges(dice, share, is_ending=is_ending) + self._settle_refunds(dice, share)
        if not is_ending:
            self._return_refunds(dice)
        return left

    def _settle_charges(self, dice: random.Random, share: float, *, is_ending: bool) -> int:
        left = 0
        for charge in self.bank.page(0, self.bank.charge_count):
            if charge.status == AUTHORIZED and not is_ending and dice.random() < self._weather.lapse:
                self.bank.expire(charge.id)
                self.lapsed.add(charge.reference)
            elif charge.status == PENDING and dice.random() >= share:
                left += 1
            elif charge.status == PENDING and dice.random() < 0.8:
                self.bank.settle(charge.id, SUCCEEDED)
            elif charge.status == PENDING:
                self.bank.settle(charge.id, "declined", "authentication_required")
        return left

    def _settle_refunds(self, dice: random.Random, share: float) -> int:
        left = 0
        for action in self.bank.page_actions(0, self.bank.action_count):
            if (action.object, action.status) == (REFUND, PENDING):
                if dice.random() >= share:
                    left += 1
                else:
                    self.bank.settle_refund(action.id, SUCCEEDED if dice.random() < 0.7 else FAILED)
        return left

    def _return_refunds(self, dice: random.Random) -> None:
        for action in self.bank.page_actions(0, self.bank.action_count):
            is_refunded = (action.object, action.status) == (REFUND, SUCCEEDED)
            if is_refunded and dice.random() < self._weather.returned:
                self.bank.fail_refund(action.id)

    def visit(self, session_id: str, draw: float) -> str:
        """Let the buyer come to a page: he pays, is declined, gives up, or is too late."""
        try:
            return self._at_the_page(session_id, draw)
        except Refusal as refusal:
            return refusal.code

    def _at_the_page(self, session_id: str, draw: float) -> str:
        sessions = self.bank.sessions
        token = "tok_pending" if draw < 0.08 else "tok_decline_card_declined" if draw < 0.2 else "tok_approve"
        if draw > 0.92:
            sessions.cancel(session_id)
            return "cancelled"
        behaviour = behaviour_of(token)
        assert behaviour is not None
        sessions.pay(session_id, behaviour)
        if 0.08 <= draw < 0.14:  # another card
            sessions.pay(session_id)
        elif 0.14 <= draw < 0.17:
            sessions.cancel(session_id)
        return token

    def pages(self) -> list[SessionView]:
        """List every page that was ever opened."""
        sessions = self.bank.sessions
        return [sessions.view(session) for session in sessions._sessions]

    # what it is asked

    async def take(self, path: str, body: bytes, key: str, caller: asyncio.Task[Any] | None) -> Raw | Outcome:
        """Take what moves money over the wire, with what the weather makes of it. No caller: it cannot hang."""
        entry = self.entry(key)
        entry.sendings += 1
        dice = random.Random(f"{self._seed}/{key}/{entry.sendings}")
        draw = dice.random() if entry.sendings <= _FAULTS_AT_MOST else 1.0
        if draw < self._weather.refused:
            self.refused += 1
            self._log(entry, "refused the connection")
            return outcome_of_exception(ConnectionRefusedError())
        hangs = caller is not None and draw < self._weather.refused + self._weather.hang
        # A request that arrives late is harmless only where the key is sure to be known.
        is_young = self._clock() - entry.first_at < WINDOW.total_seconds() / 2
        hangs_before = hangs and is_young and self.remembers_errors and dice.random() < 0.5
        if hangs_before:
            self._log(entry, "hangs before it is done")
            await self._hang(caller)
        headers = {**_HEADERS, b"idempotency-key": key.encode()}
        reply = self._app.handle(b"POST", path.encode(), headers, body)
        self._log(entry, f"{path}: HTTP {reply.status}, after {reply.delay_s} s, dropped={reply.is_dropped}")
        if hangs and not hangs_before:
            await self._hang(caller)
        return _broken(reply) or _raw(reply)

    async def answer(self, target: str) -> Raw | Outcome:
        """Answer a question."""
        reply = self._app.handle(b"GET", target.encode(), _HEADERS, b"")
        return _broken(reply) or _raw(reply)

    def note(self, intent: Intent, outcome: Outcome, *, is_look_up: bool = False) -> Outcome:
        """Write down what a gateway heard about an intent, and whether it was the truth."""
        entry = self.entry(intent.reference)
        if is_look_up:
            entry.look_ups += 1
            self._log(entry, f"look-up: {outcome.kind} {outcome.cause or ''} {outcome.evidence or ''}")
            if outcome.kind is not OutcomeKind.UNKNOWN:
                entry.last_look_up_at = self._clock()
        if outcome.kind.is_definite:
            if self._is_true(intent, outcome):
                entry.told.add(outcome.kind)
            else:
                entry.lies += 1
        return outcome

    def _is_true(self, intent: Intent, outcome: Outcome) -> bool:
        """Only charges are ever lied about; a refusal names no amount."""
        if not intent.kind.starts_an_order or intent.is_hosted or outcome.amount_minor is None:
            return True
        made = self.bank.search(self.bank.merchant("coatcheck", is_live=False), intent.reference)
        said = (outcome.amount_minor, outcome.currency, outcome.reference, outcome.is_live)
        return said in {(charge.amount, charge.currency, charge.reference, charge.livemode) for charge in made}

    def tell(self, reference: str, kind: OutcomeKind) -> None:
        """Write down what an event said, truthfully."""
        entry = self.entry(reference)
        entry.told.add(kind)
        self._log(entry, f"told by an event: {kind}")

    def _log(self, entry: Entry, what: str) -> None:
        entry.log.append(f"{datetime.fromtimestamp(self._clock(), UTC)} {what}")

    async def _hang(self, caller: asyncio.Task[Any] | None) -> None:
        assert caller is not None
        self.hung += 1
        waiting = self.hanging[caller] = asyncio.get_running_loop().create_future()
        try:
            await waiting
        finally:
            self.hanging.pop(caller, None)


_TOLD: Final = {
    SUCCEEDED: OutcomeKind.APPROVED,
    AUTHORIZED: OutcomeKind.APPROVED,
    "declined": OutcomeKind.DECLINED,
    "voided": OutcomeKind.DECLINED,
    "expired": OutcomeKind.DECLINED,
    FAILED: OutcomeKind.DECLINED,
    "cancelled": OutcomeKind.DECLINED,
}


@dataclass(frozen=True, slots=True)
class Letter:
    """One event on its way. `says`: what it decides about which reference, nothing where it is false."""

    body: bytes
    says: Mapping[str, OutcomeKind]
    is_forged: bool = False


class PostOffice:
    """Events to the gateways, with the fate the chaos dial has for each: lost, twice, late, out of order, forged.

    That a refund came back is never lost: nobody asks about those again before a settlement file comes.
    """

    def __init__(self, psp: Psp, chaos: Chaos) -> None:
        self.letters: list[Letter] = []
        self._late: list[Letter] = []
        self._psp = psp
        self._chaos = chaos

    def take(self, happening: Happening) -> None:
        """Write letters about what happened."""
        fate = self._chaos.of_event(happening.type, happening.thing.reference)
        letter = Letter(_encode(event_of(happening)), _says(happening))
        if fate.has_forgery:
            self._count("forged")
            self.letters.append(Letter(letter.body.replace(b'"amount":', b'"amount":9'), {}, is_forged=True))
        if fate.has_wrong_amount and not isinstance(happening.thing, SessionView):
            self._count("wrong_amount")
            wrong = msgspec.structs.replace(happening.thing, amount=happening.thing.amount + 1)
            event = event_of(msgspec.structs.replace(happening, thing=wrong), "/wrong-amount")
            self.letters.append(Letter(_encode(event), {}))
        if fate.is_lost and happening.type != "refund.failed":
            self._count("lost")
            return
        self._count("sent")
        (self._late if fate.is_late else self.letters).append(letter)
        if fate.is_duplicated:
            self._count("duplicated")
            self._late.append(letter)
        if fate.is_held_back and len(self.letters) > 1:
            self._count("reordered")
            self.letters[-2:] = reversed(self.letters[-2:])

    def collect(self) -> list[Letter]:
        """Take what is ready out of the box."""
        ready, self.letters = self.letters, []
        return ready

    def bring_late(self) -> None:
        """Let what was late be ready."""
        self.letters.extend(self._late)
        self._late = []

    def sign(self, letter: Letter, at: float) -> dict[str, str]:
        """Make the headers that a letter is posted with."""
        secret = f"{DEFAULT_SECRET} of somebody else" if letter.is_forged else DEFAULT_SECRET
        return {SIGNATURE_HEADER.lower(): sign(secret, letter.body, int(at))}

    def delivered(self, letter: Letter) -> None:
        """Note that a gateway has taken a letter."""
        for reference, kind in letter.says.items():
            self._psp.tell(reference, kind)

    def _count(self, fate: str) -> None:
        self._psp.bank.faults[f"event {fate}"] += 1


def _says(happening: Happening) -> dict[str, OutcomeKind]:
    thing = happening.thing
    if isinstance(thing, Charge) and thing.status == SUCCEEDED and thing.amount_captured < thing.amount:
        return {thing.reference: OutcomeKind.DECLINED}  # a part was captured, and the rest is let go
    if not isinstance(thing, SessionView):
        kind = _TOLD.get(thing.status)
        return {} if kind is None else {thing.reference: kind}
    says = {}
    for entry in thing.charges:
        kind = _TOLD.get(thing.status if entry.charge is None else entry.charge.status)
        if kind is not None:
            says[entry.reference] = kind
    return says


class PspLine(SimulatedProvider):
    """One gateway's line to the PSP: the simulator's adapter with its transport replaced by a call.

    `workers`: the tasks that may hang there without holding anybody else up.
    """

    def __init__(self, psp: Psp, life: Life) -> None:
        super().__init__("http://psp.invalid", API_KEY, idempotency_window=WINDOW, replays_errors=psp.remembers_errors)
        self.workers: set[asyncio.Task[Any]] = set()
        self._psp = psp
        self._life = life

    async def register(self, intent: Intent) -> Outcome:
        """Make a page, and keep what was answered."""
        return self._psp.note(intent, await super().register(intent))

    async def send(self, intent: Intent) -> Outcome:
        """Ask for what the intent says, and keep what was answered."""
        return self._psp.note(intent, await super().send(intent))

    async def look_up(self, intent: Intent) -> Outcome:
        """Ask what became of an intent, and keep what was answered."""
        return self._psp.note(intent, await super().look_up(intent), is_look_up=True)

    async def _post(self, url: URL, body: bytes, key: str) -> Raw | Outcome:
        task = asyncio.current_task()
        caller = task if task in self.workers else None
        return await self._life.outside(lambda: self._psp.take(url.raw_path, body, key, caller))

    async def _get(self, url: URL) -> Raw | Outcome:
        return await self._life.outside(lambda: self._psp.answer(url.raw_path_qs))


def _broken(reply: Reply) -> Outcome | None:
    """Say what the client sees instead of the reply, if the line does not hold so long."""
    if reply.is_dropped:
        return outcome_of_exception(aiohttp.ServerDisconnectedError())
    return outcome_of_exception(TimeoutError()) if reply.delay_s > CALL_DEADLINE_S else None


def _raw(reply: Reply) -> Raw:
    headers = dict(line.split(": ", 1) for line in reply.headers.decode().splitlines())
    is_json = headers["content-type"] == "application/json"
    return Raw(reply.status, is_json, headers.get("retry-after"), reply.body)
