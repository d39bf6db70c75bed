"""Whoever is called finds a page, and a story finds its words."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast
from uuid import UUID

import pytest

from coatcheck.events import EventKind
from coatcheck.explain import SENTENCES, _Case, _Event, _fields
from coatcheck.watcher import AlertKind

if TYPE_CHECKING:
    from coatcheck.payments import PaymentView

RUNBOOKS = Path(__file__).parents[2] / "docs/runbooks"
HEADINGS = ["## What it means", "## What to look at", "## What is safe", "## What never to do"]
# Of no payment, or told in words of their own.
ELSEWHERE = {
    *("account.opened", "api_key.created", "api_key.revoked", "webhook.retried", "webhook.dismissed"),
    *("payment.accepted", "capture.requested"),
    *("payout.requested", "payout.paid", "payout.failed", "payout.returned"),  # of a payout: it has no order
    *("payout.adopted", "payout.recognised"),
    *("payout_destination.changed", "payout_schedule.changed", "payout_run.proposed", "payout_run.approved"),
    *("payout_run.rejected", "payout_run.skipped", "payout_run.finished"),
    *("settlement.booked", "break.recorded", "break.closed"),  # of a file and of a break, not of a payment
    *("break.escalated", "file.expected", "file.late", "file.arrived", "nightly.begun", "nightly.ended"),  # likewise
    *("break.resolution_proposed", "break.resolution_confirmed", "recovery.begun", "recovery.finished"),
    *("payment.adopted", "dead_letter.replay_proposed", "dead_letter.replay_confirmed"),  # of many at once
    *("seller.terms_set", "wallet.settled", "wallet.released", "wallet.offset"),  # of a seller and of wallets
}


@pytest.mark.parametrize("kind", AlertKind)
def test_every_alert_has_its_page(kind: AlertKind) -> None:
    page = (RUNBOOKS / f"{kind.value}.md").read_text("utf-8")
    assert [line for line in page.splitlines() if line.startswith("## ")] == HEADINGS
    assert f"`{kind.value}`" in page
    assert f"[{kind.value}]({kind.value}.md)" in (RUNBOOKS / "README.md").read_text("utf-8")


def test_there_is_no_page_for_an_alert_that_is_not() -> None:
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == {"README", *[kind.value for kind in AlertKind]}


def test_every_event_of_a_payment_has_its_sentence() -> None:
    assert SENTENCES.keys() == {kind.value for kind in EventKind} - ELSEWHERE


@pytest.mark.parametrize("kind", SENTENCES)
def test_a_sentence_can_be_told_of_the_barest_event(kind: str) -> None:
    nothing = _Case(cast("PaymentView", None), [], {}, {}, None)
    barest = _Event(UUID(int=1), kind, datetime(2026, 3, 1, tzinfo=UTC), {})
    told = SENTENCES[kind].format(**_fields(nothing, barest))
    assert told.endswith(".")
    assert "{" not in told
