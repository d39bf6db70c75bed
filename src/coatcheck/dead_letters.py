"""Dead letters: work that used up its retries, or must not be retried, and waits for a person.

A person may have it asked again, and the executor's gate decides what that is: nothing here sends anything. Or two
people together may say what became of it (maker-checker, hazard I1). docs/dead-letters.md is for whoever is called.
"""

import asyncio
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NoReturn
from uuid import UUID

import asyncpg
import msgspec
import structlog

from coatcheck.clock import Clock
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.executor import ANSWER_REFUSED, NOT_FOUND, Executor, Step, mismatch_of, next_step, window_is_open
from coatcheck.ids import KEY, OPERATION, PAYOUT, print_id, random_id, time_ordered_ids
from coatcheck.operations import Evidence, Operation, Operations, UndecidedQuery
from coatcheck.pan import contains_card_number
from coatcheck.providers.outcome import Outcome, OutcomeKind, ToldBy
from coatcheck.providers.protocol import Capabilities
from coatcheck.shops import Caller
from coatcheck.states import Mode, OperationKind
from coatcheck.store import Store

PROPOSAL = "prop"
REPLAY = "rpl"
REPLAY_MOST = 100  # dead letters asked about again by one call
RESOLVED_BY_HAND = "resolved_by_hand"

_PROPOSAL_LIFE = timedelta(hours=24)
_PACE = timedelta(milliseconds=100)  # between two operations of a replay, so that it does not fall on the PSP at once
_CAUTIOUS_LAG = timedelta(hours=1)  # between two look-ups, where nobody here knows the provider
_REASON_MOST, _REFERENCE_MOST, _NAME_MOST = 500, 255, 100
_USUAL_LIFE = timedelta(days=7)  # of an authorization, where its provider is not configured here
_FIRST = (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)

log = structlog.get_logger("coatcheck.dead_letters")


class DeadLetterKind(StrEnum):
    """What sort of work waits."""

    OPERATION = "operation"


class SafeAction(StrEnum):
    """What a person may safely do next."""

    SEND = "send"
    SEND_AGAIN = "send_again"
    LOOK_UP = "look_up"
    COMPARE = "compare"
    ASK_PROVIDER = "ask_provider"
    CONFIGURE = "configure"


