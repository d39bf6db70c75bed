"""Runs what was just committed, waits as long as the caller prefers, and reads what became of it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar
from uuid import UUID

from coatcheck.api.bodies import Asked
from coatcheck.api.gateway import Gateway
from coatcheck.api.limits import ends_within
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.operations import Operation
from coatcheck.providers.outcome import Outcome
from coatcheck.states import OperationStatus

_POLL_FIRST_S, _POLL_CAP_S = 0.05, 0.5


class Made(Protocol):
    """What a request has committed, with the operations this process now has to run."""

    @property
    def operations(self) -> Sequence[Operation]:
        """Leased to this process; none where another one works on it, or where there is nothing to do."""
        ...


_Asked = TypeVar("_Asked", bound=Asked[Any])
_Made = TypeVar("_Made", bound=Made)
_View = TypeVar("_View")


async def run_and_read(
    asked: _Asked,
    made: _Made,
    row_id: UUID,
    read: Callable[[Gateway, UUID], Awaitable[_View]],
    is_working: Callable[[_View], bool],
    *,
    operation_id: UUID | None = None,
    known: Callable[[_Asked, _Made, Sequence[Outcome | None]], _View | None] | None = None,
) -> _View:
    """Run what was committed at once, or wait for whoever runs it, and read it when that ends or the wait does.

    The work is a task of its own: a caller that goes away leaves it running. `known`: shows what this process has just
    run without a read; None when that is not all. The rest as `poll` has it.
    """
    gateway = asked.gateway
    until = asyncio.get_running_loop().time() + asked.patience_s
    if made.operations:
        running = gateway.executor.start(made.operations)
        if not await ends_within(asked.patience_s, running):
            return await read(gateway, row_id)
        view = None if known is None else known(asked, made, running.result())
        if view is not None:
            return view
    try:
        async with asyncio.timeout_at(until):
            return await poll(gateway, row_id, read, is_working, operation_id=operation_id)
    except TimeoutError:
        return await read(gateway, row_id)


async def poll(
    gateway: Gateway,
    row_id: UUID,
    read: Callable[[Gateway, UUID], Awaitable[_View]],
    is_working: Callable[[_View], bool],
    *,
    operation_id: UUID | None = None,
) -> _View:
    """Read until nobody here works on it: it is decided, its provider decides later, or a person must look.

    Another process may finish it, so the row is the truth. `operation_id`: where the row itself does not say whether
    somebody works on it, its one operation does.
    """
    pause_s = _POLL_FIRST_S
    while True:
        view = await read(gateway, row_id)
        if not is_working(view) or gateway.stopping.is_set():
            return view
        if operation_id is not None and not await _is_open(gateway, operation_id):
            return await read(gateway, row_id)
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _POLL_CAP_S)


async def _is_open(gateway: Gateway, operation_id: UUID) -> bool:
    standing = (await gateway.operations.stand([operation_id])).get(operation_id)
    return standing is not None and standing.operation.status is OperationStatus.OPEN


def still_there(view: _View | None, rows: str) -> _View:
    """Take what was committed a moment ago: only a lost database can take it away. Raises CoatcheckError INTERNAL."""
    if view is None:
        raise CoatcheckError(ErrorCode.INTERNAL, f"The {rows} gone. Check the database.")
    return view
