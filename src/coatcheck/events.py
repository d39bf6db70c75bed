"""The audit events: every state change writes one, in the same commit, with all that a rebuild of the state needs."""

from enum import StrEnum


class EventKind(StrEnum):
    """What can happen, in the past tense. Each kind is described in docs/events.md."""

    PAYMENT_ACCEPTED = "payment.accepted"
    ORDER_SUCCEEDED = "order.succeeded"
    ORDER_FAILED = "order.failed"
    ORDER_PENDING = "order.pending"
    OPERATION_REGISTERED = "operation.registered"
    OPERATION_CLAIMED = "operation.claimed"
    OPERATION_RESCHEDULED = "operation.rescheduled"
    OPERATION_UNRESOLVED = "operation.unresolved"
    OPERATION_ANSWER_REFUSED = "operation.answer_refused"
    ACCOUNT_OPENED = "account.opened"
    API_KEY_CREATED = "api_key.created"
    API_KEY_REVOKED = "api_key.revoked"
