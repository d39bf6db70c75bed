"""`payouts`: money to sellers. Runs of schedules, the second person's word about them, and sellers' statements."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coatcheck.cli.failures import UnusableError
from coatcheck.cli.opening import at_desk, settings_of, with_store
from coatcheck.cli.options import Tool, id_of, with_config, with_person
from coatcheck.cli.tables import print_table

if TYPE_CHECKING:
    from coatcheck.api.gateway import Gateway
    from coatcheck.payouts import Decision, Planned, Run, RunItem
    from coatcheck.reporting.seller_statements import Statement
    from coatcheck.store import Store

_ITEMS_AT_ONCE = 500
_TIME = "%Y-%m-%d %H:%M UTC"


class Moment(click.ParamType[datetime]):
    """A time with its zone."""

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read a time (RFC 3339)."""
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            at = None
        if at is None or at.tzinfo is None:
            self.fail("write a time with its zone, such as 2026-05-01T06:00:00Z", param, ctx)
        return at


@click.group(cls=Tool, short_help="Pay sellers out: runs, approvals, statements.")
def payouts() -> None:
    """Pay sellers out.

    A gateway begins the runs of schedules by itself. What is here looks at them, begins them by hand, lets one go that
    waits for a second person, and writes sellers' statements.
    """


@payouts.command("run", short_help="Begin the runs that are due.")
@click.option("--schedule", metavar="CRON", help="Only the runs of this schedule, such as '0 6 * * 1'.")
@click.option("--all", "is_all", is_flag=True, help="The runs of all schedules.")
@click.option("--at", "at", type=Moment(), metavar="TIME", help="As of this moment, not later than now.")
@click.option("--dry-run", is_flag=True, help="Only say what would be run; nothing is written.")
@with_person
@with_config
def run_payouts(
    *, schedule: str | None, is_all: bool, at: datetime | None, dry_run: bool, by: str, config: Path | None
) -> int:
    """Begin the runs that are due: of one --schedule, or of --all.

    Run twice, a run is found and not made again, and no seller is paid twice. A total far off the usual waits for a
    second person. What may go is reserved at once; a gateway that runs asks the provider for it.

    \b
    Examples:
      coatcheck payouts run --all --dry-run --by ada
      coatcheck payouts run --schedule '0 6 * * 1' --by ada
    """  # noqa: D301
    from coatcheck.dead_letters import person_named  # noqa: PLC0415

    if is_all is (schedule is not None):
        raise click.UsageError("say --all, or which --schedule")
    person, wanted = person_named(by), None if schedule is None else _canonical(schedule)

    async def work(gateway: "Gateway") -> "list[tuple[Planned, Run | None]]":
        if at is not None and at > gateway.clock.now():
            raise UnusableError("--at is in the future: nobody is due yet")
        due = await gateway.payout_runs.plan(at=at, schedule=wanted)
        if dry_run:
            return [(each, None) for each in due]
        made = [(each, await gateway.payout_runs.propose(each, person)) for each in due]
        while await gateway.payout_runs.pay_items(_ITEMS_AT_ONCE):
            continue
        return [(each, await gateway.payout_runs.read(run.run_id)) for each, run in made]

    _print_begun(at_desk(settings_of(config), work))
    return 0


def _canonical(schedule: str) -> str:
    from coatcheck.payouts.calendar import CronError, canonical  # noqa: PLC0415

    try:
        return canonical(schedule)
    except CronError as error:
        raise click.UsageError(f"--schedule: {error}") from error


def _print_begun(begun: "list[tuple[Planned, Run | None]]") -> None:
    from coatcheck.ids import PAYOUT_RUN, print_id  # noqa: PLC0415

    if not begun:
        click.echo("Nobody is due.")
        return
    print_table(
        ("run", "schedule", "currency", "period", "sellers due", "stands"),
        [
            [
                *(print_id(PAYOUT_RUN, planned.run_id), planned.schedule, planned.currency),
                *(f"{planned.period:{_TIME}}", str(len(planned.sellers))),
                ("new" if planned.is_new else "was made before") if run is None else _stands(run),
            ]
            for planned, run in begun
        ],
    )


