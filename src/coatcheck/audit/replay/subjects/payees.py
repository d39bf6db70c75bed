"""What is arranged about sellers' payouts: where they go and when, and the runs that schedules make."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec

from coatcheck.audit.replay.bodies import Minor, Said
from coatcheck.audit.replay.subject import Find, Heard, Subject, newest
from coatcheck.audit.replay.tables import Place, place_of, table_of
from coatcheck.events import EventKind


class DestinationChanged(Said, frozen=True, kw_only=True):
    """A seller's money goes somewhere else. `revision` counts the changes."""

    seller_account: str
    currency: str
    provider: str
    token: str
    by: str
    usable_from: datetime
    revision: int


class ScheduleChanged(Said, frozen=True, kw_only=True):
    """A seller is paid unasked at other times, or not any more. `revision` counts the changes."""

    seller_account: str
    currency: str
    cron: str | None
    threshold_minor: Minor
    next_at: datetime | None
    by: str
    revision: int


class PlannedItem(msgspec.Struct, frozen=True):
    """What a run is to pay to one seller."""

    seller_account: str
    payout_id: UUID
    planned_minor: Minor


class RunProposed(Said, frozen=True, kw_only=True):
    """A run was made. The schedules of `sellers` go on at `following`."""

    run_id: UUID
    schedule: str
    currency: str
    period: datetime
    following: datetime
    sellers: list[str]
    total_minor: Minor
    usual_minor: Minor | None
    status: str
    by: str
    items: list[PlannedItem]


class RunDecided(Said, frozen=True, kw_only=True):
    """A second person let a run go, or stopped it."""

    status: str
    by: str


class RunSkipped(Said, frozen=True, kw_only=True):
    """An item was not paid, or a seller came too late for a run and goes on at `next_at`."""

    seller_account: str
    outcome: str
    next_at: datetime | None = None


class RunFinished(Said, frozen=True, kw_only=True):
    """All items of a run were asked for."""

    run_id: UUID


class DestinationRow(msgspec.Struct, frozen=True):
    """Where a seller's money of one currency goes."""

    shop_id: UUID
    mode: str
    seller_account: str
    currency: str
    provider: str
    token: str
    changed_by: str
    changed_at: datetime
    usable_from: datetime
    revision: int


class ScheduleRow(msgspec.Struct, frozen=True):
    """When a seller's money is paid unasked: as it was arranged, before any run moved it on."""

    shop_id: UUID
    mode: str
    seller_account: str
    currency: str
    cron: str | None
    threshold_minor: int
    changed_by: str
    changed_at: datetime
    next_at: datetime | None
    revision: int


class ScheduleMoved(msgspec.Struct, frozen=True):
    """A schedule that a run has moved on."""

    shop_id: UUID
    mode: str
    seller_account: str
    currency: str
    cron: str
    next_at: datetime


class RunRow(msgspec.Struct, kw_only=True):
    """A run of a schedule, in minor units."""

    run_id: UUID
    shop_id: UUID
    mode: str
    schedule: str
    currency: str
    period: datetime
    items: int
    total_minor: int
    usual_minor: int | None
    status: str
    proposed_by: str
    proposed_at: datetime
    decided_by: str | None = None
    decided_at: datetime | None = None
    finished_at: datetime | None = None


class ItemRow(msgspec.Struct, frozen=True):
    """What a run pays to one seller. `outcome` None: it was paid, or nobody has asked yet; the payouts say which."""

    run_id: UUID
    seller_account: str
    shop_id: UUID
    mode: str
    currency: str
    period: datetime
    payout_id: UUID
    planned_minor: int
    outcome: str | None


def fold_payees(heard: Sequence[Heard[Any]], find: Find) -> Iterator[msgspec.Struct]:
    """Make the rows of one seller's arrangements, or of one run."""
    where = ((each, _destination_of(each)) for each in heard if isinstance(each.body, DestinationChanged))
    when = ((each, _schedule_of(each)) for each in heard if isinstance(each.body, ScheduleChanged))
    for told in (where, when):
        yield from newest(told, find, key=lambda row: row.currency, rank=lambda row: row.revision)
    proposed = [each for each in heard if isinstance(each.body, RunProposed)]
    about_runs = [each for each in heard if isinstance(each.body, RunDecided | RunSkipped | RunFinished)]
    if proposed:
        yield from _rows_of_run(proposed[0], about_runs)
    for needy in proposed[1:] if proposed else about_runs:
        find(needy.event, "the run was made before" if proposed else "no event says that the run was made")


def _destination_of(heard: Heard[DestinationChanged]) -> DestinationRow:
    event, body = heard.event, heard.body
    return DestinationRow(
        *(event.shop_id, event.mode, body.seller_account, body.currency, body.provider, body.token),
        *(body.by, event.at, body.usable_from, body.revision),
    )