class Word(StrEnum):
    """What two people may say became of an operation: a charge was charged or not, anything else done or not."""

    CHARGED = "charged"
    NOT_CHARGED = "not_charged"
    DONE = "done"
    NOT_DONE = "not_done"

    @property
    def says_it_happened(self) -> bool:
        """Whether money moved, or was reserved or released, as was asked."""
        return self in (Word.CHARGED, Word.DONE)


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """The suggested safe action, in a word and in a sentence, and what it rests on.

    `step`: what the gate would ask for now; None where this process cannot ask at all. `safe_until`: until when the
    provider knows our key for certain; None where nothing was sent or it knows none.
    """

    action: SafeAction
    text: str
    step: Step | None
    age: timedelta | None
    window: timedelta | None
    safe_until: datetime | None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one person has found out. `provider_reference`: the provider's own id, where it was done there."""

    word: Word
    reason: str
    provider_reference: str | None = None


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """What one person says became of a dead letter. It counts when another one confirms it before `expires_at`."""

    proposal_id: UUID
    word: Word
    provider_reference: str | None
    reason: str
    proposed_by: str
    proposed_at: datetime
    expires_at: datetime
    confirmed_by: str | None = None
    confirmed_at: datetime | None = None


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of work that waits for a person. `is_retrying`: somebody has had it asked again just now.

    `retry_budget`: how many tries an operation has of its own accord; what a person retries is counted on beyond it.
    """

    kind: DeadLetterKind
    operation: Operation
    payment_order_id: str  # of a payout, which has no order, its own id
    created_at: datetime
    retry_budget: int
    is_retrying: bool
    advice: Advice
    proposal: Proposal | None


class ReplayProposal(msgspec.Struct, frozen=True, kw_only=True):
    """A bulk retry that waits for a second person until `expires_at`."""

    replay_id: UUID
    proposed_by: str
    expires_at: datetime


class Replay(msgspec.Struct, frozen=True):
    """What a bulk retry asks again, or would: as a dry run, or once a second person confirms `proposal`; oldest first.

    `takes_two`: so many at once take a second person.
    """

    letters: list[DeadLetter]
    is_dry_run: bool
    takes_two: bool = False
    proposal: ReplayProposal | None = None


def person_of(caller: Caller) -> str:
    """Name whoever uses an API key, as the second of two people is told from the first."""
    return f"key {print_id(KEY, caller.key_id)}"


def person_named(name: str) -> str:
    """Name a person at the command line; letter case and spacing make no second person.

    Raises CoatcheckError INVALID_REQUEST.
    """
    words = unicodedata.normalize("NFKC", name).casefold().split()
    plain = " ".join(words)
    if not plain or len(plain) > _NAME_MOST or not plain.isprintable():
        _refuse(f"Give the name of a person, 1 to {_NAME_MOST} printable characters.")
    return f"person {plain}"


def advise(operation: Operation, capabilities: Capabilities | None, at: datetime) -> Advice:
    """Suggest what a person may safely do about an undecided operation. Pure."""
    sent_at, safe_until, step = operation.intent.first_sent_at, None, None
    if capabilities is not None:
        step = next_step(operation, capabilities, at)
        if sent_at is not None and capabilities.idempotency_window:
            safe_until = sent_at + capabilities.idempotency_window - capabilities.window_margin
    action = _action_of(operation, capabilities, step, at)
    return Advice(
        action=action,
        text=_in_words(action, operation, safe_until, at),
        step=step,
        age=None if sent_at is None else at - sent_at,
        window=None if capabilities is None else capabilities.idempotency_window,
        safe_until=safe_until,
    )


def _action_of(operation: Operation, capabilities: Capabilities | None, step: Step | None, at: datetime) -> SafeAction:
    cause = operation.cause or ""
    if capabilities is None:
        return SafeAction.CONFIGURE
    if cause.startswith(ANSWER_REFUSED):
        return SafeAction.COMPARE
    if not operation.sent_before:
        return SafeAction.SEND
    if step is not Step.LOOK_UP:
        return SafeAction.SEND_AGAIN
    is_open = window_is_open(operation.intent, capabilities, at)
    return SafeAction.ASK_PROVIDER if cause == NOT_FOUND and not is_open else SafeAction.LOOK_UP


def _in_words(action: SafeAction, operation: Operation, safe_until: datetime | None, at: datetime) -> str:
    reference, provider = operation.intent.reference, operation.provider
    if action is SafeAction.LOOK_UP:
        is_over = safe_until is None or safe_until <= at
        rest = (
            "It is not sent again, unless the provider itself says that it did nothing."
            if is_over
            else f"It is sent again only if {provider} has nothing, and not after {_time(safe_until)}."
        )
        return f"Look it up again: retry. That asks {provider} what became of it and moves no money. {rest}"
    return {
        SafeAction.SEND: f"It was never sent to {provider}: it is safe to send. Retry.",
        SafeAction.SEND_AGAIN: f"Sending it again under the same key is safe until {_time(safe_until)}. Retry.",
        SafeAction.COMPARE: f"{provider} answered about something else. Compare its dashboard, under {reference}, with "
        "what was asked before anything else, then resolve it. A retry books only an answer that fits.",
        SafeAction.ASK_PROVIDER: f"{provider} shows nothing under our reference and may have forgotten our key, so it "
        f"is not sent again. Ask {provider} about {reference}, then resolve it.",
        SafeAction.CONFIGURE: f"This gateway has no settings for {provider}. Give them back, start it again, then "
        "retry.",
    }[action]


def _time(at: datetime | None) -> str:
    return "no time" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


class DeadLetters:
    """Lists what waits for a person, has it asked again, and books what two people say.

    `retry_budget`: of this gateway's settings; it is only shown. `replay_alone_most`: so many one person may retry at
    once.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        operations: Operations,
        executor: Executor,
        capabilities: Mapping[str, Capabilities],
        retry_budget: int,
        replay_alone_most: int,
    ) -> None:
        self._store = store
        self._clock = clock
        self._operations = operations
        self._executor = executor
        self._capabilities = capabilities
        self._retry_budget = retry_budget
        self._replay_alone_most = replay_alone_most

    def advise(self, operation: Operation) -> Advice:
        """Suggest what may be done about an undecided operation now."""
        return advise(operation, self._capabilities.get(operation.provider), self._clock.now())

    async def find(
        self,
        query: UndecidedQuery,
        *,
        after: tuple[datetime, UUID] | None = None,
        limit: int = 20,
        is_waiting: bool = False,
    ) -> list[DeadLetter]:
        """Find dead letters, oldest first, after a place. `is_waiting`: leave out what is being asked about."""
        return await self._find(query, after or _FIRST, limit, is_waiting=is_waiting)

    async def read(self, operation_id: UUID, query: UndecidedQuery) -> DeadLetter | None:
        """Show one dead letter; None when there is none of that id for whoever asks."""
        found = await self._find(query, _FIRST, 1, only=[operation_id])
        return found[0] if found else None

    async def _find(
        self,
        query: UndecidedQuery,
        after: tuple[datetime, UUID],
        limit: int,
        *,
        is_waiting: bool = False,
        only: Sequence[UUID] | None = None,
    ) -> list[DeadLetter]:
        rows = await self._store.pool.fetch(
            self._store.queries["dead_letter_list"],
            *(query.shop_id, None if query.mode is None else query.mode.value, *after, limit),
            *(query.provider, query.cause, query.made_until or _LATEST, is_waiting, only),
        )
        standing = await self._operations.stand([row["operation_id"] for row in rows]) if rows else {}
        return [
            self._letter_of(row, standing[row["operation_id"]].operation)
            for row in rows
            if row["operation_id"] in standing
        ]

    def _letter_of(self, row: asyncpg.Record, operation: Operation) -> DeadLetter:
        return DeadLetter(
            kind=DeadLetterKind(row["kind"]),
            operation=operation,
            payment_order_id=row["payment_order_id"] or print_id(PAYOUT, operation.payment_id),
            created_at=row["created_at"],
            retry_budget=self._retry_budget,
            is_retrying=row["is_retrying"],
            advice=self.advise(operation),
            proposal=None if row["proposal_id"] is None else _proposal_of(row),
        )

    async def evidence(self, letter: DeadLetter) -> list[Evidence]:
        """Read the last things that happened to a dead letter, newest first."""
        return await self._operations.evidence(letter.operation)

    async def retry(self, letters: Sequence[DeadLetter], by: str) -> list[UUID]:
        """Make dead letters due again; whichever gateway claims one asks what the gate allows, and no more.

        Returns those that were waiting. Idempotent while one is due or being asked about. Locks: the leases.
        """
        at = self._clock.now()
        dues = [at + place * _PACE for place in range(len(letters))]
        earliest = await asyncio.gather(*[self._earliest(letter, at) for letter in letters])
        rows = await self._store.pool.fetch(
            "SELECT operation_id FROM retry_dead_letters($1, $2, $3, $4, $5)",
            at,
            [letter.operation.intent.operation_id for letter in letters],
            [letter.operation.attempt for letter in letters],
            list(map(max, dues, earliest)),
            by,
        )
        return [row["operation_id"] for row in rows]

    async def _earliest(self, letter: DeadLetter, at: datetime) -> datetime:
        """Say when a dead letter may be asked about: a second "not found" counts only so long after the first (A14)."""
        operation = letter.operation
        if operation.cause != NOT_FOUND:
            return at
        known = self._capabilities.get(operation.provider)
        lag = _CAUTIOUS_LAG if known is None else known.look_up_lag
        first = [each.at for each in await self.evidence(letter) if each.body.get("cause") == NOT_FOUND]
        return max(first, default=at) + lag

    async def replay(self, query: UndecidedQuery, by: str, *, most: int, dry_run: bool) -> Replay:
        """Retry the oldest dead letters that a query finds; a dry run only says which, and what each would ask (F4).

        More than one person may retry at once are only proposed, for a second person to confirm within 24 hours.
        Raises CoatcheckError INVALID_REQUEST for more than REPLAY_MOST at once.
        """
        if not 1 <= most <= REPLAY_MOST:
            _refuse(f"Retry 1 to {REPLAY_MOST} at a time, and see what comes of them before the next.")
        letters = await self.find(query, limit=most, is_waiting=True)
        takes_two = len(letters) > self._replay_alone_most
        if dry_run:
            return Replay(letters, is_dry_run=True, takes_two=takes_two)
        if takes_two:
            proposal = await self._propose_replay(query, letters, by)
            return Replay(letters, is_dry_run=False, takes_two=True, proposal=proposal)
        return Replay(await self._retried(letters, by), is_dry_run=False)

    async def _retried(self, letters: Sequence[DeadLetter], by: str) -> list[DeadLetter]:
        retried = set(await self.retry(letters, by))
        return [each for each in letters if each.operation.intent.operation_id in retried]

    async def _propose_replay(self, query: UndecidedQuery, letters: Sequence[DeadLetter], by: str) -> ReplayProposal:
        at = self._clock.now()
        made = ReplayProposal(replay_id=random_id(), proposed_by=by, expires_at=at + _PROPOSAL_LIFE)
        await self._store.pool.execute(
            "SELECT propose_replay($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            *(at, made.replay_id, query.shop_id, None if query.mode is None else query.mode.value),
            [letter.operation.intent.operation_id for letter in letters],
            [letter.operation.attempt for letter in letters],
            *(by, made.expires_at, time_ordered_ids(at, 1)[0]),
        )
        return made

    async def confirm_replay(self, replay_id: UUID, query: UndecidedQuery, by: str) -> Replay:
        """Retry what another person proposed to retry at once. Returns what is asked about now.

        What was asked about since it was proposed is left alone. Idempotent on the proposal and the person. Raises
        CoatcheckError: the same person, an expired proposal, or one that a third person has confirmed.
        """
        at = self._clock.now()
        (row,) = await self._store.pool.fetch(
            "SELECT * FROM confirm_replay($1, $2, $3, $4, $5, $6)",
            *(at, replay_id, query.shop_id, None if query.mode is None else query.mode.value, by),
            time_ordered_ids(at, 1)[0],
        )
        if row["verdict"] == "unknown":
            raise CoatcheckError(
                ErrorCode.NOT_FOUND, f"No proposal {print_id(REPLAY, replay_id)} to retry dead letters."
            )
        if row["verdict"] not in ("confirmed", "exists"):
            _refuse_resolution(_REPLAY_VERDICTS[row["verdict"]])
        looked_at = dict(zip(row["operation_ids"], row["attempts"], strict=True))
        found = await self._find(query, _FIRST, REPLAY_MOST, is_waiting=True, only=list(looked_at))
        as_it_was = [each for each in found if looked_at[each.operation.intent.operation_id] == each.operation.attempt]
        return Replay(await self._retried(as_it_was, by), is_dry_run=False, takes_two=True)

    async def propose(self, operation_id: UUID, query: UndecidedQuery, finding: Finding, by: str) -> Proposal:
        """Say what became of a dead letter, for a second person to confirm within 24 hours. Posts nothing.

        Idempotent on who says what; one's own earlier proposal is replaced. Raises CoatcheckError. Locks: the lease.
        """
        letter = await self.read(operation_id, query)
        if letter is None:
            _not_here(operation_id)
        finding = msgspec.structs.replace(finding, reason=" ".join(finding.reason.split()))
        _check_finding(letter.operation, finding)
        at = self._clock.now()
        (row,) = await self._store.pool.fetch(
            "SELECT * FROM propose_resolution($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            *(at, operation_id, random_id(), finding.word.value, finding.provider_reference, finding.reason, by),
            *(at + _PROPOSAL_LIFE, time_ordered_ids(at, 1)[0]),
        )
        if row["verdict"] == "settled":
            _not_here(operation_id)
        if row["verdict"] == "taken":
            _refuse_resolution(
                "Somebody else has proposed what became of it. Look at that proposal: confirm it, have its author "
                "change it, or wait until it expires."
            )
        proposal = await self._proposal(operation_id)
        if proposal is None:  # rows of this table are replaced, never deleted
            raise CoatcheckError(ErrorCode.INTERNAL, "The proposal's row is gone. Check the database.")
        return proposal

    async def confirm(self, operation_id: UUID, proposal_id: UUID, query: UndecidedQuery, by: str) -> Outcome:
        """Confirm what another person proposed, and book it like the provider's own word. Returns what was booked.

        Posts the transfers of its effect. Idempotent on the proposal and the person. Raises CoatcheckError: the same
        person, an expired or replaced proposal, or a provider that is being asked at this moment. Locks: the lease.
        """
        standing = (await self._operations.stand([operation_id])).get(operation_id)
        proposal = await self._proposal(operation_id)
        if standing is None or not _is_in(query, standing.operation):
            _not_here(operation_id)
        if proposal is None or proposal.proposal_id != proposal_id:
            _refuse_resolution(_VERDICTS["unknown"])
        outcome = outcome_by_hand(standing.operation, proposal, by)
        if mismatch_of(standing.operation.intent, outcome) is not None:
            _refuse_resolution(
                "The provider's id of it became known since this was proposed. Look again, and propose what is so."
            )
        if standing.operation.provider not in self._capabilities:  # nobody here knows how long an authorization lives
            outcome = msgspec.structs.replace(outcome, expires_at=self._clock.now() + _USUAL_LIFE)
        claimed = await self._claim_confirmed(standing.operation, proposal, by)
        if claimed is not None:
            await self._book(claimed, outcome, proposal, by)
        return outcome

    async def _claim_confirmed(self, operation: Operation, proposal: Proposal, by: str) -> Operation | None:
        """Mark the proposal and take the operation over in one commit; None when this person's word is booked already.

        Every race is decided in confirm_resolution; what it refuses was not marked.
        """
        at, operation_id = self._clock.now(), operation.intent.operation_id
        (row,) = await self._store.pool.fetch(
            "SELECT * FROM confirm_resolution($1, $2, $3, $4, $5, $6, $7)",
            *(at, operation_id, proposal.proposal_id, by, self._operations.holder, at + self._operations.lease),
            time_ordered_ids(at, 1)[0],
        )
        verdict: str = row["verdict"]
        if verdict == "exists":
            return None
        if verdict == "busy":
            raise CoatcheckError(ErrorCode.OPERATION_IN_PROGRESS, _VERDICTS[verdict])
        if verdict != "confirmed":
            _refuse_resolution(_VERDICTS[verdict])
        # Read again behind the claim: what the order counts may have changed since the first look.
        held = (await self._operations.stand([operation_id]))[operation_id].operation
        return msgspec.structs.replace(held, attempt=row["attempt"])

    async def _book(self, operation: Operation, outcome: Outcome, proposal: Proposal, by: str) -> None:
        if await self._executor.settle(operation, outcome) is None:
            raise CoatcheckError(
                ErrorCode.OPERATION_IN_PROGRESS,
                "It was not booked: another process took it over, or the books do not allow it as things stand. Look "
                "again; it may be confirmed again.",
            )
        log.warning(
            "resolved_by_hand",
            operation=operation.intent.reference,
            word=proposal.word.value,
            proposed_by=proposal.proposed_by,
            confirmed_by=by,
        )

    async def _proposal(self, operation_id: UUID) -> Proposal | None:
        row = await self._store.pool.fetchrow(self._store.queries["dead_letter_proposal"], operation_id)
        return None if row is None else _proposal_of(row)


