"""The command line: reads arguments, calls the rest, and puts every failure into one line that says what to do.

Whatever a command needs beyond its options is imported when it runs, so that --help answers at once.
"""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from coatcheck import __version__
from coatcheck.cli import (
    alerts,
    asking,
    breaks,
    dead_letters,
    demo,
    disputes,
    drill,
    export,
    keys,
    payouts,
    reconcile,
    recover,
    reports,
    retry_queue,
    running,
    verifying,
    wallets,
    webhooks,
)
from coatcheck.cli.failures import EXIT_INTERRUPTED, EXIT_UNUSABLE, UnusableError, in_words
from coatcheck.cli.options import Tool
from coatcheck.cli.running import DIAL

__all__ = ["DIAL", "UnusableError", "coatcheck", "main", "run"]


@click.group(cls=Tool, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="coatcheck", message="%(prog)s %(version)s")
def coatcheck() -> None:
    """Coatcheck, a payment gateway for marketplaces.

    A retry never charges twice, a crash never loses a payment, and the books always prove it.

    \b
    See it work, in about a minute:
      coatcheck demo

    \b
    Run it:
      coatcheck simulator &                  a PSP to play with, on port 8090
      coatcheck serve &                      the gateway, on port 8080
      coatcheck keys create --shop hats      an API key, shown once
      coatcheck audit                        ask the books whether all is well

    \b
    Charge real cards:
      export COATCHECK_STRIPE_API_KEY=sk_test_...
      coatcheck serve --provider stripe

    Settings come from the environment and a TOML file: `coatcheck settings` shows them. While the gateway runs, its API
    is described at /schema, its health at /health/ready, its figures at /metrics.
    """  # noqa: D301 - \b is click's mark for a paragraph that keeps its lines


# As they are needed, which is the order of the help.
for _command in (
    *(running.serve, running.simulator, keys.keys, verifying.audit),
    *(retry_queue.retry_queue, dead_letters.dead_letters, webhooks.webhooks),
    *(payouts.payouts, reconcile.reconcile, breaks.breaks, recover.recover, wallets.wallets, disputes.disputes),
    *(reports.reports, export.export),
    *(alerts.alerts, asking.explain, running.settings, demo.demo, drill.drill),
):
    coatcheck.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit status. Only a fault of the program itself raises."""
    try:
        status = coatcheck.main(args=arguments, prog_name="coatcheck", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - lives as long as the process
        return 1
    except Exception as error:
        lines = in_words(error)
        if lines is None:
            raise
        from coatcheck.logs import redact_text  # noqa: PLC0415

        for line in lines:
            click.echo(f"coatcheck: {redact_text(line)}", err=True)
        return EXIT_UNUSABLE
    return status if isinstance(status, int) else 0


def main() -> NoReturn:
    """Be the program `coatcheck`."""
    sys.exit(run())
