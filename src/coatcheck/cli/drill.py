"""`drill`: the failure drill."""

from pathlib import Path

import click

from coatcheck.cli.failures import UnusableError


@click.command(short_help="Break everything on purpose and prove that no money was lost.")
@click.option(
    "--seconds",
    type=click.FloatRange(5, 86_400),
    default=300.0,
    show_default=True,
    help="How long clients are let loose.",
)
@click.option("--seed", type=click.IntRange(0), help="Plan the same drill as before. [default: a new one]")
@click.option("--clients", type=click.IntRange(2, 512), default=128, show_default=True, help="How many at once.")
@click.option("--keep", is_flag=True, help="Keep the data and logs; they are kept anyway when something was found.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the report here, too."
)
def drill(*, seconds: float, seed: int | None, clients: int, keep: bool, json_path: Path | None) -> int:
    """Run the failure drill before you go live.

    Two installations of real processes on one PostgreSQL, with clients that retry everything. Gateways and PostgreSQL
    are killed, lines are cut before and after the bytes, the PSPs fail in every way they know. Then a judge that
    shares no code with the gateway compares the PSPs' books, the rows and the events. Exits 1 if anything differs.
    It has a directory of its own: your data and settings are not touched.

    \b
    Examples:
      coatcheck drill --seconds 60
      coatcheck drill --seconds 60 --seed 447251
    """  # noqa: D301
    from coatcheck.drill import DrillError, DrillPlan, run_drill  # noqa: PLC0415

    try:
        return run_drill(DrillPlan(seconds=seconds, seed=seed, clients=clients, keep=keep, json_path=json_path))
    except DrillError as error:
        raise UnusableError(str(error)) from error
