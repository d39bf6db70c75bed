"""Amnesia: the database is restored from a backup of hours ago, made whole again, and every client asks for everything.

What was charged since then must be adopted, and nobody may be charged again (hazard G16; docs/recovery.md).
"""

import asyncio
import random
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from coatcheck.drill.journal import Asked
from coatcheck.drill.plan import Checkout
from coatcheck.drill.processes import DrillError, Postgres, run_command
from coatcheck.drill.shop import Request
from coatcheck.drill.world import World

_AT_ONCE: Final = 32
_CONFLICT: Final = 409
_MISSING: Final = re.compile(r"^(\d+) of them were missing here", re.MULTILINE)


class Backup:
    """A copy of the whole database cluster, and until when it knows everything."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "backup"
        self.began_at: datetime | None = None

    async def make(self, postgres: Postgres) -> None:
        """Make it, of a server that runs."""
        self.began_at = datetime.now(UTC)
        await postgres.back_up(self.directory)


async def restore(backup: Backup, postgres: Postgres, worlds: Sequence[World]) -> int:
    """Put the backup in the place of the database and make its books whole. Returns how much was adopted.

    No gateway may run. Raises DrillError when there is no backup.
    """
    if backup.began_at is None:
        raise DrillError("the drill was over before its backup was made")
    await postgres.start_from(backup.directory)
    return sum([await _recover(world, backup.began_at) for world in worlds])


async def _recover(world: World, since: datetime) -> int:
    world.set_anchor_aside()
    arguments = ["recover", "--since", since.isoformat(), "--by", "the drill"]
    status, printed = await run_command(arguments, world.direct_settings())
    found = _MISSING.search(printed)
    if status or found is None:
        world.journal.complain(f"`coatcheck recover` ended with status {status}: {printed[-800:]}")
    return 0 if found is None else int(found[1])


async def ask_for_everything_again(world: World) -> None:
    """Bring every file again, then have every client ask for all that it ever asked for, with the same keys."""
    for gateway in world.gateways:
        gateway.begin_again()
    await world.until_ready()
    await world.office.begin_again()
    # The plan is drawn again and gives the same checkouts: nobody has to remember the bodies.
    asked = iter(zip(islice(world.checkouts(), len(world.journal.asked)), world.journal.asked.values(), strict=True))

    async def client() -> None:
        for checkout, what in asked:
            await _ask_again(world, checkout, what)

    async with asyncio.TaskGroup() as together:
        for _ in range(_AT_ONCE):
            together.create_task(client())
    await world.office.ask_again()


async def _ask_again(world: World, checkout: Checkout, asked: Asked) -> None:
    dice = random.Random(checkout.dice_seed)  # noqa: S311 - a drill that can be run again
    for request in _requests(checkout, asked):
        answer = await world.shop.insist(dice, request)
        if answer is None or not (answer.is_good or answer.status == _CONFLICT):
            said = None if answer is None else f"{answer.status} {answer.body.get('code')}: {answer.body.get('detail')}"
            world.journal.complain(f"{asked.checkout_id}, {request.path} asked for again: {said}")
        elif answer.is_good and "payment_orders" in answer.body:
            world.journal.hear(asked, answer.body)


def _requests(checkout: Checkout, asked: Asked) -> Iterator[Request]:
    yield Request("POST", "/v1/payments", checkout.body, f"click-{checkout.checkout_id}")
    for key, (path, body) in asked.acts.items():
        yield Request("POST", path, body, key)
