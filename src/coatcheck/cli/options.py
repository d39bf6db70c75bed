"""What several commands take: a settings file, a person, a port, an id of ours."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from uuid import UUID

_Result = TypeVar("_Result")

PORT = click.IntRange(0, 65535)


class Tool(click.Group):
    """A group that lists its commands as they are needed, not by the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order in which they were added."""
        del ctx
        return list(self.commands)


def with_config(command: Callable[..., _Result]) -> Callable[..., _Result]:
    """Let a command take the settings file."""
    return click.option(
        "--config",
        "config",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Settings file; without it COATCHECK_CONFIG, then ./coatcheck.toml.",
    )(command)


def with_person(command: Callable[..., _Result]) -> Callable[..., _Result]:
    """Have a command told who asks."""
    return click.option("--by", required=True, metavar="NAME", help="Who you are; it is written down.")(command)


def id_of(prefix: str, text: str) -> "UUID":
    """Read a printed id. Raises click.UsageError for what is none of that kind."""
    from coatcheck.ids import parse_id  # noqa: PLC0415

    found = parse_id(prefix, text)
    if found is None:
        raise click.UsageError(f"{text!r} is not an id of ours: it begins with {prefix}_ and has 26 letters after it")
    return found
