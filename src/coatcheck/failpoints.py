"""Failpoints: the places on the money path where a process may die, hang or lose a line, each with a name.

In production nothing happens there. A test gives the gateway failpoints of its own and lets each of them strike;
docs/failpoints.md has the list.
"""

from collections.abc import Awaitable, Generator
from enum import StrEnum
from typing import Final, final


class Failpoint(StrEnum):
    """Where the money path can be struck. Each is reached at exactly one line."""

    ACCEPT_BEFORE_COMMIT = "accept.before_commit"
    ACCEPT_AFTER_COMMIT = "accept.after_commit"
    RUN_STARTED = "run.started"
    REGISTER_BEFORE_CALL = "register.before_call"
    REGISTER_AFTER_CALL = "register.after_call"
    REGISTER_BEFORE_COMMIT = "register.before_commit"
    REGISTER_AFTER_COMMIT = "register.after_commit"
    SEND_BEFORE_MARK = "send.before_mark"
    SEND_AFTER_MARK = "send.after_mark"
    SEND_BEFORE_CALL = "send.before_call"
    SEND_AFTER_CALL = "send.after_call"
    LOOK_UP_BEFORE_CALL = "look_up.before_call"
    LOOK_UP_AFTER_CALL = "look_up.after_call"
    SETTLE_STARTED = "settle.started"
    APPLY_BEFORE_COMMIT = "apply.before_commit"
    APPLY_AFTER_COMMIT = "apply.after_commit"
    JOINT_BEFORE_RECOVERY = "joint.before_recovery"
    POSTPONE_BEFORE_COMMIT = "postpone.before_commit"
    POSTPONE_AFTER_COMMIT = "postpone.after_commit"
    REFUSE_BEFORE_COMMIT = "refuse.before_commit"
    REFUSE_AFTER_COMMIT = "refuse.after_commit"
    RECOVERY_BEFORE_CLAIM = "recovery.before_claim"
    CLAIM_BEFORE_READ = "claim.before_read"
    RECOVERY_BEFORE_START = "recovery.before_start"
    STOP_BEFORE_RELEASE = "stop.before_release"
    STOP_AFTER_RELEASE = "stop.after_release"
    CAPTURE_BEFORE_COMMIT = "capture.before_commit"
    CAPTURE_AFTER_COMMIT = "capture.after_commit"
    CANCEL_BEFORE_COMMIT = "cancel.before_commit"
    CANCEL_AFTER_COMMIT = "cancel.after_commit"
    REFUND_BEFORE_COMMIT = "refund.before_commit"
    REFUND_AFTER_COMMIT = "refund.after_commit"
    PAYOUT_BEFORE_COMMIT = "payout.before_commit"
    PAYOUT_AFTER_COMMIT = "payout.after_commit"
    PAYOUT_RUN_BEFORE_COMMIT = "payout_run.before_commit"
    PAYOUT_RUN_AFTER_COMMIT = "payout_run.after_commit"
    PAYOUT_RUN_BEFORE_ITEM = "payout_run.before_item"
    LATE_BEFORE_READ = "late.before_read"
    LATE_BEFORE_REQUEST = "late.before_request"
    INBOX_BEFORE_STORE = "inbox.before_store"
    INBOX_AFTER_STORE = "inbox.after_store"
    INBOX_BEFORE_CLAIM = "inbox.before_claim"
    INBOX_AFTER_CLAIM = "inbox.after_claim"
    INBOX_BEFORE_ACT = "inbox.before_act"
    INBOX_BEFORE_BOOK = "inbox.before_book"
    INBOX_BEFORE_APPLY = "inbox.before_apply"
    INBOX_BEFORE_REOPEN = "inbox.before_reopen"
    INBOX_BEFORE_ASK = "inbox.before_ask"
    INBOX_BEFORE_TELL = "inbox.before_tell"
    INBOX_AFTER_TELL = "inbox.after_tell"
    INBOX_BEFORE_SETTLE = "inbox.before_settle"
    INBOX_AFTER_SETTLE = "inbox.after_settle"
    UPKEEP_BEFORE_CLAIM = "upkeep.before_claim"
    UPKEEP_BEFORE_REOPEN = "upkeep.before_reopen"
    UPKEEP_BEFORE_START = "upkeep.before_start"
    ANSWER_BEFORE_RUN = "answer.before_run"
    ANSWER_BEFORE_REPLY = "answer.before_reply"

    @property
    def meaning(self) -> str:
        """What has happened when it is reached, and what has not."""
        return _MEANINGS[self]


