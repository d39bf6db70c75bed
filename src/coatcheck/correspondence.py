"""What is said to and heard from PSPs about disputes: asking how one stands, and passing the shops' answers on.

A PSP that can be asked is asked, whatever its event says: an event may be late, or thin. Nothing here moves money at a
PSP, so what may not have arrived is looked for, and sent again under the same key if it is not there; once the PSP has
forgotten the key, it is looked for first.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
import structlog

from coatcheck.clock import Clock
from coatcheck.disputes import Disputes, DisputeView, EvidenceRequest, EvidenceVerdict, NewsOutcome
from coatcheck.providers.disputes import DisputeAnswer, DisputeNews, DisputeProvider, Parcel
from coatcheck.providers.outcome import OutcomeKind
from coatcheck.providers.protocol import Provider
from coatcheck.states import DisputeStatus, EvidenceKind, EvidenceStatus, Mode

_PAUSE_FIRST: Final = timedelta(seconds=1)
_PAUSE_CAP: Final = timedelta(minutes=10)
_PAUSE_WITHOUT_PROVIDER: Final = timedelta(hours=1)
_DOUBLINGS_MOST: Final = 20

log = structlog.get_logger("coatcheck.correspondence")


class Correspondence:
    """Asks and answers, for every provider that has a way to.

    `lease`: for how long this process has an answer that it passes on; over twice a call's deadline.
    """

    def __init__(
        self, disputes: Disputes, clock: Clock, *, providers: Mapping[str, Provider], lease: timedelta
    ) -> None:
        self._disputes = disputes
        self._clock = clock
        self._lease = lease
        self._desks: dict[str, DisputeProvider] = {
            name: each
            for name, each in providers.items()
            if each.capabilities.disputes and isinstance(each, DisputeProvider)
        }
        # From when on a key may be forgotten there.
        self._trusted = {
            name: each.capabilities.idempotency_window - each.capabilities.window_margin
            for name, each in providers.items()
        }
        self._running: set[asyncio.Task[None]] = set()

    def can_answer(self, provider: str) -> bool:
        """Whether evidence can be passed on to this provider."""
        return provider in self._desks

    async def hear(self, news: DisputeNews) -> NewsOutcome | None:
        """Book what an event says of a dispute, or what the PSP says when asked about it. None: not now.

        Idempotent; posts what was taken or given back.
        """
        if news.provider not in self._desks:
            return (await self._disputes.apply([news]))[0] if news.is_whole else None
        answer = await self._ask(news.provider, news.provider_reference, news.mode)
        if answer.news is None:
            return None
        if (answer.news.provider_reference, answer.news.mode) != (news.provider_reference, news.mode):
            return NewsOutcome.REFUSED
        (outcome,) = await self._disputes.apply([msgspec.structs.replace(answer.news, type=news.type)])
        return outcome

    async def ask(self, view: DisputeView) -> NewsOutcome | None:
        """Ask how a dispute stands and book it; None where no answer came. Idempotent."""
        hint = DisputeNews(
            provider=view.provider,
            mode=view.mode,
            provider_reference=view.provider_reference,
            type="look-up",
            is_hint=True,
        )
        return await self.hear(hint) if self.can_answer(view.provider) else None

    async def answer(
        self, dispute_id: UUID, asked: EvidenceRequest, *, key: str, by: str
    ) -> tuple[EvidenceVerdict, UUID]:
        """Commit an answer and begin to pass it on; who goes away leaves it running. Idempotent on the key."""
        verdict, evidence_id = await self._disputes.request(dispute_id, asked, key=key, by=by, lease=self._lease)
        if verdict is EvidenceVerdict.REQUESTED:
            for parcel in await self._disputes.parcels([evidence_id]):
                task = asyncio.create_task(self.pass_on(parcel))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
        return verdict, evidence_id

    async def quiet(self) -> None:
        """Wait for what this process passes on at the moment."""
        while self._running:
            await asyncio.wait(set(self._running))

    async def tend_once(self, most: int) -> int:
        """Pass on what was left behind, and ask about open disputes whose time has come. Returns how many."""
        names = list(self._desks)
        if not names:
            return 0
        parcels = await self._disputes.claim_parcels(self._lease, names, most)
        due = await self._disputes.claim_due(names, most)
        views = await self._disputes.read(due) if due else []
        # All at once: a PSP that hangs costs one deadline, however much there is to ask it.
        work: list[Awaitable[object]] = [*map(self.pass_on, parcels), *map(self.ask, views)]
        await asyncio.gather(*work)
        return len(parcels) + len(due)

    async def pass_on(self, parcel: Parcel) -> None:
        """Pass an answer on once, and write down what became of it. Trouble is waited out."""
        try:
            await self._pass_on(parcel)
        except Exception:
            log.exception("evidence_failed", evidence=parcel.reference)

    async def _pass_on(self, parcel: Parcel) -> None:
        desk, at = self._desks.get(parcel.provider), self._clock.now()
        if desk is None:
            why = "this gateway has no way to answer the provider's disputes"
            await self._disputes.postpone_parcel(parcel, at + _PAUSE_WITHOUT_PROVIDER, why)
            return
        if at - parcel.first_sent_at > self._trusted[parcel.provider]:
            known = await self._ask(parcel.provider, parcel.provider_reference, parcel.mode)
            if known.news is None:
                await self._postpone(parcel, at, known)
                return
            if await self._settles(parcel, known):
                return
        answer = await desk.submit_evidence(parcel, at)
        if answer.kind is OutcomeKind.APPROVED:
            await self._settle(parcel, EvidenceStatus.SENT, None, answer)
            return
        # It may be there nevertheless: refused because an earlier sending had done it, or a failure that the PSP
        # repeats for as long as it knows the key (hazard A4).
        known = await self._ask(parcel.provider, parcel.provider_reference, parcel.mode)
        if await self._settles(parcel, known):
            return
        was_seen = known.news is not None or known.kind is OutcomeKind.NOT_FOUND
        if was_seen and answer.kind is OutcomeKind.DECLINED:
            await self._settle(parcel, EvidenceStatus.REFUSED, answer.refusal_code, known)
        else:
            await self._postpone(parcel, at, answer)

    async def _settles(self, parcel: Parcel, known: DisputeAnswer) -> bool:
        """Settle what the PSP shows to have arrived, or to be over; False where it shows neither."""
        if known.news is None:
            return False
        is_accepted = parcel.kind is EvidenceKind.ACCEPTANCE and known.news.status is DisputeStatus.LOST
        if parcel.reference in known.evidence or is_accepted:
            await self._settle(parcel, EvidenceStatus.SENT, None, known)
            return True
        if known.news.status is not None and not known.news.status.takes_evidence:
            await self._settle(parcel, EvidenceStatus.REFUSED, "dispute_over", known)
            return True
        return False

    async def _settle(
        self, parcel: Parcel, status: EvidenceStatus, refusal_code: str | None, answer: DisputeAnswer
    ) -> None:
        """Book what the PSP said, then that it has our answer: whoever reads so finds the dispute as it stands."""
        try:
            if answer.news is not None:
                await self._disputes.apply([answer.news])
        finally:
            await self._disputes.settle_parcel(parcel, status, refusal_code)

    async def _postpone(self, parcel: Parcel, at: datetime, answer: DisputeAnswer) -> None:
        pause = min(_PAUSE_FIRST * 2 ** min(parcel.attempt - 1, _DOUBLINGS_MOST), _PAUSE_CAP)
        cause = (answer.cause or answer.kind.value)[:300]
        await self._disputes.postpone_parcel(parcel, at + pause, cause)

    async def _ask(self, provider: str, provider_reference: str, mode: Mode) -> DisputeAnswer:
        return await self._desks[provider].read_dispute(provider_reference, mode, self._clock.now())
