"""Settings, logs, and a database or a gateway that is open for one thing."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coatcheck.api.gateway import Gateway
    from coatcheck.config import Settings
    from coatcheck.store import Store

_Result = TypeVar("_Result")


def settings_of(config: Path | None, **flags: Any) -> "Settings":
    """Read the settings; `flags` that were given go before everything else. Raises SettingsError."""
    from coatcheck.config import load_settings  # noqa: PLC0415

    return load_settings(os.environ, config, {name: value for name, value in flags.items() if value is not None})


def log_as(level: str, log_format: str) -> None:
    """Send every log line of this process to stderr in one format."""
    from coatcheck.logs import configure_logs  # noqa: PLC0415

    configure_logs(level, log_format)


def with_store(settings: "Settings", work: "Callable[[Store], Awaitable[_Result]]") -> _Result:
    """Open the database, do one thing, close it again."""
    log_as("warning", "console")
    from coatcheck import wiring  # noqa: PLC0415

    async def run() -> _Result:
        async with wiring.open_store(settings) as store:
            return await work(store)

    return asyncio.run(run())


def at_desk(settings: "Settings", work: "Callable[[Gateway], Awaitable[_Result]]") -> _Result:
    """Open a gateway that takes over no work, do one thing, close it again."""
    log_as("warning", "console")
    from coatcheck import wiring  # noqa: PLC0415

    async def run() -> _Result:
        async with wiring.open_desk(settings) as gateway:
            return await work(gateway)

    return asyncio.run(run())