_MEANINGS: Final = {
    Failpoint.ACCEPT_BEFORE_COMMIT: "A checkout is checked and its rows are made out; nothing is written.",
    Failpoint.ACCEPT_AFTER_COMMIT: "The intent is committed and leased to this process; nobody was asked.",
    Failpoint.RUN_STARTED: "An operation that this process holds is taken up.",
    Failpoint.REGISTER_BEFORE_CALL: "The provider's two-step object or page is about to be made.",
    Failpoint.REGISTER_AFTER_CALL: "The provider has answered with its object; we have not written that down.",
    Failpoint.REGISTER_BEFORE_COMMIT: "The provider's id of the object is about to be stored.",
    Failpoint.REGISTER_AFTER_COMMIT: "The provider's id is stored; no money has moved.",
    Failpoint.SEND_BEFORE_MARK: "A claimed operation may be sent; the beginning of its window is not written down.",
    Failpoint.SEND_AFTER_MARK: "It is written down that the operation is being sent.",
    Failpoint.SEND_BEFORE_CALL: "The request is about to leave.",
    Failpoint.SEND_AFTER_CALL: "The provider has answered, or has not; nothing is booked.",
    Failpoint.LOOK_UP_BEFORE_CALL: "The provider is about to be asked what became of an operation.",
    Failpoint.LOOK_UP_AFTER_CALL: "The look-up has its answer; nothing is booked.",
    Failpoint.SETTLE_STARTED: "An answer is there, of a sending, a look-up or a webhook.",
    Failpoint.APPLY_BEFORE_COMMIT: "A decision is about to be booked.",
    Failpoint.APPLY_AFTER_COMMIT: "Outcome, status, ledger and events are committed; nobody was told.",
    Failpoint.JOINT_BEFORE_RECOVERY: "An all-or-nothing checkout has its next step committed; nobody has begun it.",
    Failpoint.POSTPONE_BEFORE_COMMIT: "An operation without a decision is about to be put back.",
    Failpoint.POSTPONE_AFTER_COMMIT: "It is put back and due again.",
    Failpoint.REFUSE_BEFORE_COMMIT: "An answer about something else is about to be put before a person.",
    Failpoint.REFUSE_AFTER_COMMIT: "The operation waits for a person.",
    Failpoint.RECOVERY_BEFORE_CLAIM: "Work that is due or left behind is about to be claimed.",
    Failpoint.CLAIM_BEFORE_READ: "Operations are claimed under new attempt numbers; we have not read them.",
    Failpoint.RECOVERY_BEFORE_START: "Claimed operations are read and not yet begun.",
    Failpoint.STOP_BEFORE_RELEASE: "A gateway that stops is about to give its leases back.",
    Failpoint.STOP_AFTER_RELEASE: "The leases are given back.",
    Failpoint.CAPTURE_BEFORE_COMMIT: "A capture was asked for; nothing is written.",
    Failpoint.CAPTURE_AFTER_COMMIT: "The capture is committed and leased to this process.",
    Failpoint.CANCEL_BEFORE_COMMIT: "A cancellation was asked for; nothing is written.",
    Failpoint.CANCEL_AFTER_COMMIT: "The void is committed and leased to this process.",
    Failpoint.REFUND_BEFORE_COMMIT: "A refund was asked for; nothing is reserved.",
    Failpoint.REFUND_AFTER_COMMIT: "The refund is reserved on its order and committed.",
    Failpoint.PAYOUT_BEFORE_COMMIT: "A payout was asked for; nothing has left the seller's balance.",
    Failpoint.PAYOUT_AFTER_COMMIT: "The payout is out of the balance and committed; nobody was asked.",
    Failpoint.PAYOUT_RUN_BEFORE_COMMIT: "A run of payouts is due and made out; nothing is written.",
    Failpoint.PAYOUT_RUN_AFTER_COMMIT: "The run and its items are committed; none of them was asked for.",
    Failpoint.PAYOUT_RUN_BEFORE_ITEM: "An item of a run that may go is about to be asked for.",
    Failpoint.LATE_BEFORE_READ: "Late successes that policy refunds are about to be looked for.",
    Failpoint.LATE_BEFORE_REQUEST: "A refund that policy owes is about to be reserved.",
    Failpoint.INBOX_BEFORE_STORE: "Authentic events have arrived; nothing is stored and nobody was answered.",
    Failpoint.INBOX_AFTER_STORE: "The events are stored; the provider has no answer yet.",
    Failpoint.INBOX_BEFORE_CLAIM: "Stored events are about to be claimed.",
    Failpoint.INBOX_AFTER_CLAIM: "Events are claimed and not yet read.",
    Failpoint.INBOX_BEFORE_ACT: "An event is read and compared with how its operation stands.",
    Failpoint.INBOX_BEFORE_BOOK: "An event decides an operation, which is about to be claimed.",
    Failpoint.INBOX_BEFORE_APPLY: "The operation is claimed; the event's word is not booked.",
    Failpoint.INBOX_BEFORE_REOPEN: "An event contradicts a decision, which is about to be opened again.",
    Failpoint.INBOX_BEFORE_ASK: "The operation is open again; the provider was not asked.",
    Failpoint.INBOX_BEFORE_TELL: "An event about something else is about to be told as an incident.",
    Failpoint.INBOX_AFTER_TELL: "The incident is told; the event is not settled.",
    Failpoint.INBOX_BEFORE_SETTLE: "Events were handled; that is not written down.",
    Failpoint.INBOX_AFTER_SETTLE: "What became of the events is written down.",
    Failpoint.UPKEEP_BEFORE_CLAIM: "Authorizations that should be over are about to be claimed.",
    Failpoint.UPKEEP_BEFORE_REOPEN: "They are claimed; their operations are not open again.",
    Failpoint.UPKEEP_BEFORE_START: "Their operations are open again; the provider was not asked.",
    Failpoint.ANSWER_BEFORE_RUN: "A checkout is accepted; its operations have not begun.",
    Failpoint.ANSWER_BEFORE_REPLY: "What became of the checkout is known; the shop has no answer.",
}


@final
class _Nothing:
    """An await that is over at once and makes nothing."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


class Failpoints:
    """What happens when a failpoint is reached. Here: nothing, at the price of a call."""

    __slots__ = ()

    def reach(self, failpoint: Failpoint) -> Awaitable[None]:  # noqa: ARG002 - who arms failpoints looks at it
        """Come to a failpoint."""
        return _NOTHING


_NOTHING: Final = _Nothing()
CALM: Final = Failpoints()