def outcome_by_hand(operation: Operation, proposal: Proposal, by: str) -> Outcome:
    """Put what two people say into an outcome: amount, currency and reference are those that were asked for. Pure."""
    intent = operation.intent
    evidence = f"by hand: {proposal.proposed_by} proposed, {by} confirmed: {proposal.reason}"
    if not proposal.word.says_it_happened:
        return Outcome(
            kind=OutcomeKind.DECLINED,
            decline_code=RESOLVED_BY_HAND,
            reference=intent.reference,
            evidence=evidence,
            told_by=ToldBy.PERSON,
        )
    return Outcome(
        kind=OutcomeKind.APPROVED,
        provider_reference=proposal.provider_reference or intent.provider_reference,
        reference=intent.reference,
        amount_minor=intent.amount_minor,
        currency=intent.currency,
        is_live=intent.mode is Mode.LIVE,
        evidence=evidence,
        told_by=ToldBy.PERSON,
    )


_VERDICTS = {
    "unknown": "There is no such proposal any more: it was replaced, or was for another operation. Look at the one "
    "that is there now.",
    "expired": "The proposal is older than 24 hours. Look into it again and make a new one.",
    "same_person": "A second person must confirm: whoever proposed it cannot. Another API key or another name is "
    "needed.",
    "settled": "It is no dead letter any more: somebody or the provider decided it. See how it stands.",
    "busy": "The provider is being asked about it at this moment. Wait for the answer, at most a minute, and look "
    "again.",
}
_REPLAY_VERDICTS = {
    "taken": "Somebody else has confirmed it already. See what came of it.",
    "expired": _VERDICTS["expired"],
    "same_person": _VERDICTS["same_person"],
}
_CHARGE_WORDS = (Word.CHARGED, Word.NOT_CHARGED)


