from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from coatcheck.config import SETTINGS, Settings, SettingsError, digest_secret_of, load_settings, read_settings, show
from coatcheck.states import Mode
from coatcheck.wiring import make_webhook_readers


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def problems_of(environ: Mapping[str, str], toml: str | None = None) -> list[str]:
    path = None
    if toml is not None:
        path = Path("given.toml")
        path.write_text(toml, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, path)
    return caught.value.problems


def test_nothing_given_gives_the_defaults() -> None:
    assert load_settings({"PATH": "/bin"}) == Settings()


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        load_settings({}).port = 1  # type: ignore[misc]


def test_the_environment_wins_over_the_file_and_flags_over_both() -> None:
    path = Path("other.toml")
    path.write_text('port = 1\nhost = "file"\nbatch_size = 7\n')
    settings, sources = read_settings(
        {"COATCHECK_PORT": "2", "COATCHECK_HOST": "environment"}, path, flags={"host": "flag"}
    )
    assert (settings.batch_size, settings.port, settings.host) == (7, 2, "flag")
    assert sources == {"batch_size": "batch_size in other.toml", "port": "COATCHECK_PORT", "host": "--host"}


def test_the_file_is_the_one_in_the_working_directory_or_the_one_named() -> None:
    Path("coatcheck.toml").write_text("port = 1\n")
    Path("named.toml").write_text("port = 2\n")
    assert load_settings({}).port == 1
    assert load_settings({"COATCHECK_CONFIG": "named.toml"}).port == 2
    assert load_settings({"COATCHECK_CONFIG": "named.toml"}, Path("coatcheck.toml")).port == 1


def test_values_are_read_in_their_own_types() -> None:
    settings = load_settings(
        {
            "COATCHECK_DATA_DIR": "somewhere",
            "COATCHECK_RISK_ENABLED": "False",
            "COATCHECK_RISK_MAX_AMOUNT": '{"USD": "500.00", "JPY": "80000"}',
            "COATCHECK_RISK_BLOCKED_COUNTRIES": "KP, IR",
            "COATCHECK_RISK_HIGH_RISK_COUNTRIES": '["NG"]',
            "COATCHECK_PROVIDER": "stripe",
            "COATCHECK_STRIPE_API_KEY": "sk_test_4eC39HqLyjWD",
        }
    )
    assert settings.data_dir == Path("somewhere")
    assert settings.risk_enabled is False
    assert settings.risk_max_amount == {"USD": "500.00", "JPY": "80000"}
    assert settings.risk_blocked_countries == ("KP", "IR")
    assert settings.risk_high_risk_countries == ("NG",)
    assert settings.stripe_api_key == "sk_test_4eC39HqLyjWD"


def test_a_file_has_numbers_lists_and_tables_of_its_own() -> None:
    path = Path("given.toml")
    path.write_text('lease_s = 31\nrisk_blocked_countries = ["KP"]\n[risk_max_amount]\nKWD = "1.250"\n')
    settings = load_settings({}, path)
    assert (settings.lease_s, settings.risk_blocked_countries) == (31, ("KP",))
    assert settings.risk_max_amount == {"KWD": "1.250"}


