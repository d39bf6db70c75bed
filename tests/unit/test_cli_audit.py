"""`coatcheck audit` is a question by itself and a group of others."""

import click
import pytest

from coatcheck import cli
from coatcheck.cli import verifying


def test_audit_has_its_commands_and_asks_by_itself() -> None:
    assert cli.coatcheck.commands["audit"] is verifying.audit
    assert list(verifying.audit.commands) == ["verify", "replay"]
    assert verifying.audit.invoke_without_command


def test_a_settings_file_that_would_be_lost_on_the_way_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["audit", "--config", "other.toml", "verify"]) == click.UsageError.exit_code
    assert "give --config after verify" in capsys.readouterr().err
