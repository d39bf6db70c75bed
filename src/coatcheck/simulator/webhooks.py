"""Events to the merchant's webhook: signed, at least once, retried with back-off, in no promised order.

The queue is in memory. Nothing here waits on the way of a charge: an event is queued and goes out in the background.
"""

import asyncio
import hashlib
import hmac
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from coatcheck.simulator.chaos import Chaos
from coatcheck.simulator.records import Answer, Dispute, Happening, Payout, SessionView

if TYPE_CHECKING:
    from coatcheck.simulator.bank import Bank

DEFAULT_SECRET = "whsec_simulator"  # noqa: S105 - documented: whoever runs a simulator may sign its events
SIGNATURE_HEADER = "Simulator-Signature"
AT_ONCE = 64  # with fewer, a merchant who answers in a third of a second would get a busy hour's events hours late
MAX_TRIES = 20
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0
DEADLINE_S = 10
HELD_BACK_AT_MOST_S = 2.0  # if no next event comes


class _Data(msgspec.Struct, frozen=True):
    object: Answer


class Event(msgspec.Struct, frozen=True):
    """An event, as it is posted."""

    id: str
    type: str
    created: int
    livemode: bool
    account: str
    data: _Data


class _Delivery:
    """One body on its way. `followers` are held back until its first try is over."""

    __slots__ = ("body", "epoch", "followers", "is_forged", "tries")

    def __init__(self, body: bytes, epoch: int, *, is_forged: bool = False) -> None:
        self.body = body
        self.epoch = epoch
        self.is_forged = is_forged
        self.followers: list[_Delivery] = []
        self.tries = 0


_encode = msgspec.json.Encoder().encode


def sign(secret: str, body: bytes, at: int) -> str:
    """Make the signature header of a body: HMAC-SHA256 over the Unix second, a dot and the body."""
    digest = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def event_of(happening: Happening, mark: str = "") -> Event:
    """Make out an event. Its id comes from what happened: the same journal read again gives the same id."""
    thing = happening.thing
    name = f"{happening.type}/{thing.id}/{happening.serial}{mark}".encode()
    return Event(
        id="evt_" + hashlib.blake2b(name, digest_size=12).hexdigest(),
        type=happening.type,
        created=int(happening.at),
        livemode=thing.livemode,
        account=happening.account,
        data=_Data(thing),
    )


def _with_more(thing: Answer) -> Answer:
    """Say one minor unit more than the truth."""
    if isinstance(thing, SessionView):
        charges = tuple(msgspec.structs.replace(item, amount=item.amount + 1) for item in thing.charges)
        return msgspec.structs.replace(thing, charges=charges)
    return msgspec.structs.replace(thing, amount=thing.amount + 1)


def _false(happening: Happening) -> Happening:
    """Say the opposite of what happened, for a hundred times the amount where there is one."""
    noun, _, verb = happening.type.partition(".")
    verb = "succeeded" if verb != "succeeded" else "declined" if noun == "charge" else "failed"
    thing = happening.thing
    if isinstance(thing, Dispute):  # a merchant who believed it would get his money back
        won = msgspec.structs.replace(thing, status="won", movements=())
        return msgspec.structs.replace(happening, type="dispute.closed", thing=won)
    if isinstance(thing, Payout):
        verb = "failed" if happening.type == "payout.paid" else "paid"
    if isinstance(thing, SessionView):
        verb = "completed" if happening.type != "session.completed" else "cancelled"
        false: Answer = msgspec.structs.replace(thing, status=verb)
    else:
        false = msgspec.structs.replace(thing, status=verb, amount=thing.amount * 100)
    return msgspec.structs.replace(happening, type=f"{noun}.{verb}", thing=false)