def test_everything_wrong_is_named_at_once() -> None:
    problems = problems_of(
        {"COATCHECK_PORT": "abc", "COATCHECK_HOSTS": "x"}, 'log_level = "loud"\nretry_base = 5\n[store]\nx = 1\n'
    )
    assert sorted(problems) == [
        "COATCHECK_HOSTS: no such setting; did you mean COATCHECK_HOST?",
        "COATCHECK_PORT: 'abc' is not a whole number between 0 and 65535",
        "log_level in given.toml: 'loud' is not one of debug, info, warning, error",
        "retry_base in given.toml: no such setting; did you mean retry_base_ms?",
        "store in given.toml: no such setting; `coatcheck settings` lists them all",
    ]


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("COATCHECK_PORT", "65536"),
        ("COATCHECK_PORT", "-1"),
        ("COATCHECK_PORT", "1_000"),
        ("COATCHECK_PORT", "٨٠"),
        ("COATCHECK_PORT", ""),
        ("COATCHECK_PORT", "9" * 5000),
        ("COATCHECK_CALL_DEADLINE_S", "1.5"),
        ("COATCHECK_HOST", " "),
        ("COATCHECK_PROVIDER", "Stripe"),
        ("COATCHECK_RISK_ENABLED", "1"),
        ("COATCHECK_DATA_DIR", ""),
        ("COATCHECK_RISK_MAX_AMOUNT", "{"),
        ("COATCHECK_RISK_MAX_AMOUNT", '["USD"]'),
        ("COATCHECK_RISK_MAX_AMOUNT", '{"USD": 5}'),
        ("COATCHECK_RISK_MAX_AMOUNT", "[" * 100_000),
        ("COATCHECK_RISK_BLOCKED_COUNTRIES", "Iran"),
        ("COATCHECK_RISK_BLOCKED_COUNTRIES", "[1]"),
        ("COATCHECK_SIMULATOR_URL", "localhost:8090"),
        ("COATCHECK_STRIPE_BASE_URL", "https://[broken"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_should_be(variable: str, text: str) -> None:
    (problem,) = problems_of({variable: text})
    assert problem.startswith(f"{variable}: ")
    name = variable.removeprefix("COATCHECK_").lower()
    assert problem.endswith(f"is not {SETTINGS[name].rule.expects}")
    assert len(problem) < 300


@pytest.mark.parametrize(
    "toml",
    ["port = true", "port = 80.0", 'port = "80"', "risk_enabled = 1", "host = 1", "risk_max_amount = {USD = 5.0}"],
)
def test_a_value_of_another_type_in_the_file_is_refused(toml: str) -> None:
    name = toml.partition(" ")[0]
    (problem,) = problems_of({}, toml)
    assert problem.startswith(f"{name} in given.toml: ")


def test_an_amount_says_what_its_currency_allows() -> None:
    (problem,) = problems_of({"COATCHECK_RISK_MAX_AMOUNT": '{"JPY": "10.5"}'})
    assert "JPY has no decimals" in problem
    (problem,) = problems_of({"COATCHECK_RISK_MAX_AMOUNT": '{"usd": "10.5"}'})
    assert "write USD" in problem


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("COATCHECK_STRIPE_API_KEY", "pk_hunter2"),
        ("COATCHECK_DATABASE_URL", "mysql://me:hunter2@host/x"),
        ("DATABASE_URL", "mysql://me:hunter2@host/x"),
        ("COATCHECK_DIGEST_SECRET", "hunter2"),
    ],
)
def test_a_wrong_secret_is_named_but_not_shown(variable: str, text: str) -> None:
    (problem,) = problems_of({variable: text})
    assert problem.startswith(variable)
    assert "hunter2" not in problem


def test_secrets_are_not_in_the_repr_and_not_in_the_table() -> None:
    secret = {name: "x" * 40 for name, about in SETTINGS.items() if about.is_secret}
    settings = Settings(**secret)  # type: ignore[arg-type]
    assert set(secret) == {
        "adyen_hmac_keys",
        "database_url",
        "digest_secret",
        "simulator_api_key",
        "simulator_webhook_secrets",
        "stripe_api_key",
        "stripe_webhook_secrets",
    }
    assert "x" * 40 not in repr(settings)
    assert show("x" * 40, is_secret=True) == "(hidden)"


def test_database_url_works_and_ours_wins() -> None:
    theirs, ours = "postgresql://theirs/db", "postgres://ours/db"
    assert load_settings({"DATABASE_URL": theirs}).database_url == theirs
    assert load_settings({"DATABASE_URL": theirs, "COATCHECK_DATABASE_URL": ours}).database_url == ours
    assert load_settings({"DATABASE_URL": ""}).database_url is None
    assert load_settings({"COATCHECK_DATABASE_URL": ""}).database_url is None


def test_F1_a_lease_outlives_two_calls() -> None:
    (problem,) = problems_of({"COATCHECK_LEASE_S": "20", "COATCHECK_CALL_DEADLINE_S": "10"})
    assert problem.startswith("COATCHECK_LEASE_S: 20 is not more than twice call_deadline_s (10)")
    assert "at least 21" in problem
    assert load_settings({"COATCHECK_LEASE_S": "21", "COATCHECK_CALL_DEADLINE_S": "10"}).lease_s == 21


