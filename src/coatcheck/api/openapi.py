"""The OpenAPI 3.1 document: written from the routes, their docstrings and the Structs that decode and encode bodies.

Handlers take the raw request, so a framework cannot see what they take and give; `Operation` says it, next to nothing
that could drift: bodies are the Structs themselves, statuses the error codes. A test holds the list against the routes.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from litestar.handlers import HTTPRouteHandler

from coatcheck import __version__
from coatcheck.api.breaks import (
    BreakBody,
    BreakListBody,
    BreakListParameters,
    BreakProposalBody,
    ConfirmBreakResolution,
    ProposeBreakResolution,
    confirm_break_resolution,
    get_break,
    list_breaks,
    propose_break_resolution,
)
from coatcheck.api.dead_letters import (
    ConfirmResolution,
    DeadLetterBody,
    DeadLetterDetailBody,
    DeadLetterListBody,
    DeadLetterListParameters,
    ProposalBody,
    ReplayBody,
    ReplayDeadLetters,
    ResolutionBody,
    ResolveDeadLetter,
    confirm_dead_letter,
    confirm_replay,
    get_dead_letter,
    list_dead_letters,
    replay_dead_letters,
    resolve_dead_letter,
    retry_dead_letter,
)
from coatcheck.api.dead_webhooks import (
    DismissWebhook,
    ReplayWebhooks,
    WebhookBody,
    WebhookDetailBody,
    WebhookListBody,
    WebhookListParameters,
    WebhookReplayBody,
    dismiss_webhook,
    get_webhook,
    list_webhooks,
    replay_webhooks,
    retry_webhook,
)
from coatcheck.api.disputes import (
    AcceptDispute,
    AnswerDispute,
    DisputeBody,
    DisputeEvidenceBody,
    DisputeListBody,
    DisputeListParameters,
    accept_dispute,
    answer_dispute,
    get_dispute,
    list_disputes,
)
from coatcheck.api.edge import JSON, PROBLEM_JSON, ProblemBody, problem
from coatcheck.api.ledger import TrialBalanceBody, TrialBalanceParameters, get_trial_balance
from coatcheck.api.payees import (
    DestinationsBody,
    SchedulesBody,
    get_destination,
    get_schedule,
    put_destination,
    put_schedule,
)
from coatcheck.api.payment_acts import cancel_payment, capture_payment
from coatcheck.api.payment_list import (
    EventListBody,
    PaymentListBody,
    PaymentListParameters,
    list_payment_events,
    list_payments,
)
from coatcheck.api.payment_orders import PaymentOrderBody, get_payment_order
from coatcheck.api.payments import PaymentBody, create_payment, get_payment
from coatcheck.api.payout_runs import (
    PayoutRunDetailBody,
    PayoutRunListBody,
    PayoutRunListParameters,
    decide_payout_run,
    get_payout_run,
    list_payout_runs,
)
from coatcheck.api.payouts import (
    PayoutBody,
    PayoutListBody,
    PayoutListParameters,
    create_payout,
    get_payout,
    list_payouts,
)
from coatcheck.api.questions import NAME_PATTERN, PageParameters, Parameters, required_of, schema_of
from coatcheck.api.reconciliations import (
    CSV,
    HTML,
    AgeingBody,
    ReconciliationBody,
    ReconciliationListBody,
    ReconciliationParameters,
    UploadParameters,
    create_reconciliation,
    get_ageing,
    get_reconciliation,
    list_reconciliations,
)
from coatcheck.api.refunds import (
    RefundBody,
    RefundListBody,
    RefundListParameters,
    create_refund,
    get_refund,
    list_refunds,
)
from coatcheck.api.reports import (
    FeesBody,
    ReportParameters,
    RevenueBody,
    VolumesBody,
    get_fees,
    get_revenue,
    get_volumes,
)
from coatcheck.api.retry_queue import RetryDetailBody, RetryQueueBody, get_retry, list_retry_queue
from coatcheck.api.seller_statements import (
    PDF,
    SellerStatementBody,
    SellerStatementParameters,
    get_seller_statement,
)
from coatcheck.api.sellers import (
    SellerTermsBody,
    SetSellerTerms,
    WalletBody,
    WalletParameters,
    get_seller_terms,
    get_wallet,
    put_seller_terms,
)
from coatcheck.api.statements import (
    LedgerAccountListBody,
    StatementBody,
    StatementParameters,
    get_statement,
    list_accounts,
)
from coatcheck.errors import ErrorCode
from coatcheck.money import EXPONENTS
from coatcheck.validation import (
    CancelPayment,
    CapturePayment,
    CreatePayment,
    CreatePayout,
    CreateRefund,
    DecidePayoutRun,
    PutPayoutDestination,
    PutPayoutSchedule,
)

_REFERENCE = "#/components/schemas/{name}"
_ANY = (ErrorCode.UNAUTHENTICATED, ErrorCode.CARD_NUMBER_REFUSED, ErrorCode.INTERNAL, ErrorCode.OVERLOADED)
_LIST = (ErrorCode.INVALID_CURSOR, ErrorCode.INVALID_REQUEST)

_EXAMPLE = {
    "buyer": {"reference": "buyer-7", "country": "GB"},
    "checkout_id": "checkout-1001",
    "payment_method": {"token": "tok_approve"},
    "payment_orders": [
        {
            "payment_order_id": "order-1001-a",
            "seller_account": "seller-42",
            "amount": "129.95",
            "currency": "EUR",
            "commission": "12.99",
        },
        {"payment_order_id": "order-1001-b", "seller_account": "seller-43", "amount": "9500", "currency": "JPY"},
    ],
    "metadata": {"cart": "summer"},
}

_CAPTURE_EXAMPLE = {"payment_orders": [{"payment_order_id": "order-1001-a", "amount": "100.00"}]}
_REFUND_EXAMPLE = {"payment_order_id": "order-1001-a", "amount": "29.95", "reason": "the hat was too small"}

_EVIDENCE_EXAMPLE = {
    "texts": {"explanation": "The hat was delivered and signed for.", "shipping_tracking_number": "AB-42"},
    "files": [{"part": "receipt", "name": "receipt.pdf", "content_type": "application/pdf", "content": "JVBERi0xLjQK"}],
}

_PATH_PARAMETERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "payment_id": (
        "The payment's id, as the gateway printed it.",
        {"type": "string", "pattern": "^pay_[a-z2-7]{26}$", "examples": ["pay_dpgs5zdhcp7p3nlvvnjrb7o7cq"]},
    ),
    "refund_id": (
        "The refund's id, as the gateway printed it.",
        {"type": "string", "pattern": "^rf_[a-z2-7]{26}$", "examples": ["rf_dpgs5zdhcp7p3nlvvnjrb7o7cq"]},
    ),
    "dispute_id": (
        "The dispute's id, as the gateway printed it.",
        {"type": "string", "pattern": "^dsp_[a-z2-7]{26}$", "examples": ["dsp_dpgs5zdhcp7p3nlvvnjrb7o7cq"]},
    ),
    "payout_id": (
        "The payout's id, as the gateway printed it.",
        {"type": "string", "pattern": "^out_[a-z2-7]{26}$", "examples": ["out_dpgs5zdhcp7p3nlvvnjrb7o7cq"]},
    ),
    "run_id": (
        "The id of the run of payouts, as the gateway printed it.",
        {"type": "string", "pattern": "^run_[a-z2-7]{26}$", "examples": ["run_dpgs5zdhcp7p3nlvvnjrb7o7cq"]},
    ),
    "operation_id": (
        "The operation's id, as the gateway printed it: our reference at the provider.",
        {"type": "string", "pattern": "^op_[a-z2-7]{26}$", "examples": ["op_dpgs5zdhcp7p3nlvvnjrb7o7cq"]},
    ),
    "replay_id": (
        "The id of a bulk retry that was proposed, as the gateway printed it.",
        {"type": "string", "pattern": "^rpl_[a-z2-7]{26}$", "examples": ["rpl_dpgs5zdhcp7p3nlvvnjrb7o7cq"]},
    ),
    "inbox_id": (
        "The stored event's id, as the gateway printed it.",
        {"type": "string", "pattern": "^in_[a-z2-7]{26}$", "examples": ["in_dpgs5zdhcp7p3nlvvnjrb7o7cq"]},
    ),
    "reconciliation_id": (
        "The id of a file that was taken, as the gateway printed it.",
        {"type": "string", "pattern": "^rec_[a-z2-7]{26}$", "examples": ["rec_dpgs5zdhcp7p3nlvvnjrb7o7cq"]},
    ),
    "break_id": (
        "The break's id, as the gateway printed it.",
        {"type": "string", "pattern": "^brk_[a-z2-7]{26}$", "examples": ["brk_dpgs5zdhcp7p3nlvvnjrb7o7cq"]},
    ),
    "payment_order_id": (
        "The shop's own id of the payment order; percent-encoded, a slash as %2F.",
        {"type": "string", "minLength": 1, "maxLength": 128, "pattern": NAME_PATTERN, "examples": ["order-7001-a"]},
    ),
    "account_name": (
        "The name of a ledger account, as the list of accounts has it; percent-encoded, a slash as %2F.",
        {
            "type": "string",
            "minLength": 1,
            "maxLength": 200,
            "pattern": NAME_PATTERN,
            "examples": ["seller:seller-42:pending"],
        },
    ),
    "seller_account": (
        "The shop's own id of the seller; percent-encoded, a slash as %2F.",
        {"type": "string", "minLength": 1, "maxLength": 128, "pattern": NAME_PATTERN, "examples": ["seller-42"]},
    ),
}


def _preferences(life: str, example: str) -> Sequence[Mapping[str, Any]]:
    """Describe the headers of a request that moves money; `life`: how long its key is remembered."""
    return (
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "A text of your own that names this request: the same whenever you send it again, new for a "
            f"new one. A quoted string (RFC 8941) or bare. Needed here or as `idempotency_key` in the body; {life}.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": NAME_PATTERN},
            "example": example,
        },
        {
            "name": "Prefer",
            "in": "header",
            "required": False,
            "description": "`wait=N` (RFC 7240): answer after N seconds with what is known then. Anything else is "
            "passed over.",
            "schema": {"type": "string"},
            "example": "wait=10",
        },
    )


_REPLAYED = {
    "Idempotent-Replayed": {
        "description": "There, with the value true, when this is the answer to an earlier request.",
        "schema": {"type": "string", "enum": ["true"]},
    }
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}}}
_CHALLENGE = {"WWW-Authenticate": {"description": "How to authenticate.", "schema": {"type": "string"}}}
_HEADERS_OF_PROBLEM: Mapping[int, Mapping[str, Any]] = {401: _CHALLENGE, 409: _RETRY_AFTER, 503: _RETRY_AFTER}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One way an operation succeeds. `files`: what else than JSON it may be, as bytes."""

    status: int
    body: type[msgspec.Struct]
    meaning: str
    headers: Mapping[str, Any] = {}
    texts: tuple[str, ...] = ()  # media types that it may be asked for as, beside JSON


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one address: what it takes, and every answer it can give."""

    tag: str
    method: str
    path: str
    handler: HTTPRouteHandler
    answers: tuple[Answer, ...]
    problems: tuple[ErrorCode, ...] = ()
    parameters: type[Parameters] = Parameters
    headers: Sequence[Mapping[str, Any]] = ()
    body: type[msgspec.Struct] | None = None
    example: Mapping[str, Any] | None = None
    file_example: str | None = None  # of a body that is a file, in whatever format


# What a body may be refused for, and what every POST that moves money may be.
_BODY = (
    ErrorCode.MALFORMED_BODY,
    ErrorCode.BODY_TOO_SLOW,
    ErrorCode.BODY_TOO_LARGE,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.INVALID_REQUEST,
)
_POST = (
    *_BODY,
    ErrorCode.IDEMPOTENCY_KEY_MISSING,
    ErrorCode.IDEMPOTENCY_KEY_MISMATCH,
    ErrorCode.IDEMPOTENCY_KEY_INVALID,
    ErrorCode.RECOVERING,
)
_FOR_EVER = "it is the ticket of what it asks for, and remembered for ever"

_FILE_EXAMPLE = "batch,line,type,id,charge,reference,occurred_at,currency,gross,fee,net\n..."
_FILE_HEADERS = (
    {
        "name": "Content-Disposition",
        "in": "header",
        "required": False,
        "description": "`attachment; filename=...`: what you call the file, where `name` does not say it.",
        "schema": {"type": "string"},
        "example": 'attachment; filename="settlement-2026-11-20.csv"',
    },
)

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        tag="Payments",
        method="post",
        path="/v1/payments",
        handler=create_payment,
        body=CreatePayment,
        example=_EXAMPLE,
        headers=_preferences("remembered for 24 hours", "7f3c9d0e-place-order"),
        answers=(
            Answer(
                status=201,
                body=PaymentBody,
                meaning="Every order is decided; a decline is a result.",
                headers=_REPLAYED,
            ),
            Answer(status=202, body=PaymentBody, meaning="What is known so far; the gateway goes on, ask with GET."),
        ),
        problems=(
            *_POST,
            ErrorCode.REQUEST_IN_PROGRESS,
            ErrorCode.CHECKOUT_CONFLICT,
            ErrorCode.PAYMENT_ORDER_CONFLICT,
            ErrorCode.IDEMPOTENCY_KEY_REUSED,
        ),
    ),
    Operation(
        tag="Payments",
        method="post",
        path="/v1/payments/{payment_id}/capture",
        handler=capture_payment,
        body=CapturePayment,
        example=_CAPTURE_EXAMPLE,
        headers=_preferences(_FOR_EVER, "7f3c9d0e-capture"),
        answers=(
            Answer(
                status=200,
                body=PaymentBody,
                meaning="The payment as it stands. An order that the provider refused to capture is still AUTHORIZED.",
                headers=_REPLAYED,
            ),
            Answer(status=202, body=PaymentBody, meaning="The outcome is not known yet; the gateway goes on."),
        ),
        problems=(
            *_POST,
            ErrorCode.NOT_FOUND,
            ErrorCode.CAPTURE_NOT_POSSIBLE,
            ErrorCode.IDEMPOTENCY_KEY_REUSED,
        ),
    ),
    Operation(
        tag="Payments",
        method="post",
        path="/v1/payments/{payment_id}/cancel",
        handler=cancel_payment,
        body=CancelPayment,
        example={"idempotency_key": "7f3c9d0e-cancel"},
        headers=_preferences(_FOR_EVER, "7f3c9d0e-cancel"),
        answers=(
            Answer(status=200, body=PaymentBody, meaning="The payment as it stands.", headers=_REPLAYED),
            Answer(status=202, body=PaymentBody, meaning="The outcome is not known yet; the gateway goes on."),
        ),
        problems=(
            *_POST,
            ErrorCode.NOT_FOUND,
            ErrorCode.PAYMENT_ALREADY_CHARGED,
            ErrorCode.OPERATION_IN_PROGRESS,
        ),
    ),
    Operation(
        tag="Refunds",
        method="post",
        path="/v1/refunds",
        handler=create_refund,
        body=CreateRefund,
        example=_REFUND_EXAMPLE,
        headers=_preferences(_FOR_EVER, "7f3c9d0e-refund"),
        answers=(
            Answer(
                status=201,
                body=RefundBody,
                meaning="The refund is decided; a refusal of the provider's is a result.",
                headers=_REPLAYED,
            ),
            Answer(status=202, body=RefundBody, meaning="The refund is PENDING; the gateway goes on, ask with GET."),
        ),
        problems=(
            *_POST,
            ErrorCode.NOT_FOUND,
            ErrorCode.REFUND_NOT_POSSIBLE,
            ErrorCode.IDEMPOTENCY_KEY_REUSED,
        ),
    ),
    Operation(
        tag="Refunds",
        method="get",
        path="/v1/refunds",
        handler=list_refunds,
        parameters=RefundListParameters,
        answers=(Answer(status=200, body=RefundListBody, meaning="One page."),),
        problems=(*_LIST, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Refunds",
        method="get",
        path="/v1/refunds/{refund_id}",
        handler=get_refund,
        answers=(Answer(status=200, body=RefundBody, meaning="The refund."),),
        problems=(ErrorCode.NOT_FOUND,),
    ),
    Operation(
        tag="Payouts",
        method="post",
        path="/v1/payouts",
        handler=create_payout,
        body=CreatePayout,
        example={"seller_account": "seller-42", "currency": "EUR", "amount": "250.00"},
        headers=_preferences(_FOR_EVER, "7f3c9d0e-payout"),
        answers=(
            Answer(
                status=201,
                body=PayoutBody,
                meaning="The payout is decided; a refusal of the provider's is a result.",
                headers=_REPLAYED,
            ),
            Answer(status=202, body=PayoutBody, meaning="The payout is PENDING; the gateway goes on, ask with GET."),
        ),
        problems=(*_POST, ErrorCode.PAYOUT_NOT_POSSIBLE, ErrorCode.IDEMPOTENCY_KEY_REUSED),
    ),
    Operation(
        tag="Payouts",
        method="get",
        path="/v1/payouts",
        handler=list_payouts,
        parameters=PayoutListParameters,
        answers=(Answer(status=200, body=PayoutListBody, meaning="One page."),),
        problems=_LIST,
    ),
    Operation(
        tag="Payouts",
        method="get",
        path="/v1/payouts/{payout_id}",
        handler=get_payout,
        answers=(Answer(status=200, body=PayoutBody, meaning="The payout."),),
        problems=(ErrorCode.NOT_FOUND,),
    ),
    Operation(
        tag="Payouts",
        method="put",
        path="/v1/sellers/{seller_account}/payout_destination",
        handler=put_destination,
        body=PutPayoutDestination,
        example={"currency": "EUR", "token": "dest_ok.hat-maker"},
        answers=(Answer(status=200, body=DestinationsBody, meaning="Where the seller's money goes now."),),
        problems=(*_BODY, ErrorCode.BANK_DETAILS_REFUSED, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Payouts",
        method="get",
        path="/v1/sellers/{seller_account}/payout_destination",
        handler=get_destination,
        answers=(Answer(status=200, body=DestinationsBody, meaning="Where the seller's money goes."),),
        problems=(ErrorCode.NOT_FOUND,),
    ),
    Operation(
        tag="Payouts",
        method="put",
        path="/v1/sellers/{seller_account}/payout_schedule",
        handler=put_schedule,
        body=PutPayoutSchedule,
        example={"currency": "EUR", "cron": "0 6 * * 1", "threshold": "100.00"},
        answers=(Answer(status=200, body=SchedulesBody, meaning="When the seller is paid now."),),
        problems=(*_BODY, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Payouts",
        method="get",
        path="/v1/sellers/{seller_account}/payout_schedule",
        handler=get_schedule,
        answers=(Answer(status=200, body=SchedulesBody, meaning="When the seller is paid."),),
        problems=(ErrorCode.NOT_FOUND,),
    ),
    Operation(
        tag="Payouts",
        method="get",
        path="/v1/payout_runs",
        handler=list_payout_runs,
        parameters=PayoutRunListParameters,
        answers=(Answer(status=200, body=PayoutRunListBody, meaning="One page."),),
        problems=_LIST,
    ),
    Operation(
        tag="Payouts",
        method="get",
        path="/v1/payout_runs/{run_id}",
        handler=get_payout_run,
        answers=(Answer(status=200, body=PayoutRunDetailBody, meaning="The run and its items."),),
        problems=(ErrorCode.NOT_FOUND,),
    ),
    Operation(
        tag="Payouts",
        method="post",
        path="/v1/payout_runs/{run_id}/approval",
        handler=decide_payout_run,
        body=DecidePayoutRun,
        example={"decision": "approve"},
        answers=(Answer(status=200, body=PayoutRunDetailBody, meaning="The run as it stands now."),),
        problems=(*_BODY, ErrorCode.NOT_FOUND, ErrorCode.APPROVAL_NOT_POSSIBLE),
    ),
    Operation(
        tag="Money",
        method="get",
        path="/v1/sellers/{seller_account}/statement",
        handler=get_seller_statement,
        parameters=SellerStatementParameters,
        answers=(
            Answer(
                status=200,
                body=SellerStatementBody,
                meaning="The statement.",
                texts=(CSV, PDF),
                headers={"Content-Disposition": {"description": "A name for the file.", "schema": {"type": "string"}}},
            ),
        ),
        problems=(ErrorCode.INVALID_REQUEST, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Payments",
        method="get",
        path="/v1/payments",
        handler=list_payments,
        parameters=PaymentListParameters,
        answers=(Answer(status=200, body=PaymentListBody, meaning="One page."),),
        problems=_LIST,
    ),
    Operation(
        tag="Payments",
        method="get",
        path="/v1/payments/{payment_id}",
        handler=get_payment,
        answers=(Answer(status=200, body=PaymentBody, meaning="The payment."),),
        problems=(ErrorCode.NOT_FOUND,),
    ),
    Operation(
        tag="Payments",
        method="get",
        path="/v1/payments/{payment_id}/events",
        handler=list_payment_events,
        parameters=PageParameters,
        answers=(Answer(status=200, body=EventListBody, meaning="One page."),),
        problems=(*_LIST, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Payments",
        method="get",
        path="/v1/payment_orders/{payment_order_id}",
        handler=get_payment_order,
        answers=(Answer(status=200, body=PaymentOrderBody, meaning="The payment order."),),
        problems=(ErrorCode.INVALID_REQUEST, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Money",
        method="get",
        path="/v1/sellers/{seller_account}/wallet",
        handler=get_wallet,
        parameters=WalletParameters,
        answers=(Answer(status=200, body=WalletBody, meaning="The wallet."),),
        problems=(ErrorCode.INVALID_REQUEST, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Money",
        method="get",
        path="/v1/sellers/{seller_account}/terms",
        handler=get_seller_terms,
        answers=(Answer(status=200, body=SellerTermsBody, meaning="The terms that hold now."),),
        problems=(ErrorCode.INVALID_REQUEST, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Money",
        method="put",
        path="/v1/sellers/{seller_account}/terms",
        handler=put_seller_terms,
        body=SetSellerTerms,
        example={"hold_days": 7, "reserve_basis_points": 500, "reserve_days": 90},
        answers=(Answer(status=200, body=SellerTermsBody, meaning="The terms that hold from now on."),),
        problems=(*_BODY, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Money",
        method="get",
        path="/v1/ledger/trial_balance",
        handler=get_trial_balance,
        parameters=TrialBalanceParameters,
        answers=(Answer(status=200, body=TrialBalanceBody, meaning="The trial balance."),),
        problems=_LIST,
    ),
    Operation(
        tag="Money",
        method="get",
        path="/v1/ledger/accounts",
        handler=list_accounts,
        parameters=PageParameters,
        answers=(Answer(status=200, body=LedgerAccountListBody, meaning="One page."),),
        problems=_LIST,
    ),
    Operation(
        tag="Money",
        method="get",
        path="/v1/ledger/accounts/{account_name}/statement",
        handler=get_statement,
        parameters=StatementParameters,
        answers=(Answer(status=200, body=StatementBody, meaning="One page."),),
        problems=(*_LIST, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Reports",
        method="get",
        path="/v1/reports/revenue",
        handler=get_revenue,
        parameters=ReportParameters,
        answers=(Answer(status=200, body=RevenueBody, meaning="The report."),),
        problems=_LIST,
    ),
    Operation(
        tag="Reports",
        method="get",
        path="/v1/reports/fees",
        handler=get_fees,
        parameters=ReportParameters,
        answers=(Answer(status=200, body=FeesBody, meaning="The report."),),
        problems=_LIST,
    ),
    Operation(
        tag="Reports",
        method="get",
        path="/v1/reports/volumes",
        handler=get_volumes,
        parameters=ReportParameters,
        answers=(Answer(status=200, body=VolumesBody, meaning="The report."),),
        problems=_LIST,
    ),
    Operation(
        tag="Disputes",
        method="get",
        path="/v1/disputes",
        handler=list_disputes,
        parameters=DisputeListParameters,
        answers=(Answer(status=200, body=DisputeListBody, meaning="One page."),),
        problems=(*_LIST, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Disputes",
        method="get",
        path="/v1/disputes/{dispute_id}",
        handler=get_dispute,
        answers=(Answer(status=200, body=DisputeBody, meaning="The dispute."),),
        problems=(ErrorCode.INVALID_REQUEST, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Disputes",
        method="post",
        path="/v1/disputes/{dispute_id}/evidence",
        handler=answer_dispute,
        body=AnswerDispute,
        example=_EVIDENCE_EXAMPLE,
        headers=_preferences(_FOR_EVER, "7f3c9d0e-evidence"),
        answers=(
            Answer(
                status=201,
                body=DisputeEvidenceBody,
                meaning="The provider has it, or refuses it; a refusal of the provider's is a result.",
                headers=_REPLAYED,
            ),
            Answer(status=202, body=DisputeEvidenceBody, meaning="It is being passed on; ask with GET."),
        ),
        problems=(
            *_POST,
            ErrorCode.NOT_FOUND,
            ErrorCode.DISPUTE_NOT_ANSWERABLE,
            ErrorCode.IDEMPOTENCY_KEY_REUSED,
        ),
    ),
    Operation(
        tag="Disputes",
        method="post",
        path="/v1/disputes/{dispute_id}/accept",
        handler=accept_dispute,
        body=AcceptDispute,
        example={"idempotency_key": "7f3c9d0e-accept"},
        headers=_preferences(_FOR_EVER, "7f3c9d0e-accept"),
        answers=(
            Answer(
                status=201,
                body=DisputeEvidenceBody,
                meaning="The provider knows, or refuses it; a refusal of the provider's is a result.",
                headers=_REPLAYED,
            ),
            Answer(status=202, body=DisputeEvidenceBody, meaning="It is being passed on; ask with GET."),
        ),
        problems=(
            *_POST,
            ErrorCode.NOT_FOUND,
            ErrorCode.DISPUTE_NOT_ANSWERABLE,
            ErrorCode.IDEMPOTENCY_KEY_REUSED,
        ),
    ),
    Operation(
        tag="Dead letters",
        method="get",
        path="/v1/retry_queue",
        handler=list_retry_queue,
        parameters=DeadLetterListParameters,
        answers=(Answer(status=200, body=RetryQueueBody, meaning="One page."),),
        problems=_LIST,
    ),
    Operation(
        tag="Dead letters",
        method="get",
        path="/v1/retry_queue/{operation_id}",
        handler=get_retry,
        answers=(Answer(status=200, body=RetryDetailBody, meaning="The operation, and what happens next."),),
        problems=(ErrorCode.INVALID_REQUEST, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Dead letters",
        method="get",
        path="/v1/dead_letters",
        handler=list_dead_letters,
        parameters=DeadLetterListParameters,
        answers=(Answer(status=200, body=DeadLetterListBody, meaning="One page."),),
        problems=_LIST,
    ),
    Operation(
        tag="Dead letters",
        method="get",
        path="/v1/dead_letters/{operation_id}",
        handler=get_dead_letter,
        answers=(Answer(status=200, body=DeadLetterDetailBody, meaning="The dead letter."),),
        problems=(ErrorCode.INVALID_REQUEST, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Dead letters",
        method="post",
        path="/v1/dead_letters/{operation_id}/retry",
        handler=retry_dead_letter,
        answers=(Answer(status=202, body=DeadLetterBody, meaning="It is being asked about."),),
        problems=(ErrorCode.INVALID_REQUEST, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Dead letters",
        method="post",
        path="/v1/dead_letters/{operation_id}/resolve",
        handler=resolve_dead_letter,
        body=ResolveDeadLetter,
        example={"word": "charged", "provider_reference": "ch_3PqX", "reason": "seen in the provider's dashboard"},
        answers=(Answer(status=201, body=ProposalBody, meaning="The proposal; nothing is booked yet."),),
        problems=(*_BODY, ErrorCode.NOT_FOUND, ErrorCode.RESOLUTION_NOT_POSSIBLE),
    ),
    Operation(
        tag="Dead letters",
        method="post",
        path="/v1/dead_letters/{operation_id}/confirm",
        handler=confirm_dead_letter,
        body=ConfirmResolution,
        example={"proposal_id": "prop_dpgs5zdhcp7p3nlvvnjrb7o7cq"},
        answers=(Answer(status=200, body=ResolutionBody, meaning="It is booked."),),
        problems=(*_BODY, ErrorCode.NOT_FOUND, ErrorCode.OPERATION_IN_PROGRESS, ErrorCode.RESOLUTION_NOT_POSSIBLE),
    ),
    Operation(
        tag="Dead letters",
        method="post",
        path="/v1/dead_letters/retry",
        handler=replay_dead_letters,
        body=ReplayDeadLetters,
        example={"dry_run": True, "cause": "read timeout", "older_than_s": 3600},
        answers=(Answer(status=200, body=ReplayBody, meaning="What is, or would be, asked about."),),
        problems=_BODY,
    ),
    Operation(
        tag="Dead letters",
        method="post",
        path="/v1/dead_letters/retry/{replay_id}/confirm",
        handler=confirm_replay,
        answers=(Answer(status=200, body=ReplayBody, meaning="What is asked about."),),
        problems=(ErrorCode.INVALID_REQUEST, ErrorCode.NOT_FOUND, ErrorCode.RESOLUTION_NOT_POSSIBLE),
    ),
    Operation(
        tag="Webhooks",
        method="get",
        path="/v1/webhooks",
        handler=list_webhooks,
        parameters=WebhookListParameters,
        answers=(Answer(status=200, body=WebhookListBody, meaning="One page."),),
        problems=(*_LIST, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Webhooks",
        method="get",
        path="/v1/webhooks/{inbox_id}",
        handler=get_webhook,
        answers=(Answer(status=200, body=WebhookDetailBody, meaning="The event."),),
        problems=(ErrorCode.INVALID_REQUEST, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Webhooks",
        method="post",
        path="/v1/webhooks/{inbox_id}/retry",
        handler=retry_webhook,
        answers=(Answer(status=202, body=WebhookBody, meaning="It is due, or being handled."),),
        problems=(ErrorCode.INVALID_REQUEST, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Webhooks",
        method="post",
        path="/v1/webhooks/{inbox_id}/dismiss",
        handler=dismiss_webhook,
        body=DismissWebhook,
        example={"reason": "of the installation we had before"},
        answers=(Answer(status=200, body=WebhookBody, meaning="It is closed; a first reason stays."),),
        problems=(*_BODY, ErrorCode.NOT_FOUND, ErrorCode.OPERATION_IN_PROGRESS),
    ),
    Operation(
        tag="Webhooks",
        method="post",
        path="/v1/webhooks/retry",
        handler=replay_webhooks,
        body=ReplayWebhooks,
        example={"dry_run": True, "provider": "stripe", "cause": "not known here"},
        answers=(Answer(status=200, body=WebhookReplayBody, meaning="What is, or would be, handled again."),),
        problems=(*_BODY, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Reconciliation",
        method="post",
        path="/v1/reconciliations",
        handler=create_reconciliation,
        parameters=UploadParameters,
        file_example=_FILE_EXAMPLE,
        headers=_FILE_HEADERS,
        answers=(
            Answer(
                status=201,
                body=ReconciliationBody,
                meaning="It is taken; what differs from the books is listed.",
                headers=_REPLAYED,
            ),
        ),
        problems=(
            ErrorCode.MALFORMED_BODY,
            ErrorCode.BODY_TOO_SLOW,
            ErrorCode.BODY_TOO_LARGE,
            ErrorCode.INVALID_REQUEST,
            ErrorCode.FILE_REFUSED,
        ),
    ),
    Operation(
        tag="Reconciliation",
        method="get",
        path="/v1/reconciliations",
        handler=list_reconciliations,
        parameters=PageParameters,
        answers=(Answer(status=200, body=ReconciliationListBody, meaning="One page."),),
        problems=_LIST,
    ),
    Operation(
        tag="Reconciliation",
        method="get",
        path="/v1/reconciliations/{reconciliation_id}",
        handler=get_reconciliation,
        parameters=ReconciliationParameters,
        answers=(Answer(status=200, body=ReconciliationBody, meaning="What became of it.", texts=(CSV, HTML)),),
        problems=(ErrorCode.INVALID_REQUEST, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Reconciliation",
        method="get",
        path="/v1/reports/ageing",
        handler=get_ageing,
        answers=(Answer(status=200, body=AgeingBody, meaning="The ageing."),),
        problems=(ErrorCode.INVALID_REQUEST,),
    ),
    Operation(
        tag="Breaks",
        method="get",
        path="/v1/breaks",
        handler=list_breaks,
        parameters=BreakListParameters,
        answers=(Answer(status=200, body=BreakListBody, meaning="One page."),),
        problems=_LIST,
    ),
    Operation(
        tag="Breaks",
        method="get",
        path="/v1/breaks/{break_id}",
        handler=get_break,
        answers=(Answer(status=200, body=BreakBody, meaning="The break."),),
        problems=(ErrorCode.INVALID_REQUEST, ErrorCode.NOT_FOUND),
    ),
    Operation(
        tag="Breaks",
        method="post",
        path="/v1/breaks/{break_id}/resolution",
        handler=propose_break_resolution,
        body=ProposeBreakResolution,
        example={"destination": "fee", "note": "the fee of a dispute", "evidence": "the invoice of November, page 3"},
        answers=(Answer(status=201, body=BreakProposalBody, meaning="The proposal; nothing is booked yet."),),
        problems=(*_BODY, ErrorCode.NOT_FOUND, ErrorCode.BREAK_RESOLUTION_NOT_POSSIBLE),
    ),
    Operation(
        tag="Breaks",
        method="post",
        path="/v1/breaks/{break_id}/confirmation",
        handler=confirm_break_resolution,
        body=ConfirmBreakResolution,
        example={"proposal_id": "prop_dpgs5zdhcp7p3nlvvnjrb7o7cq"},
        answers=(Answer(status=200, body=BreakBody, meaning="It is closed, and its money has moved."),),
        problems=(*_BODY, ErrorCode.NOT_FOUND, ErrorCode.BREAK_RESOLUTION_NOT_POSSIBLE),
    ),
)


def make_document() -> dict[str, Any]:
    """Write the document."""
    bodies = {answer.body for operation in OPERATIONS for answer in operation.answers}
    bodies |= {operation.body for operation in OPERATIONS if operation.body is not None}
    _, schemas = msgspec.json.schema_components([*sorted(bodies, key=str), ProblemBody], ref_template=_REFERENCE)
    for name in ("CreatePaymentOrder", "CreatePayout", "PutPayoutDestination", "PutPayoutSchedule"):
        schemas[name]["properties"]["currency"]["enum"] = sorted(EXPONENTS)
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Coatcheck",
            "version": __version__,
            "summary": "A self-hosted payment gateway for marketplaces.",
            "description": "A retry never charges twice, a crash never loses a payment, and the books always prove it. "
            "Amounts are decimal text. Every refusal is a problem body (RFC 9457) with a stable `code`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"api_key": []}],
        "tags": [
            {"name": "Payments", "description": "Checkouts in, and what became of them."},
            {"name": "Refunds", "description": "Money back to buyers."},
            {"name": "Disputes", "description": "Buyers' claims, and what the shop answers."},
            {"name": "Payouts", "description": "Money to sellers: asked for, by schedule, from a threshold on."},
            {"name": "Money", "description": "Sellers' wallets and the books."},
            {"name": "Dead letters", "description": "What goes on by itself, and what waits for a person."},
            {"name": "Webhooks", "description": "Providers' events that wait for a person."},
            {"name": "Reconciliation", "description": "The books against settlement files and bank statements."},
        ],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "api_key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key of a shop, as `coatcheck keys create --shop NAME` prints it. The key "
                    "says which shop, and whether test or live.",
                }
            },
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    summary, _, rest = inspect.cleandoc(operation.handler.fn.__doc__ or "").partition("\n")
    described: dict[str, Any] = {
        "operationId": operation.handler.fn.__name__,
        "tags": [operation.tag],
        "summary": summary,
        "parameters": [*_path_parameters(operation.path), *_query_parameters(operation.parameters), *operation.headers],
        "responses": _responses(operation),
    }
    if rest.strip():
        described["description"] = rest.strip()
    if operation.body is not None:
        content: dict[str, Any] = {"schema": _reference_to(operation.body)}
        if operation.example is not None:
            content["example"] = operation.example
        described["requestBody"] = {"required": True, "content": {JSON: content}}
    if operation.file_example is not None:
        content = {"schema": {"type": "string", "format": "binary"}, "example": operation.file_example}
        described["requestBody"] = {"required": True, "content": {"application/octet-stream": content}}
    return described


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [
        {"name": name, "in": "path", "required": True, "description": described[0], "schema": described[1]}
        for name in names
        for described in (_PATH_PARAMETERS[name],)
    ]


def _query_parameters(shape: type[Parameters]) -> list[dict[str, Any]]:
    if not shape.__struct_fields__:
        return []
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required_of(shape),
            "description": schema["description"],
            "schema": schema,
        }
        for name, schema in schema_of(shape).items()
    ]


def _responses(operation: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for answer in operation.answers:
        response: dict[str, Any] = {
            "description": answer.meaning,
            "content": {
                JSON: {"schema": _reference_to(answer.body)},
                **{each: {"schema": {"type": "string"}} for each in answer.texts},
            },
        }
        if answer.headers:
            response["headers"] = answer.headers
        if operation.method == "post" and answer.body in _LINKS:
            response["links"] = _LINKS[answer.body]
        responses[str(answer.status)] = response
    for status in sorted({code.status for code in (*operation.problems, *_ANY)}):
        codes = [code for code in (*operation.problems, *_ANY) if code.status == status]
        responses[str(status)] = _problem_response(status, codes)
    return responses


def _problem_response(status: int, codes: Sequence[ErrorCode]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": "; ".join(f"`{code.code}`: {code.title}" for code in codes) + ".",
        "content": {
            PROBLEM_JSON: {
                "schema": _reference_to(ProblemBody),
                "examples": {
                    code.code: {"value": msgspec.json.decode(problem(code, "What to do about it."))} for code in codes
                },
            }
        },
    }
    if status in _HEADERS_OF_PROBLEM:
        response["headers"] = _HEADERS_OF_PROBLEM[status]
    return response


def _reference_to(body: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(name=body.__name__)}


_LINKS_OF_PAYMENT = {
    "payment": {
        "operationId": "get_payment",
        "parameters": {"payment_id": "$response.body#/payment_id"},
        "description": "The payment as it stands later.",
    },
    "events": {
        "operationId": "list_payment_events",
        "parameters": {"payment_id": "$response.body#/payment_id"},
        "description": "What happened to it.",
    },
    "first_order": {
        "operationId": "get_payment_order",
        "parameters": {"payment_order_id": "$response.body#/payment_orders/0/payment_order_id"},
        "description": "One of its orders.",
    },
    "first_wallet": {
        "operationId": "get_wallet",
        "parameters": {"seller_account": "$response.body#/payment_orders/0/seller_account"},
        "description": "What its seller has.",
    },
    "capture": {
        "operationId": "capture_payment",
        "parameters": {"payment_id": "$response.body#/payment_id"},
        "description": "Take what was authorized.",
    },
    "cancel": {
        "operationId": "cancel_payment",
        "parameters": {"payment_id": "$response.body#/payment_id"},
        "description": "Release it.",
    },
    "refund_first_order": {
        "operationId": "create_refund",
        "requestBody": {"payment_order_id": "$response.body#/payment_orders/0/payment_order_id"},
        "description": "Give one of its orders back.",
    },
    "refunds_of_first_order": {
        "operationId": "list_refunds",
        "parameters": {"payment_order_id": "$response.body#/payment_orders/0/payment_order_id"},
        "description": "What was given back of one of its orders.",
    },
}
_LINKS: Mapping[type[msgspec.Struct], Mapping[str, Any]] = {
    PaymentBody: _LINKS_OF_PAYMENT,
    RefundBody: {
        "refund": {
            "operationId": "get_refund",
            "parameters": {"refund_id": "$response.body#/refund_id"},
            "description": "The refund as it stands later.",
        },
        "refunds": {
            "operationId": "list_refunds",
            "parameters": {"payment_order_id": "$response.body#/payment_order_id"},
            "description": "All refunds of its order.",
        },
    },
}