class Courier:
    """Queues events and posts them, up to 64 at once. Off until it has an address."""

    def __init__(self, bank: "Bank", chaos: Chaos, *, clock: Callable[[], float] = time.time) -> None:
        self._bank = bank
        self._chaos = chaos
        self._clock = clock
        self._url: str | None = None
        self._secret = DEFAULT_SECRET
        self._session: aiohttp.ClientSession | None = None
        self._ready: deque[_Delivery] = deque()
        self._held: list[_Delivery] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._epoch = 0  # what was queued in an earlier one is not sent any more
        self._clear_counts()

    def _clear_counts(self) -> None:
        self._sent = self._delivered = self._failed = 0

    def send_to(self, url: str | None, secret: str | None = None) -> None:
        """Send events to an address from now on, what is queued too; None turns them off and gives up the queue."""
        self._url = url
        self._secret = secret or self._secret
        self._bank.tell = self.tell if url is not None else None
        if url is None:
            self._failed += self._pending
            self._drop_queue()

    def forget(self) -> None:
        """Forget the queue and the counts."""
        self._drop_queue()
        self._clear_counts()

    def _drop_queue(self) -> None:
        self._epoch += 1
        self._ready.clear()
        self._held.clear()

    @property
    def _pending(self) -> int:
        return self._sent - self._delivered - self._failed

    def counts(self) -> dict[str, int]:
        """Count deliveries, duplicates among them, forgeries not; `failed` were given up."""
        return {
            "sent": self._sent,
            "delivered": self._delivered,
            "failed": self._failed,
            "pending": self._pending,
        }

    def tell(self, happening: Happening) -> None:
        """Queue an event, with what the chaos dial has in store for it."""
        fate = self._chaos.of_event(happening.type, happening.thing.reference)
        body = _encode(event_of(happening))
        if fate.has_forgery:
            self._count("webhook_forged")
            self._put(_Delivery(_encode(event_of(_false(happening), "/forged")), self._epoch, is_forged=True))
        if fate.has_wrong_amount:
            self._count("webhook_wrong_amount")
            wrong = msgspec.structs.replace(happening, thing=_with_more(happening.thing))
            self._put(self._new(_encode(event_of(wrong, "/wrong-amount"))))
        if fate.is_lost:
            self._count("webhook_lost")
            return
        if fate.is_duplicated:
            self._count("webhook_duplicated")
            self._put(self._new(body))
        delivery = self._new(body)
        if fate.is_held_back:
            self._count("webhook_reordered")
            self._hold_back(delivery)
        elif fate.is_late:
            self._count("webhook_late")
            self._put_later(self._chaos.dial.webhook_late_ms / 1000, delivery)
        else:
            delivery.followers, self._held = self._held, []
            self._put(delivery)

    def _count(self, fault: str) -> None:
        self._bank.faults[fault] += 1

    def _new(self, body: bytes) -> _Delivery:
        self._sent += 1
        return _Delivery(body, self._epoch)

    def _hold_back(self, delivery: _Delivery) -> None:
        self._held.append(delivery)
        asyncio.get_running_loop().call_later(HELD_BACK_AT_MOST_S, self._let_go, delivery)

    def _let_go(self, delivery: _Delivery) -> None:
        if delivery in self._held:
            self._held.remove(delivery)
            self._put(delivery)

    def _put_later(self, pause_s: float, delivery: _Delivery) -> None:
        asyncio.get_running_loop().call_later(pause_s, self._put, delivery)

    def _put(self, delivery: _Delivery) -> None:
        if delivery.epoch == self._epoch:
            self._ready.append(delivery)
            self._pump()

    def _pump(self) -> None:
        while self._ready and len(self._tasks) < AT_ONCE:
            task = asyncio.get_running_loop().create_task(self._deliver(self._ready.popleft()))
            self._tasks.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.result()  # a fault of ours is not swallowed
            self._pump()

    async def _deliver(self, delivery: _Delivery) -> None:
        """Try once; then it is done, given up, or tried again after a pause."""
        is_taken = await self._post(delivery)
        for follower in delivery.followers:
            self._put(follower)
        delivery.followers = []
        delivery.tries += 1
        if delivery.epoch != self._epoch:
            return
        if delivery.is_forged:
            if is_taken:
                self._count("webhook_forged_accepted")
        elif is_taken:
            self._delivered += 1
        elif delivery.tries >= MAX_TRIES:
            self._failed += 1
        else:
            self._put_later(min(FIRST_PAUSE_S * 2 ** (delivery.tries - 1), LONGEST_PAUSE_S), delivery)

    async def _post(self, delivery: _Delivery) -> bool:
        """Post a body, signed anew; whether a 2xx came in time."""
        if self._url is None:
            return False
        secret = self._secret + " of someone else" if delivery.is_forged else self._secret
        headers = {
            "Content-Type": "application/json",
            SIGNATURE_HEADER: sign(secret, delivery.body, int(self._clock())),
        }
        try:
            async with self._open_session().post(
                self._url, data=delivery.body, headers=headers, allow_redirects=False
            ) as response:
                return 200 <= response.status < 300  # noqa: PLR2004 - any 2xx
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=AT_ONCE),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "coatcheck-simulator"},
                timeout=aiohttp.ClientTimeout(total=DEADLINE_S),
                trust_env=False,
            )
        return self._session

    async def close(self) -> None:
        """Stop; what is still queued is lost, as the queue is in memory."""
        self._drop_queue()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        session, self._session = self._session, None
        if session is not None:
            await session.close()