def test_connecting_is_part_of_the_call() -> None:
    (problem,) = problems_of({"COATCHECK_CONNECT_DEADLINE_S": "11"})
    assert problem.startswith("COATCHECK_CONNECT_DEADLINE_S: 11 is more than call_deadline_s (10)")


def test_stripe_without_a_key_says_how_to_set_it() -> None:
    (problem,) = problems_of({"COATCHECK_PROVIDER": "stripe"})
    assert "export COATCHECK_STRIPE_API_KEY=" in problem


def test_a_file_that_is_not_there_or_not_toml_is_named() -> None:
    with pytest.raises(SettingsError, match=r"--config: absent\.toml cannot be read"):
        load_settings({}, Path("absent.toml"))
    with pytest.raises(SettingsError, match=r"COATCHECK_CONFIG: absent\.toml cannot be read"):
        load_settings({"COATCHECK_CONFIG": "absent.toml"})
    assert problems_of({}, "port 80")[0].startswith("given.toml: not a TOML file: ")


def test_the_digest_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "new" / "data")
    first = digest_secret_of(settings)
    path = settings.data_dir / "digest.key"
    assert len(first) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert digest_secret_of(settings) == first
    assert [each.name for each in settings.data_dir.iterdir()] == ["digest.key"]
    assert digest_secret_of(Settings(data_dir=tmp_path / "other")) != first


def test_the_digest_secret_of_another_process_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "digest.key"
    path.write_bytes(b"theirs" * 8)
    monkeypatch.setattr(Path, "exists", lambda _: False)  # it appeared after we looked
    assert digest_secret_of(Settings(data_dir=tmp_path)) == b"theirs" * 8
    assert [each.name for each in tmp_path.iterdir()] == ["digest.key"]


def test_a_digest_secret_given_is_used_and_a_broken_file_refused(tmp_path: Path) -> None:
    assert digest_secret_of(Settings(data_dir=tmp_path, digest_secret="s" * 32)) == b"s" * 32
    (tmp_path / "digest.key").write_bytes(b"short")
    with pytest.raises(SettingsError, match="too short"):
        digest_secret_of(Settings(data_dir=tmp_path))


@pytest.mark.parametrize(
    ("provider", "secrets", "takes"),
    [
        ("simulator", "whsec_simulator", True),
        ("stripe", "whsec_simulator", False),
        ("stripe", "whsec_of_ours", True),
        ("simulator", "", False),
    ],
)
def test_C10_the_secret_that_everybody_knows_opens_no_address_beside_a_real_provider(
    provider: str,
    secrets: str,
    takes: bool,  # noqa: FBT001 - a column of the table
) -> None:
    environ = {
        "COATCHECK_PROVIDER": provider,
        "COATCHECK_STRIPE_API_KEY": "sk_test_1",
        "COATCHECK_SIMULATOR_WEBHOOK_SECRETS": secrets,
    }
    readers = make_webhook_readers(load_settings(environ))
    assert (("simulator", Mode.TEST) in readers) is takes


def test_C11_several_webhook_secrets_may_prove_at_once() -> None:
    loaded = load_settings({"COATCHECK_SIMULATOR_WEBHOOK_SECRETS": "whsec_old, whsec_new"})
    assert loaded.simulator_webhook_secrets == ("whsec_old", "whsec_new")
    (problem,) = problems_of({"COATCHECK_SIMULATOR_WEBHOOK_SECRETS": "whsec old"})
    assert "COATCHECK_SIMULATOR_WEBHOOK_SECRETS" in problem
    assert "whsec" not in problem.split("is not")[0].partition("SECRETS")[2]  # a secret is not repeated


@pytest.mark.parametrize(
    ("variable", "value", "needs"),
    [
        ("COATCHECK_STRIPE_WEBHOOK_SECRETS", "whsec_1", "COATCHECK_STRIPE_API_KEY"),
        ("COATCHECK_ADYEN_HMAC_KEYS", "ab" * 32, "COATCHECK_ADYEN_MERCHANT_ACCOUNT"),
    ],
)
def test_C10_a_webhook_secret_needs_the_account_it_is_bound_to(variable: str, value: str, needs: str) -> None:
    (problem,) = problems_of({variable: value})
    assert problem.startswith(variable)
    assert needs in problem
