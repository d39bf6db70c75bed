"""Where a failpoint is at home: the scenario that reaches it, and what its gateway does outside next.

That decides which cells make sense. A connection can be cut only at a statement; an answer can be lost only where one
is on its way, the PSP's or the gateway's own. A test holds this table against the run without faults.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tests.failpoints.stage import Fault, Next

from coatcheck.failpoints import Failpoint


@dataclass(frozen=True, slots=True)
class Home:
    """The scenario, and what comes next outside when it reaches the failpoint for the first time."""

    scenario: str
    next: Next


ANYWHERE: Final = (Fault.KILL, Fault.EXCEPTION, Fault.HANG, Fault.STOP)
AT: Final[Mapping[Next, tuple[Fault, ...]]] = {
    Next.STATEMENT: (Fault.CUT_BEFORE_COMMIT, Fault.CUT_AFTER_COMMIT),
    Next.CALL: (Fault.ANSWER_LOST,),
    Next.REPLY: (Fault.ANSWER_LOST,),
    Next.NOTHING: (),
}


def makes_sense(fault: Fault, what_is_next: Next) -> bool:
    """Say whether a fault can strike where this comes next."""
    return fault in ANYWHERE or fault in AT[what_is_next]


HOMES: Final[Mapping[Failpoint, Home]] = {
    Failpoint.ACCEPT_BEFORE_COMMIT: Home("pay_in", Next.STATEMENT),
    Failpoint.ACCEPT_AFTER_COMMIT: Home("pay_in", Next.CALL),
    Failpoint.RUN_STARTED: Home("pay_in", Next.CALL),
    Failpoint.REGISTER_BEFORE_CALL: Home("two_steps", Next.CALL),
    Failpoint.REGISTER_AFTER_CALL: Home("two_steps", Next.STATEMENT),
    Failpoint.REGISTER_BEFORE_COMMIT: Home("two_steps", Next.STATEMENT),
    Failpoint.REGISTER_AFTER_COMMIT: Home("two_steps", Next.CALL),
    Failpoint.SEND_BEFORE_MARK: Home("retry", Next.STATEMENT),
    Failpoint.SEND_AFTER_MARK: Home("retry", Next.CALL),
    Failpoint.SEND_BEFORE_CALL: Home("pay_in", Next.CALL),
    Failpoint.SEND_AFTER_CALL: Home("pay_in", Next.STATEMENT),
    Failpoint.LOOK_UP_BEFORE_CALL: Home("look_up", Next.CALL),
    Failpoint.LOOK_UP_AFTER_CALL: Home("look_up", Next.STATEMENT),
    Failpoint.SETTLE_STARTED: Home("pay_in", Next.STATEMENT),
    Failpoint.APPLY_BEFORE_COMMIT: Home("pay_in", Next.STATEMENT),
    Failpoint.APPLY_AFTER_COMMIT: Home("pay_in", Next.STATEMENT),
    Failpoint.JOINT_BEFORE_RECOVERY: Home("all_or_nothing", Next.STATEMENT),
    Failpoint.POSTPONE_BEFORE_COMMIT: Home("retry", Next.STATEMENT),
    Failpoint.POSTPONE_AFTER_COMMIT: Home("retry", Next.STATEMENT),
    Failpoint.REFUSE_BEFORE_COMMIT: Home("wrong_amount", Next.STATEMENT),
    Failpoint.REFUSE_AFTER_COMMIT: Home("wrong_amount", Next.STATEMENT),
    Failpoint.RECOVERY_BEFORE_CLAIM: Home("retry", Next.STATEMENT),
    Failpoint.CLAIM_BEFORE_READ: Home("retry", Next.STATEMENT),
    Failpoint.RECOVERY_BEFORE_START: Home("retry", Next.STATEMENT),
    Failpoint.STOP_BEFORE_RELEASE: Home("stopped", Next.STATEMENT),
    Failpoint.STOP_AFTER_RELEASE: Home("stopped", Next.REPLY),
    Failpoint.CAPTURE_BEFORE_COMMIT: Home("captured", Next.STATEMENT),
    Failpoint.CAPTURE_AFTER_COMMIT: Home("captured", Next.STATEMENT),
    Failpoint.CANCEL_BEFORE_COMMIT: Home("cancelled", Next.STATEMENT),
    Failpoint.CANCEL_AFTER_COMMIT: Home("cancelled", Next.STATEMENT),
    Failpoint.REFUND_BEFORE_COMMIT: Home("refunded", Next.STATEMENT),
    Failpoint.REFUND_AFTER_COMMIT: Home("refunded", Next.STATEMENT),
    Failpoint.PAYOUT_BEFORE_COMMIT: Home("paid_out", Next.STATEMENT),
    Failpoint.PAYOUT_AFTER_COMMIT: Home("paid_out", Next.STATEMENT),
    Failpoint.PAYOUT_RUN_BEFORE_COMMIT: Home("payout_run", Next.STATEMENT),
    Failpoint.PAYOUT_RUN_AFTER_COMMIT: Home("payout_run", Next.STATEMENT),
    Failpoint.PAYOUT_RUN_BEFORE_ITEM: Home("payout_run", Next.STATEMENT),
    Failpoint.LATE_BEFORE_READ: Home("late", Next.STATEMENT),
    Failpoint.LATE_BEFORE_REQUEST: Home("late", Next.STATEMENT),
    Failpoint.INBOX_BEFORE_STORE: Home("webhook", Next.STATEMENT),
    Failpoint.INBOX_AFTER_STORE: Home("webhook", Next.REPLY),
    Failpoint.INBOX_BEFORE_CLAIM: Home("webhook", Next.STATEMENT),
    Failpoint.INBOX_AFTER_CLAIM: Home("webhook", Next.STATEMENT),
    Failpoint.INBOX_BEFORE_ACT: Home("webhook", Next.STATEMENT),
    Failpoint.INBOX_BEFORE_BOOK: Home("webhook", Next.STATEMENT),
    Failpoint.INBOX_BEFORE_APPLY: Home("webhook", Next.STATEMENT),
    Failpoint.INBOX_BEFORE_REOPEN: Home("lapsed", Next.STATEMENT),
    Failpoint.INBOX_BEFORE_ASK: Home("lapsed", Next.CALL),
    Failpoint.INBOX_BEFORE_TELL: Home("mistaken", Next.STATEMENT),
    Failpoint.INBOX_AFTER_TELL: Home("mistaken", Next.STATEMENT),
    Failpoint.INBOX_BEFORE_SETTLE: Home("webhook", Next.STATEMENT),
    Failpoint.INBOX_AFTER_SETTLE: Home("webhook", Next.REPLY),
    Failpoint.UPKEEP_BEFORE_CLAIM: Home("overdue", Next.STATEMENT),
    Failpoint.UPKEEP_BEFORE_REOPEN: Home("overdue", Next.STATEMENT),
    Failpoint.UPKEEP_BEFORE_START: Home("overdue", Next.STATEMENT),
    Failpoint.ANSWER_BEFORE_RUN: Home("over_http", Next.CALL),
    Failpoint.ANSWER_BEFORE_REPLY: Home("over_http", Next.REPLY),
}
