"""What the simulated PSP says of a dispute, in an event and in an answer. Pure. docs/simulator.md has its words.

| answer to evidence or acceptance | means |
|---|---|
| 201 | APPROVED, with the dispute as it stands now |
| 400 with a code, 404, 409 dispute_not_answerable | DECLINED, that code: it will not take this, now or later |
| 401, 403, 429 | NOT_SENT: nothing was done |
| anything else | UNKNOWN: the same again under the same key, or a look at the dispute |
"""

from datetime import UTC, datetime
from typing import Annotated, Final, Literal

import msgspec

from coatcheck.providers.disputes import DisputeAnswer, DisputeNews, DisputePage, FundsMovement, Parcel
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import NotListedError
from coatcheck.providers.simulated_answers import Raw
from coatcheck.states import DisputeStatus, EvidenceKind, Mode

PROVIDER: Final = "simulator"
_OK, _CREATED, _NOT_FOUND = 200, 201, 404
_STATUSES: Final = {
    "inquiry": DisputeStatus.INQUIRY,
    "needs_response": DisputeStatus.NEEDS_RESPONSE,
    "under_review": DisputeStatus.UNDER_REVIEW,
    "won": DisputeStatus.WON,
    "lost": DisputeStatus.LOST,
    "closed": DisputeStatus.CLOSED,
}
_NOT_DONE: Final = frozenset({401, 403, 429})
_REFUSED: Final = frozenset({(404, "not_found"), (409, "dispute_not_answerable")})
_INVALID = 400

_Seconds = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799)]
_Minor = Annotated[int, msgspec.Meta(ge=-(2**53) + 1, le=2**53 - 1)]
_Id = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{1,255}\Z")]
_Currency = Annotated[str, msgspec.Meta(pattern=r"\A[A-Z]{3}\Z")]


class Funds(msgspec.Struct, frozen=True):
    """A movement in the PSP's words."""

    id: _Id
    amount: _Minor
    fee: _Minor
    currency: _Currency
    created: _Seconds


class Shown(msgspec.Struct, frozen=True):
    """A dispute in the PSP's words; minor units, times in Unix seconds."""

    id: _Id
    object: Literal["dispute"]
    charge: str
    reference: str
    amount: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
    currency: _Currency
    reason: str
    status: str
    version: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
    livemode: bool
    evidence_due: _Seconds | None = None
    evidence: list[str] = []
    movements: list[Funds] = []


class _Listed(msgspec.Struct, frozen=True):
    data: list[Shown]
    next: str | None


class _Problem(msgspec.Struct, frozen=True):
    code: str


class _File(msgspec.Struct, frozen=True):
    part: str
    name: str
    content_type: str
    content: bytes


class _EvidenceBody(msgspec.Struct, frozen=True):
    reference: str
    texts: dict[str, str]
    files: list[_File]
    submit: bool


class _AcceptanceBody(msgspec.Struct, frozen=True):
    reference: str


def news_of(shown: Shown, told: str) -> DisputeNews:
    """Put a dispute into our words. Raises ValueError for a status that is none."""
    status = _STATUSES.get(shown.status)
    if status is None:
        raise ValueError(f"a dispute that is {shown.status!r}")
    return DisputeNews(
        provider=PROVIDER,
        mode=Mode.LIVE if shown.livemode else Mode.TEST,
        provider_reference=shown.id,
        type=told,
        reference=shown.reference,
        charge_reference=shown.charge,
        status=status,
        reason=shown.reason[:200],
        amount_minor=shown.amount,
        currency=shown.currency,
        evidence_due_at=None if shown.evidence_due is None else datetime.fromtimestamp(shown.evidence_due, UTC),
        word_no=shown.version,
        movements=tuple(
            FundsMovement(
                name=each.id,
                gross_minor=each.amount,
                fee_minor=each.fee,
                currency=each.currency,
                moved_at=datetime.fromtimestamp(each.created, UTC),
            )
            for each in shown.movements
        ),
    )


def body_of(parcel: Parcel) -> bytes:
    """Write what is sent: the same bytes at every attempt."""
    if parcel.kind is EvidenceKind.ACCEPTANCE:
        return msgspec.json.encode(_AcceptanceBody(parcel.reference))
    files = [_File(each.part, each.name, each.content_type, each.content) for each in parcel.body.files]
    texts = dict(sorted(parcel.body.texts.items()))
    return msgspec.json.encode(_EvidenceBody(parcel.reference, texts, files, parcel.ends_it))


def found_dispute(raw: Raw | Outcome, told: str) -> DisputeAnswer:
    """Read the answer to a question about a dispute."""
    if isinstance(raw, Outcome):
        return _silence(raw)
    if raw.status == _NOT_FOUND and _code_of(raw) == "not_found":
        return DisputeAnswer(kind=OutcomeKind.NOT_FOUND, cause="the provider knows of no such dispute")
    return _shown(raw, _OK, told) or DisputeAnswer(kind=OutcomeKind.UNKNOWN, cause=raw.evidence)


def listed_disputes(raw: Raw) -> DisputePage:
    """Read a part of the list of disputes, and where the next part begins. Raises NotListedError."""
    if raw.status == _OK and raw.is_json:
        try:
            listed = msgspec.json.decode(raw.body, type=_Listed)
            return DisputePage([news_of(each, "list") for each in listed.data], listed.next)
        except (ValueError, RecursionError):  # another shape, or a word that is none of its own
            pass
    raise NotListedError(f"the simulator gave no list: {raw.evidence}")


def passed_on(raw: Raw | Outcome, told: str) -> DisputeAnswer:
    """Read the answer to evidence or an acceptance."""
    if isinstance(raw, Outcome):
        return _silence(raw)
    code = _code_of(raw)
    if code is not None and ((raw.status, code) in _REFUSED or raw.status == _INVALID):
        return DisputeAnswer(kind=OutcomeKind.DECLINED, refusal_code=code, cause=raw.evidence)
    if code is not None and raw.status in _NOT_DONE:
        return DisputeAnswer(kind=OutcomeKind.NOT_SENT, cause=raw.evidence)
    return _shown(raw, _CREATED, told) or DisputeAnswer(kind=OutcomeKind.UNKNOWN, cause=raw.evidence)


def _silence(outcome: Outcome) -> DisputeAnswer:
    return DisputeAnswer(kind=outcome.kind, cause=outcome.cause or outcome.evidence)


def _shown(raw: Raw, wanted: int, told: str) -> DisputeAnswer | None:
    if raw.status != wanted or not raw.is_json:
        return None
    try:
        shown = msgspec.json.decode(raw.body, type=Shown)
        news = news_of(shown, told)
    except (ValueError, RecursionError):  # another shape, or a word that is none of its own
        return None
    return DisputeAnswer(kind=OutcomeKind.APPROVED, news=news, evidence=frozenset(shown.evidence))


def _code_of(raw: Raw) -> str | None:
    if not raw.is_json:
        return None
    try:
        return msgspec.json.decode(raw.body, type=_Problem).code
    except (ValueError, RecursionError):
        return None
