import errno
import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import click
import msgspec
import pytest

from coatcheck import __version__, cli
from coatcheck.cli.failures import in_words, listening_on
from coatcheck.config import SETTINGS, SettingsError
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.simulator.chaos import Dial
from coatcheck.store import StoreError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("COATCHECK_") or name == "DATABASE_URL"]:
        monkeypatch.delenv(name)


def commands_of(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        found.append((*path, name))
        if isinstance(command, click.Group):
            found += commands_of(command, (*path, name))
    return found


def test_help_names_every_command_and_what_to_do_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    printed = capsys.readouterr().out
    for command in ("serve", "simulator", "keys", "audit", "settings", "demo"):
        assert f"\n  {command} " in printed
    assert "coatcheck keys create --shop" in printed
    assert "..." not in printed.partition("Commands:")[2], "a short help is cut off"


@pytest.mark.parametrize("path", commands_of(cli.coatcheck), ids=" ".join)
def test_every_command_explains_itself_and_its_options(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*path, "--help"]) == 0
    assert len(capsys.readouterr().out) > 150
    command: click.Command = cli.coatcheck
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_help_answers_at_once() -> None:
    code = (
        "import sys; from coatcheck.cli import run; run(['--help']); "
        "print(*[name for name in ('asyncpg', 'litestar', 'msgspec', 'rich', 'structlog', 'stripe') "
        "if name in sys.modules], sep=',', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own code
    assert done.stderr.strip() == ""


def test_a_gateway_loads_nothing_that_it_does_not_need_yet() -> None:
    code = "import sys, coatcheck.wiring; print([name for name in ('stripe', 'fpdf') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own code
    assert done.stdout.strip() == "[]"


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"coatcheck {__version__}\n"


def test_a_wrong_command_or_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["serv"], ["serve", "--prot", "1"], ["keys", "create"], ["serve", "--port", "65536"]):
        assert cli.run(wrong) == 2
        assert "Error: " in capsys.readouterr().err


def test_every_wrong_setting_is_a_line_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COATCHECK_PORT", "abc")
    monkeypatch.setenv("COATCHECK_HOSTS", "x")
    for command in (["serve"], ["keys", "list"], ["audit"], ["settings"]):
        assert cli.run(command) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert sorted(printed.err.splitlines()) == [
            "coatcheck: COATCHECK_HOSTS: no such setting; did you mean COATCHECK_HOST?",
            "coatcheck: COATCHECK_PORT: 'abc' is not a whole number between 0 and 65535",
        ]


def test_flags_of_serve_are_checked_as_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["serve", "--provider", "adyen"]) == 2
    assert capsys.readouterr().err == "coatcheck: --provider: 'adyen' is not one of simulator, stripe\n"
    assert cli.run(["serve", "--provider", "stripe"]) == 2
    assert "export COATCHECK_STRIPE_API_KEY=" in capsys.readouterr().err
    assert cli.run(["serve", "--config", "absent.toml"]) == 2
    assert "--config: absent.toml cannot be read" in capsys.readouterr().err


def test_settings_shows_values_and_sources_and_hides_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("coatcheck.toml").write_text("batch_size = 7\n")
    monkeypatch.setenv("COATCHECK_PORT", "8081")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hunter2@host/db")
    assert cli.run(["settings"]) == 0
    lines = {line.split(maxsplit=1)[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines.keys() >= SETTINGS.keys()
    assert lines["batch_size"].split()[1:5] == ["7", "batch_size", "in", "coatcheck.toml"]
    assert lines["port"].split()[1:3] == ["8081", "COATCHECK_PORT"]
    assert lines["host"].split()[1:3] == ["127.0.0.1", "default"]
    assert lines["database_url"].split()[1:3] == ["(hidden)", "DATABASE_URL"]
    assert "hunter2" not in "".join(lines.values())


def test_the_simulator_s_options_are_the_dial_s() -> None:
    fields = {field.name: field.default for field in msgspec.structs.fields(Dial)}
    assert {name: default for name, default, _ in cli.DIAL} == fields
    for name, default, _ in cli.DIAL:
        assert isinstance(default, float) is name.endswith("_share"), name


def test_a_dial_that_cannot_be_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["simulator", "--decline-share", "1.5"]) == 2
    assert "decline_share" in capsys.readouterr().err
    assert cli.run(["simulator", "--error-before-share", "0.6", "--error-after-share", "0.6"]) == 2
    assert "exceed 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (SettingsError(["a: wrong", "b: wrong"]), ["a: wrong", "b: wrong"]),
        (CoatcheckError(ErrorCode.NOT_FOUND, "No such key."), ["No such key."]),
        (CoatcheckError(ErrorCode.INVALID_REQUEST, "No.", [Problem("/a", "is b")]), ["No.", "/a: is b"]),
        (StoreError("cannot connect"), ["cannot connect"]),
        (ExceptionGroup("tasks", [StoreError("cannot connect")]), ["cannot connect"]),
        (
            asyncpg.ConnectionDoesNotExistError("closed"),
            ["the database failed (closed); check that it runs and that DATABASE_URL is right, then try again"],
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/data"),
            ["/data: Permission denied; check the path, its owner and the space left"],
        ),
        (
            subprocess.CalledProcessError(1, ["pg_ctl"]),
            ["the embedded PostgreSQL did not start; its log in the data directory (postgresql/log) says why"],
        ),
        (ValueError("a fault of ours"), None),
    ],
    ids=repr,
)
def test_each_failure_is_put_into_words(error: BaseException, lines: list[str] | None) -> None:
    assert in_words(error) == lines


def test_only_a_fault_of_the_program_raises(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: BaseException) -> None:
        raise error

    for error, status in (
        (StoreError("cannot connect to postgresql://me:hunter2@h/db: start it"), 2),
        (KeyboardInterrupt(), 130),
        (click.UsageError("no"), 2),
    ):
        monkeypatch.setattr(cli.coatcheck, "main", lambda error=error, **_: fail(error))
        assert cli.run([]) == status
    assert capsys.readouterr().err.startswith("coatcheck: cannot connect to postgresql://me:[hidden]@h/db: start it\n")
    monkeypatch.setattr(cli.coatcheck, "main", lambda **_: fail(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.run([])


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EADDRINUSE, "port 80 of h is in use"), (errno.EACCES, "above 1023"), (errno.EADDRNOTAVAIL, "--host")],
)
def test_a_port_that_cannot_be_had_says_what_to_do(number: int, advice: str) -> None:
    with pytest.raises(cli.UnusableError, match=advice), listening_on("h", 80):
        raise OSError(number, os.strerror(number))
    with pytest.raises(PermissionError), listening_on("h", 80):
        raise PermissionError(errno.EACCES, "Permission denied", "/books")
