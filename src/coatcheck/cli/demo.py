"""`demo`: a shopping evening."""

from pathlib import Path

import click

from coatcheck.cli.failures import UnusableError
from coatcheck.cli.options import PORT


@click.command(short_help="Play a shopping evening and prove the result.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="COATCHECK_DATA_DIR",
    default=Path("coatcheck-data"),
    show_default=True,
    help="Where the data is kept; it stays, and may be there from an earlier evening.",
)
@click.option("--checkouts", type=click.IntRange(1, 100_000), default=3000, show_default=True, help="How many.")
@click.option("--shoppers", type=click.IntRange(1, 512), default=64, show_default=True, help="How many at once.")
@click.option("--seed", type=click.IntRange(0), help="Plan the same evening as before. [default: a new one]")
@click.option("--port", metavar="PORT", type=PORT, default=0, help="The gateway's port. [default: a free one]")
def demo(*, data_dir: Path, checkouts: int, shoppers: int, seed: int | None, port: int) -> int:
    """Play a shopping evening against a faulty PSP, and prove the result.

    Starts a simulator and a gateway as processes of their own, sends thousands of checkouts through the public API
    while the PSP drops answers and fails, then compares the gateway's books with the PSP's. Exits 1 if anything was
    charged twice or lost. The data stays: `coatcheck serve` opens it.
    """
    from coatcheck.demo import DemoError, run_demo  # noqa: PLC0415

    try:
        return run_demo(data_dir, checkouts=checkouts, seed=seed, at_once=shoppers, port=port)
    except DemoError as error:
        raise UnusableError(str(error)) from error
