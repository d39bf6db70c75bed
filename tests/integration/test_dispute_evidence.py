"""Answers to disputes: committed before the PSP hears of them, passed on once, and not kept."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from tests.integration.outside import CALLER, World, checkout
from tests.simulation.calm import at_the_psp

from coatcheck.disputes import DisputeQuery, DisputeView, EvidenceRequest, EvidenceView
from coatcheck.providers.disputes import DisputeAnswer, DisputeNews, EvidenceBody, EvidenceFile
from coatcheck.providers.outcome import OutcomeKind
from coatcheck.simulator.chaos import Dial
from coatcheck.states import EvidenceKind, EvidenceStatus
from coatcheck.store import Store

FILE = EvidenceFile(part="receipt", name="r.pdf", content_type="application/pdf", content=b"%PDF-1.4 worn twice")
ASKED = EvidenceRequest(
    kind=EvidenceKind.EVIDENCE, body=EvidenceBody(texts={"explanation": "it was worn"}, files=(FILE,))
)
UNKNOWN = DisputeAnswer(kind=OutcomeKind.UNKNOWN, cause="read timeout")


class Case:
    """An order that is disputed at the simulator's own bank."""

    def __init__(self, store: Store, **dial: Any) -> None:
        self.world, self.psp = at_the_psp(store, **dial)
        self.line = self.world.gateway.correspondence
        self.provider: Any = self.world.provider

    async def begin(self, **more: Any) -> DisputeView:
        await self.world.pay(checkout("c1", "o1"))
        (charge,) = self.psp.bank.page(0, 1)
        made = self.psp.bank.disputes.open(msgspec.json.encode({"charge": charge.id, **more}))
        hint = DisputeNews(
            provider="simulator", mode=CALLER.mode, provider_reference=made.id, type="hint", is_hint=True
        )
        assert await self.line.hear(hint) == "applied"
        return await self.view()

    async def view(self) -> DisputeView:
        (view,) = await self.world.gateway.disputes.find(DisputeQuery())
        return view

    async def answer(self, dispute_id: UUID, asked: EvidenceRequest = ASKED, key: str = "k1") -> str:
        verdict, _ = await self.line.answer(dispute_id, asked, key=key, by="ada")
        await self.line.quiet()
        return verdict.value

    async def said(self) -> EvidenceView:
        (said,) = (await self.view()).evidence
        return said

    @property
    def there(self) -> tuple[str, ...]:
        """What the PSP has."""
        (dispute,) = self.psp.bank.disputes.page(0, 10)
        return dispute.evidence


@pytest.fixture
def case(store: Store) -> Case:
    return Case(store)


async def test_evidence_is_passed_on_and_its_content_is_not_kept(case: Case) -> None:
    view = await case.begin()
    assert await case.answer(view.dispute_id) == "requested"
    said = await case.said()
    assert (said.status, said.refusal_code, said.requested_by) == ("SENT", None, "ada")
    assert [(part.part, part.size_bytes, part.name) for part in said.parts] == [
        ("explanation", 11, None),
        ("receipt", len(FILE.content), "r.pdf"),
    ]
    assert len(case.there) == 1
    assert (await case.view()).status == "UNDER_REVIEW"
    assert await case.world.count("evidence_parcel") == 0
    told = await case.world.store.pool.fetchval("SELECT string_agg(body::text, '') FROM event")
    assert "it was worn" not in told
    assert "worn twice" not in told
    assert await case.world.violations() == {}


async def test_B1_the_same_answer_32_times_arrives_once(case: Case) -> None:
    view = await case.begin()
    verdicts = await asyncio.gather(*[case.line.answer(view.dispute_id, ASKED, key="k1", by="ada") for _ in range(32)])
    await case.line.quiet()
    assert sorted(verdict for verdict, _ in verdicts) == ["exists"] * 31 + ["requested"]
    assert len({evidence_id for _, evidence_id in verdicts}) == 1
    assert len(case.there) == 1
    assert await case.world.count("dispute_evidence") == 1


async def test_B2_a_key_stands_for_one_answer(case: Case) -> None:
    view = await case.begin()
    draft = msgspec.structs.replace(ASKED, ends_it=False)
    assert await case.answer(view.dispute_id, draft) == "requested"
    assert await case.answer(view.dispute_id, ASKED) == "key_reused"
    assert await case.answer(view.dispute_id, ASKED, key="k2") == "requested"
    assert await case.answer(view.dispute_id, ASKED, key="k3") == "not_open"
    assert await case.answer(UUID(int=7), ASKED) == "unknown"
    assert len(case.there) == 2