def _schedule_of(heard: Heard[ScheduleChanged]) -> ScheduleRow:
    event, body = heard.event, heard.body
    return ScheduleRow(
        *(event.shop_id, event.mode, body.seller_account, body.currency, body.cron, body.threshold_minor),
        *(body.by, event.at, body.next_at, body.revision),
    )


def _rows_of_run(proposed: Heard[RunProposed], later: Sequence[Heard[Any]]) -> Iterator[msgspec.Struct]:
    event, body = proposed.event, proposed.body
    row = _run_of(proposed)
    for each in later:
        if isinstance(each.body, RunDecided):
            row.decided_by, row.decided_at = each.body.by, each.at
            row.status = row.status if row.finished_at is not None else each.body.status
        elif isinstance(each.body, RunFinished):
            row.status, row.finished_at = "FINISHED", each.at
    yield row
    skipped = [each.body for each in later if isinstance(each.body, RunSkipped)]
    outcomes = {said.seller_account: said.outcome for said in skipped if said.next_at is None}
    for item in body.items:
        yield ItemRow(
            *(body.run_id, item.seller_account, event.shop_id, event.mode, body.currency, body.period),
            *(item.payout_id, item.planned_minor, outcomes.get(item.seller_account)),
        )
    world = event.shop_id, event.mode
    for seller in body.sellers:
        yield ScheduleMoved(*world, seller, body.currency, body.schedule, body.following)
    for said in skipped:
        if said.next_at is not None:
            yield ScheduleMoved(*world, said.seller_account, body.currency, body.schedule, said.next_at)


def _run_of(proposed: Heard[RunProposed]) -> RunRow:
    event, body = proposed.event, proposed.body
    return RunRow(
        run_id=body.run_id,
        shop_id=event.shop_id,
        mode=event.mode,
        schedule=body.schedule,
        currency=body.currency,
        period=body.period,
        items=len(body.items),
        total_minor=body.total_minor,
        usual_minor=body.usual_minor,
        status=body.status,
        proposed_by=body.by,
        proposed_at=event.at,
        finished_at=event.at if body.status == "FINISHED" else None,
    )


_SCHEDULE = table_of("payout_schedule", ScheduleRow, keys=4, is_folded=False)
_ARRANGED = Place(name="payout_schedule_arranged", like=_SCHEDULE.stored, row=ScheduleRow)
_MOVED = Place(
    name="payout_schedule_moved",
    like="SELECT shop_id, mode, seller_account, currency::text AS currency, cron, next_at FROM public.payout_schedule",
    row=ScheduleMoved,
)
# Times of one cron expression only go on, so of what an arrangement and its runs have said the latest counts.
_NEXT_TIMES = f"""
    INSERT INTO pg_temp.{place_of("payout_schedule")} ({", ".join(_SCHEDULE.every_column)})
    SELECT t.shop_id, t.mode, t.seller_account, t.currency, t.cron, t.threshold_minor, t.changed_by, t.changed_at,
           CASE WHEN t.cron IS NOT NULL THEN greatest(t.next_at, m.next_at) END, t.revision
      FROM pg_temp.{place_of(_ARRANGED.name)} AS t
      LEFT JOIN (SELECT shop_id, mode, seller_account, currency, cron, max(next_at) AS next_at
                   FROM pg_temp.{place_of(_MOVED.name)} GROUP BY 1, 2, 3, 4, 5) AS m
        ON (m.shop_id, m.mode, m.seller_account, m.currency, m.cron)
           = (t.shop_id, t.mode, t.seller_account, t.currency, t.cron)
"""
_PAID_ITEMS = f"""
    UPDATE pg_temp.{place_of("payout_run_item")} AS i SET outcome = 'requested'
      FROM pg_temp.{place_of("payout")} AS p
     WHERE p.payout_id = i.payout_id AND p.run_id = i.run_id AND i.outcome IS NULL
"""

SUBJECT = Subject(
    bodies=MappingProxyType(
        {
            EventKind.PAYOUT_DESTINATION_CHANGED.value: DestinationChanged,
            EventKind.PAYOUT_SCHEDULE_CHANGED.value: ScheduleChanged,
            EventKind.PAYOUT_RUN_PROPOSED.value: RunProposed,
            EventKind.PAYOUT_RUN_APPROVED.value: RunDecided,
            EventKind.PAYOUT_RUN_REJECTED.value: RunDecided,
            EventKind.PAYOUT_RUN_SKIPPED.value: RunSkipped,
            EventKind.PAYOUT_RUN_FINISHED.value: RunFinished,
        }
    ),
    fold=fold_payees,
    tables=(
        table_of("payout_destination", DestinationRow, keys=4),
        _SCHEDULE,
        table_of("payout_run", RunRow),
        table_of("payout_run_item", ItemRow, keys=2),
    ),
    places=(_ARRANGED, _MOVED),
    sums=(_NEXT_TIMES, _PAID_ITEMS),
)