def _stands(run: "Run") -> str:
    return f"{run.status.value}: {_money(run.total_minor, run.currency)} to {run.items}"


@payouts.command("runs", short_help="List runs, newest first.")
@click.option("--waiting", is_flag=True, help="Only those that wait for a second person.")
@with_config
def list_runs(*, waiting: bool, config: Path | None) -> int:
    """List the last runs of payouts, newest first, with the totals that were compared."""
    from coatcheck.ids import PAYOUT_RUN, print_id  # noqa: PLC0415
    from coatcheck.states import PayoutRunStatus  # noqa: PLC0415

    async def work(gateway: "Gateway") -> "list[Run]":
        status = PayoutRunStatus.WAITING if waiting else None
        return await gateway.payout_runs.find(status=status, limit=50)

    runs = at_desk(settings_of(config), work)
    if not runs:
        click.echo("There are none.")
        return 0
    print_table(
        ("run", "schedule", "period", "mode", "items", "total", "usual", "status", "proposed by", "decided by"),
        [
            [
                *(print_id(PAYOUT_RUN, run.run_id), run.schedule, f"{run.period:{_TIME}}", run.mode.value),
                *(str(run.items), _money(run.total_minor, run.currency)),
                "-" if run.usual_minor is None else _money(run.usual_minor, run.currency),
                *(run.status.value, run.proposed_by, run.decided_by or "-"),
            ]
            for run in runs
        ],
    )
    return 0


@payouts.command("show", short_help="Show a run and its items.")
@click.argument("run_id", metavar="RUN")
@with_config
def show_run(*, run_id: str, config: Path | None) -> int:
    """Show the run RUN (run_...) with what it pays to whom."""
    from coatcheck.ids import PAYOUT, PAYOUT_RUN, print_id  # noqa: PLC0415

    wanted = id_of(PAYOUT_RUN, run_id)

    async def work(gateway: "Gateway") -> "tuple[Run | None, list[RunItem]]":
        return await gateway.payout_runs.read(wanted), await gateway.payout_runs.items(wanted)

    run, items = at_desk(settings_of(config), work)
    if run is None:
        raise UnusableError(f"no run {run_id}: `coatcheck payouts runs` lists them")
    usual = "nothing" if run.usual_minor is None else _money(run.usual_minor, run.currency)
    click.echo(f"{run_id}: {run.schedule} of {run.period:{_TIME}}, {_stands(run)}; usual: {usual}")
    print_table(
        ("seller", "payout", "planned", "asked for", "paid", "status"),
        [
            [
                *(item.seller_account, print_id(PAYOUT, item.payout_id), _money(item.planned_minor, run.currency)),
                "not yet" if item.outcome is None else item.outcome.value.replace("_", " "),
                "-" if item.amount_minor is None else _money(item.amount_minor, run.currency),
                "-" if item.status is None else item.status.value,
            ]
            for item in items
        ],
    )
    return 0


@payouts.command("approve", short_help="Let a run go that waits.")
@click.argument("run_id", metavar="RUN")
@with_person
@with_config
def approve_run(*, run_id: str, by: str, config: Path | None) -> int:
    """Let the run RUN (run_...) go, whose total is far off the usual: another person than who proposed it.

    \b
    Example:
      coatcheck payouts approve run_dpgs5zdhcp7p3nlvvnjrb7o7cq --by grace
    """  # noqa: D301
    _decide(run_id, by, config, is_approved=True)
    click.echo("Approved. A gateway that runs asks the provider for it.")
    return 0