async def test_A2_an_answer_whose_process_died_is_passed_on_by_another(case: Case) -> None:
    view = await case.begin()
    await case.world.gateway.disputes.request(
        view.dispute_id, ASKED, key="k1", by="ada", lease=timedelta(seconds=30)
    )  # and here the process dies
    assert case.there == ()
    assert await case.line.tend_once(10) == 0  # its lease is still good
    case.world.clock.advance(timedelta(seconds=31))
    assert await case.line.tend_once(10) == 1
    assert len(case.there) == 1
    assert (await case.said()).status == "SENT"


async def test_A1_a_lost_answer_is_asked_for_again_under_the_same_key(case: Case) -> None:
    view = await case.begin()
    sent, real, real_look = [], case.provider.submit_evidence, case.provider.read_dispute

    async def lose(parcel: Any, at: Any) -> DisputeAnswer:
        sent.append(parcel.reference)
        await real(parcel, at)
        return UNKNOWN

    async def see_nothing(*_asked: Any) -> DisputeAnswer:
        return UNKNOWN

    case.provider.submit_evidence, case.provider.read_dispute = lose, see_nothing
    await case.answer(view.dispute_id)
    said = await case.said()
    assert (said.status, said.cause) == ("PENDING", "read timeout")
    assert len(case.there) == 1
    case.provider.submit_evidence, case.provider.read_dispute = real, real_look
    case.world.clock.advance(timedelta(minutes=1))
    assert await case.line.tend_once(10) >= 1
    assert (await case.said()).status == "SENT"
    assert case.there == (sent[0],)
    assert await case.world.violations() == {}


async def test_A4_an_answer_whose_failure_the_psp_repeats_is_looked_for(case: Case) -> None:
    view = await case.begin(due_s=10_000_000)
    case.psp.chaos.set(Dial(error_after_share=1))
    await case.answer(view.dispute_id)
    assert len(case.there) == 1
    assert case.psp.bank.faults["error_after"] == 1
    assert (await case.said()).status == "SENT"
    assert await case.world.violations() == {}


async def test_A4_an_answer_whose_failure_is_repeated_until_the_dispute_is_over_is_over_too(case: Case) -> None:
    view = await case.begin(due_s=10_000_000)

    async def fail(_parcel: Any, _at: Any) -> DisputeAnswer:
        return DisputeAnswer(kind=OutcomeKind.UNKNOWN, cause="HTTP 500")

    case.provider.submit_evidence = fail
    await case.answer(view.dispute_id)
    said = await case.said()
    assert (said.status, said.cause) == ("PENDING", "HTTP 500")
    (dispute,) = case.psp.bank.disputes.page(0, 1)
    case.psp.bank.disputes.change(dispute.id, "lose", b"")
    case.world.clock.advance(timedelta(minutes=1))
    await case.line.tend_once(10)
    said = await case.said()
    assert (said.status, said.refusal_code) == ("REFUSED", "dispute_over")
    assert (await case.view()).status == "LOST"
    assert await case.world.violations() == {}


async def test_A3_after_the_window_an_answer_is_looked_for_before_it_is_sent_again(case: Case) -> None:
    view = await case.begin(due_s=10_000_000)
    draft = msgspec.structs.replace(ASKED, ends_it=False)
    real, calls = case.provider.submit_evidence, []

    async def lose(parcel: Any, at: Any) -> DisputeAnswer:
        calls.append(parcel.reference)
        await real(parcel, at)
        return UNKNOWN

    case.provider.submit_evidence = lose
    await case.answer(view.dispute_id, draft)
    case.world.clock.advance(timedelta(days=2))
    await case.line.tend_once(10)
    assert len(calls) == 1
    assert (await case.said()).status == "SENT"
    assert len(case.there) == 1


async def test_an_answer_that_never_arrived_is_sent_after_the_window_too(case: Case) -> None:
    view = await case.begin(due_s=10_000_000)
    real = case.provider.submit_evidence

    async def lose(_parcel: Any, _at: Any) -> DisputeAnswer:
        return UNKNOWN

    case.provider.submit_evidence = lose
    await case.answer(view.dispute_id)
    case.provider.submit_evidence = real
    case.world.clock.advance(timedelta(days=2))
    await case.line.tend_once(10)
    assert (await case.said()).status == "SENT"
    assert len(case.there) == 1


@pytest.mark.parametrize("kind", [OutcomeKind.UNKNOWN, OutcomeKind.NOT_FOUND])
async def test_A3_after_the_window_what_cannot_be_looked_up_is_looked_up_again_later(
    case: Case, kind: OutcomeKind
) -> None:
    view, calls = await case.begin(due_s=10_000_000), []

    async def lose(parcel: Any, _at: Any) -> DisputeAnswer:
        calls.append(parcel.reference)
        return UNKNOWN

    async def see_nothing(*_asked: Any) -> DisputeAnswer:
        return DisputeAnswer(kind=kind, cause="no such dispute, or no answer")

    case.provider.submit_evidence, case.provider.read_dispute = lose, see_nothing
    await case.answer(view.dispute_id)
    case.world.clock.advance(timedelta(days=2))
    await case.line.tend_once(10)
    said = await case.said()
    assert (said.status, said.cause) == ("PENDING", "no such dispute, or no answer")
    assert len(calls) == 1