def _check_finding(operation: Operation, finding: Finding) -> None:
    """Refuse what could not be booked, before anybody is asked to confirm it. Raises CoatcheckError INVALID_REQUEST."""
    problems = []
    is_charge = operation.intent.kind is OperationKind.CHARGE
    if (finding.word in _CHARGE_WORDS) is not is_charge:
        words = "charged or not_charged" if is_charge else "done or not_done"
        problems.append(Problem("/word", f"Of a {operation.intent.kind} say {words}."))
    if not _is_plain(finding.reason, _REASON_MOST):
        problems.append(
            Problem("/reason", f"Say in 1 to {_REASON_MOST} characters how you know, without any card number.")
        )
    wrong = _wrong_reference(operation, finding)
    if wrong is not None:
        problems.append(Problem("/provider_reference", wrong))
    if problems:
        raise CoatcheckError(ErrorCode.INVALID_REQUEST, problems[0].detail, problems)


def _is_plain(text: str, most: int) -> bool:
    return 1 <= len(text) <= most and text.isprintable() and not contains_card_number(text)


def _wrong_reference(operation: Operation, finding: Finding) -> str | None:
    intent, reference = operation.intent, finding.provider_reference
    if not finding.word.says_it_happened:
        return None if reference is None else "Leave it out: nothing was done there."
    if reference is None:
        is_known = intent.provider_reference is not None and not intent.is_hosted
        return None if is_known else "Give the provider's own id of it, from its dashboard."
    if not _is_plain(reference, _REFERENCE_MOST) or " " in reference:
        return f"Write 1 to {_REFERENCE_MOST} printable characters without spaces."
    if not intent.is_hosted and intent.provider_reference not in (None, reference):
        return f"The provider's id of this operation is {intent.provider_reference}: that is another one's."
    return None


def _is_in(query: UndecidedQuery, operation: Operation) -> bool:
    return query.shop_id in (None, operation.shop_id) and query.mode in (None, operation.intent.mode)


def _proposal_of(row: asyncpg.Record) -> Proposal:
    return Proposal(
        proposal_id=row["proposal_id"],
        word=Word(row["word"]),
        provider_reference=row["provider_reference"],
        reason=row["reason"],
        proposed_by=row["proposed_by"],
        proposed_at=row["proposed_at"],
        expires_at=row["expires_at"],
        confirmed_by=row["confirmed_by"],
        confirmed_at=row["confirmed_at"],
    )


def _refuse(detail: str) -> NoReturn:
    raise CoatcheckError(ErrorCode.INVALID_REQUEST, detail)


def _refuse_resolution(detail: str) -> NoReturn:
    raise CoatcheckError(ErrorCode.RESOLUTION_NOT_POSSIBLE, detail)


def _not_here(operation_id: UUID) -> NoReturn:
    raise CoatcheckError(
        ErrorCode.NOT_FOUND,
        f"No dead letter {print_id(OPERATION, operation_id)}: it is unknown here, or decided by now.",
    )