@payouts.command("reject", short_help="Stop a run that waits.")
@click.argument("run_id", metavar="RUN")
@with_person
@with_config
def reject_run(*, run_id: str, by: str, config: Path | None) -> int:
    """Stop the run RUN (run_...): nothing of it is paid. Its sellers are due again at the schedule's next time.

    \b
    Example:
      coatcheck payouts reject run_dpgs5zdhcp7p3nlvvnjrb7o7cq --by grace
    """  # noqa: D301
    _decide(run_id, by, config, is_approved=False)
    click.echo("Stopped. Nothing of it is paid.")
    return 0


def _decide(run_id: str, by: str, config: Path | None, *, is_approved: bool) -> None:
    from coatcheck.api.payout_runs import WHY_NOT  # noqa: PLC0415
    from coatcheck.dead_letters import person_named  # noqa: PLC0415
    from coatcheck.ids import PAYOUT_RUN  # noqa: PLC0415

    wanted, person = id_of(PAYOUT_RUN, run_id), person_named(by)

    async def work(gateway: "Gateway") -> "Decision":
        decision = await gateway.payout_runs.decide(wanted, person, is_approved=is_approved)
        if decision.is_good and is_approved:
            while await gateway.payout_runs.pay_items(_ITEMS_AT_ONCE):
                continue
        return decision

    decision = at_desk(settings_of(config), work)
    if not decision.is_good:
        raise UnusableError(f"{run_id} was not decided: {WHY_NOT[decision]}")


@payouts.command("statement", short_help="Write a seller's statement.")
@click.argument("seller", metavar="SELLER")
@click.option("--shop", required=True, metavar="NAME", help="Whose seller.")
@click.option("--live", is_flag=True, help="Live mode; without it, test mode.")
@click.option("--from", "begins_at", type=Moment(), required=True, metavar="TIME", help="Where the period begins.")
@click.option("--to", "ends_at", type=Moment(), required=True, metavar="TIME", help="Where it ends, exclusive.")
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file: .json, .csv or .pdf."
)
@with_config
def write_statement(
    *, seller: str, shop: str, live: bool, begins_at: datetime, ends_at: datetime, out: Path, config: Path | None
) -> int:
    """Write the statement of SELLER: opening balance, every movement, closing balance, for each currency.

    \b
    Example:
      coatcheck payouts statement seller-42 --shop hats --from 2026-05-01T00:00Z --to 2026-06-01T00:00Z --out may.pdf
    """  # noqa: D301
    import msgspec  # noqa: PLC0415

    from coatcheck.api.seller_statements import statement_body  # noqa: PLC0415
    from coatcheck.reporting.seller_statements import TooLongError, csv_of, read_statement  # noqa: PLC0415
    from coatcheck.reporting.seller_statements.pdf_file import pdf_of  # noqa: PLC0415
    from coatcheck.shops import shop_id_of  # noqa: PLC0415
    from coatcheck.states import Mode  # noqa: PLC0415

    writers = {
        ".json": lambda statement: msgspec.json.format(msgspec.json.encode(statement_body(statement))),
        ".csv": lambda statement: csv_of(statement).encode(),
        ".pdf": pdf_of,
    }
    if out.suffix not in writers or ends_at <= begins_at:
        raise click.UsageError("--out ends in .json, .csv or .pdf, and --to is after --from")
    mode = Mode.LIVE if live else Mode.TEST

    async def work(store: "Store") -> "Statement | None":
        return await read_statement(store, shop_id_of(shop), mode, seller, begins_at=begins_at, ends_at=ends_at)

    try:
        statement = with_store(settings_of(config), work)
        if statement is None:
            raise UnusableError(f"seller {seller} has no accounts in shop {shop}, {mode} mode")
        written = writers[out.suffix](statement)
    except TooLongError as error:
        raise UnusableError(str(error)) from error
    out.write_bytes(written)
    click.echo(f"{out}: {sum(len(part.movements) for part in statement.currencies)} movements.")
    return 0


def _money(minor: int, currency: str) -> str:
    from coatcheck.money import format_amount  # noqa: PLC0415

    return f"{format_amount(minor, currency)} {currency}"