async def test_F1_who_comes_late_settles_nothing(case: Case) -> None:
    view = await case.begin()
    verdict, evidence_id = await case.world.gateway.disputes.request(
        view.dispute_id, ASKED, key="k1", by="ada", lease=timedelta(seconds=30)
    )
    assert verdict.is_good
    (zombie,) = await case.world.gateway.disputes.parcels([evidence_id])
    case.world.clock.advance(timedelta(seconds=31))
    (taker,) = await case.world.gateway.disputes.claim_parcels(timedelta(seconds=30), ["simulator"], 10)
    assert taker.attempt == zombie.attempt + 1
    assert not await case.world.gateway.disputes.settle_parcel(zombie, EvidenceStatus.REFUSED, "late")
    assert (await case.said()).status == "PENDING"
    await case.line.pass_on(taker)
    assert (await case.said()).status == "SENT"


async def test_what_the_psp_does_not_take_is_refused_with_its_word(case: Case) -> None:
    view = await case.begin()
    (dispute,) = case.psp.bank.disputes.page(0, 1)
    case.psp.bank.disputes.change(dispute.id, "lose", b"")  # and no event of it has come
    assert await case.answer(view.dispute_id) == "requested"
    said = await case.said()
    assert (said.status, said.refusal_code) == ("REFUSED", "dispute_over")
    assert (await case.view()).status == "LOST"
    assert await case.world.count("evidence_parcel") == 0
    assert await case.world.violations() == {}


async def test_an_accepted_dispute_is_lost_and_its_money_is_booked(case: Case) -> None:
    view = await case.begin(inquiry=True)
    assert (view.status, view.movements) == ("INQUIRY", [])
    assert await case.answer(view.dispute_id, EvidenceRequest(kind=EvidenceKind.ACCEPTANCE)) == "requested"
    view = await case.view()
    assert (view.status, [moved.gross_minor for moved in view.movements]) == ("LOST", [-1000])
    assert (await case.said()).kind == "acceptance"
    assert await case.world.violations() == {}


async def test_another_answer_that_ends_it_on_its_way_keeps_a_second_back(case: Case) -> None:
    view = await case.begin()
    await case.world.gateway.disputes.request(view.dispute_id, ASKED, key="k1", by="ada", lease=timedelta(seconds=30))
    assert await case.answer(view.dispute_id, EvidenceRequest(kind=EvidenceKind.ACCEPTANCE), key="k2") == "busy"


async def test_in_foul_weather_an_answer_arrives_all_the_same(store: Store) -> None:
    case = Case(store, drop_after_charge_share=0.5, error_before_share=0.3, error_after_share=0.2, max_faults_per_key=4)
    made = await checkout_and_dispute(case)
    for _ in range(40):
        if case.there:
            break
        await case.answer(made.dispute_id)
        case.world.clock.advance(timedelta(minutes=20))
        await case.line.tend_once(10)
    assert len(case.there) == 1
    for _ in range(20):
        case.world.clock.advance(timedelta(minutes=20))
        await case.line.tend_once(10)
    assert (await case.said()).status == "SENT"


async def checkout_and_dispute(case: Case) -> DisputeView:
    """Pay in foul weather, then open the dispute and hear of it."""
    view = await case.world.pay(checkout("c1", "o1"))
    for _ in range(20):
        if (await case.world.read(view.payment_id)).status == "SUCCESS":
            break
        await case.world.recover()
    (charge,) = [each for each in case.psp.bank.page(0, 10) if each.amount_captured]
    made = case.psp.bank.disputes.open(msgspec.json.encode({"charge": charge.id, "due_s": 10_000_000}))
    hint = DisputeNews(provider="simulator", mode=CALLER.mode, provider_reference=made.id, type="hint", is_hint=True)
    assert await case.line.hear(hint) == "applied"
    return await case.view()


def test_a_request_s_digest_is_its_content_s() -> None:
    same = EvidenceRequest(
        kind=EvidenceKind.EVIDENCE, body=EvidenceBody(texts={"explanation": "it was worn"}, files=(FILE,))
    )
    other = msgspec.structs.replace(FILE, content=b"%PDF-1.4 worn thrice")
    body = msgspec.structs.replace(ASKED.body, files=(other,))
    assert same.digest() == ASKED.digest()
    assert msgspec.structs.replace(ASKED, body=body).digest() != ASKED.digest()
    assert msgspec.structs.replace(ASKED, ends_it=False).digest() != ASKED.digest()


def test_the_world_is_what_it_seems(case: Case) -> None:
    assert isinstance(case.world, World)
    assert case.line.can_answer("simulator")
    assert not case.line.can_answer("adyen")
