"""`coatcheck disputes` as a person would run it: list, show, answer once, give up."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from tests.integration.outside import World, checkout
from tests.integration.running import run_simulator

from coatcheck.config import Settings
from coatcheck.providers.disputes import DisputeNews
from coatcheck.providers.simulated import SimulatedProvider
from coatcheck.states import Mode
from coatcheck.store import Store
from coatcheck.wiring import make_gateway, make_providers

SECRET = "a-secret-of-the-tests-long-enough-to-be-taken"


@pytest.fixture(scope="module")
def psp_url() -> Iterator[str]:
    with run_simulator() as url:
        yield url


async def run(database_url: str, psp_url: str, *arguments: str) -> tuple[int, str]:
    """Run the command; its exit status and what it printed."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from coatcheck.cli import main; main()", "disputes", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={
            **os.environ,
            "DATABASE_URL": database_url,
            "COATCHECK_CONFIG": os.devnull,
            "COATCHECK_SIMULATOR_URL": psp_url,
            "COATCHECK_DIGEST_SECRET": SECRET,
        },
    )
    printed, _ = await running.communicate()
    assert running.returncode is not None
    return running.returncode, printed.decode()


async def dispute_at(store: Store, psp_url: str) -> None:
    """Pay at the simulator, have the charge disputed, and hear of it."""
    settings = Settings(simulator_url=psp_url, digest_secret=SECRET)
    providers = make_providers(settings)
    world = World(store)
    world.gateway = make_gateway(settings, store, providers)
    try:
        await world.pay(checkout("c1", "o1"))
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{psp_url}/admin/charges") as answer:
                charge = (await answer.json())["data"][-1]["id"]
            async with session.post(f"{psp_url}/admin/disputes", json={"charge": charge}) as answer:
                made = (await answer.json())["id"]
        assert isinstance(providers["simulator"], SimulatedProvider)
        hint = DisputeNews(provider="simulator", mode=Mode.TEST, provider_reference=made, type="hint", is_hint=True)
        assert await world.gateway.correspondence.hear(hint) == "applied"
    finally:
        for provider in providers.values():
            await provider.close()


async def test_disputes_are_listed_shown_and_answered_once(
    store: Store, database_url: str, psp_url: str, tmp_path: Path
) -> None:
    status, printed = await run(database_url, psp_url, "list")
    assert (status, printed.strip()) == (0, "There is no such dispute.")
    await dispute_at(store, psp_url)
    status, printed = await run(database_url, psp_url, "list", "--status", "NEEDS_RESPONSE")
    assert status == 0
    assert "10.00 EUR" in printed
    named = next(word for word in printed.split() if word.startswith("dsp_"))
    receipt = tmp_path / "r.pdf"
    receipt.write_bytes(b"%PDF-1.4")
    said = ["answer", named, "--text", "explanation=signed for", "--file", f"receipt={receipt}", "--by", "ada"]
    for _ in range(2):  # the same again is sent once
        status, printed = await run(database_url, psp_url, *said)
        assert (status, printed.strip()) == (0, "evidence SENT")
    status, printed = await run(database_url, psp_url, "show", named)
    assert status == 0
    assert "test mode: UNDER_REVIEW" in printed
    assert "10.00 EUR taken, fee 15.00 EUR; in no settlement file yet" in printed
    assert "evidence (explanation, receipt) by person ada: SENT" in printed
    status, printed = await run(database_url, psp_url, "accept", named, "--by", "ada")
    assert status == 2
    assert "takes no such answer (not_open): it is UNDER_REVIEW" in printed
    assert await store.pool.fetchval("SELECT count(*) FROM dispute_evidence") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--by", "ada"), "say something"),
        (("--text", "poem=roses", "--by", "ada"), "write PART="),
        (("--text", "explanation=4242 4242 4242 4242", "--by", "ada"), "card number"),
        (("--file", "receipt=r.exe", "--by", "ada"), "is no .jpeg"),
        (("--file", "receipt=nowhere.pdf", "--by", "ada"), "cannot read nowhere.pdf"),
    ],
)
async def test_what_cannot_be_sent_is_said_in_one_line(
    database_url: str, psp_url: str, arguments: tuple[str, ...], told: str
) -> None:
    status, printed = await run(database_url, psp_url, "answer", "dsp_aaaaaaaaaaaaaaaaaaaaaaaaaa", *arguments)
    assert status == 2
    assert told in printed
    assert "Traceback" not in printed
    assert "4242" not in printed
