"""docs/simulator.md names every token, setting of the dial, refusal, event and fault that the simulator has."""

import re
from pathlib import Path

import click
import msgspec
import pytest

from coatcheck import cli
from coatcheck.simulator.chaos import Dial, Fault
from coatcheck.simulator.page import APPROVED_CARD, CHALLENGED_CARD, DECLINED_CARD
from coatcheck.simulator.records import CHARGE_STATUSES
from coatcheck.simulator.server import SimulatorSettings
from coatcheck.simulator.tokens import DECLINE_CODES, Manner

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/simulator.md").read_text("utf-8")
SOURCE = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "src/coatcheck/simulator").glob("*.py")))


def groups(pattern: str) -> list[str]:
    return sorted(set(re.findall(pattern, SOURCE)))


@pytest.mark.parametrize(
    "name",
    [
        *(manner.value for manner in Manner if manner is not Manner.DECLINE),
        *sorted(DECLINE_CODES),
        *CHARGE_STATUSES,
        *(field.name for field in msgspec.structs.fields(Dial)),
        *(fault.value for fault in Fault if fault is not Fault.NONE),
        *groups(r'_count\("(\w+)"\)'),
        *groups(r'Refusal\([0-9]{3}, "(\w+)"'),
        *groups(r'failure_code="(\w+)"'),
    ],
)
def test_the_page_names_it(name: str) -> None:
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("number", [APPROVED_CARD, DECLINED_CARD, CHALLENGED_CARD])
def test_the_page_names_the_test_card(number: str) -> None:
    assert f"`{' '.join(re.findall('....', number))}`" in PAGE


def test_the_command_line_s_defaults_are_the_server_s() -> None:
    command = cli.coatcheck.commands["simulator"]
    defaults = {option.name: option.default for option in command.params if isinstance(option, click.Option)}
    settings = SimulatorSettings()
    for name in ("authorization_life_s", "session_life_s", "webhook_secret", "slow_s"):
        assert defaults[name] == getattr(settings, name), name
    for name in ("authorization_life_s", "session_life_s", "webhook_url", "webhook_secret", "slow_s"):
        assert f"--{name.replace('_', '-')}" in PAGE, name


@pytest.mark.parametrize("address", ["shop.example/hooks", "ftp://shop.example", "http://"])
def test_an_address_that_is_none_is_refused_at_once(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["simulator", "--webhook-url", address]) == 2
    assert "--webhook-url" in capsys.readouterr().err
