"""The configuration: every error at once, each with its place; overrides by their weight."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.configload import ConfigError, load_config, load_init_config
from agent.configtypes import parse_duration, parse_size


def write(folder: Path, text: str) -> Path:
    path = folder / "agent.yaml"
    path.write_text(text)
    return path


def problems_of(path: Path, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ or {})
    return [str(problem) for problem in caught.value.problems]


def test_no_file_and_no_environment_give_the_defaults() -> None:
    config = load_config(None, {})
    assert config.environment == "development"
    assert config.web.listen == "0.0.0.0:9900"
    assert config.secrets.cache_ttl == 300.0
    assert config.state_path == config.bundles.root / ".agent"


def test_every_error_is_told_at_once_with_its_line_and_remedy(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "environment: prod\n"
        "secrets:\n"
        "  items:\n"
        "    - name: ../passwd\n"
        "  cache_ttl: five\n"
        "  max_stlae: 3\n"
        "alerts:\n"
        "  interval: -1s\n",
    )
    told = problems_of(path)
    assert len(told) == 5
    for line, option in [
        (1, "environment"),
        (4, "secrets.items[0].name"),
        (5, "secrets.cache_ttl"),
        (6, "secrets.max_stlae"),
        (8, "alerts.interval"),
    ]:
        assert any(f"{path}:{line}: {option}: " in problem for problem in told), (line, told)
    assert all(" — " in problem or "not a duration" in problem for problem in told)


def test_a_key_that_is_there_twice_is_an_error_and_not_the_last_one_wins(tmp_path: Path) -> None:
    told = problems_of(write(tmp_path, "log: {level: info}\nlog: {level: debug}\n"))
    assert told == [f"{tmp_path}/agent.yaml:2: log: also on line 1 — keep one of them"]


def test_broken_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    [told] = problems_of(write(tmp_path, "log:\n  level: [info\nweb: x\n"))
    assert told.startswith(f"{tmp_path}/agent.yaml:3: ")


def test_a_missing_file_is_told_with_a_remedy(tmp_path: Path) -> None:
    [told] = problems_of(tmp_path / "none.yaml")
    assert "no such file" in told
    assert "--config" in told


def test_an_error_never_shows_the_value_that_was_written(tmp_path: Path) -> None:
    path = write(
        tmp_path, "alerts:\n  pagerduty:\n    routing_key: R0UT1NGK3Y\n    severities: 5\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path, {"JULES_ALERTS__SLACK__WEBHOOK_URL": "https://hooks/S3CR3T"})
    assert "R0UT1NGK3Y" not in str(caught.value)
    assert "S3CR3T" not in str(caught.value)


def test_the_environment_outweighs_the_file_and_names_its_own_errors(tmp_path: Path) -> None:
    path = write(tmp_path, "alerts:\n  interval: 5s\n")
    assert load_config(path, {"JULES_ALERTS__INTERVAL": "500ms"}).alerts.interval == 0.5
    [told] = problems_of(path, {"JULES_ALERTS__INTERVAL": "soon"})
    assert told.startswith("JULES_ALERTS__INTERVAL: alerts.interval: ")


def test_the_predecessors_variables_keep_working(tmp_path: Path) -> None:
    config = load_config(
        None,
        {
            "ENVIRONMENT": "staging",
            "DEPLOYMENT_ROOT": str(tmp_path),
            "HEALTH_CHECK_URL": "http://localhost:8123/health",
            "PAGERDUTY_INTEGRATION_KEY": "never-copied",
            "SLACK_WEBHOOK_URL": "never-copied-either",
            "SLACK_CHANNEL": "#desk",
        },
    )
    assert config.environment == "staging"
    assert config.bundles.root == tmp_path
    assert config.bundles.health.url == "http://localhost:8123/health"
    assert config.alerts.pagerduty is not None
    assert config.alerts.pagerduty.routing_key.env == "PAGERDUTY_INTEGRATION_KEY"
    assert config.alerts.slack is not None
    assert config.alerts.slack.channel == "#desk"
    assert "never-copied" not in repr(config)


def test_two_secrets_may_not_be_written_to_one_file(tmp_path: Path) -> None:
    text = "secrets:\n  items:\n    - {name: a/b}\n    - {name: c, path: a/b.json}\n"
    [told] = problems_of(write(tmp_path, text))
    assert "two secrets would be written to 'a/b.json'" in told


def test_a_disk_directory_for_secrets_is_refused_outside_development(tmp_path: Path) -> None:
    text = "environment: production\nsecrets: {allow_disk: true}\n"
    [told] = problems_of(write(tmp_path, text))
    assert "development only" in told


@given(st.integers(0, 10**6))
def test_durations_add_up(seconds: int) -> None:
    minutes, rest = divmod(seconds, 60)
    assert parse_duration(f"{minutes}m{rest}s") == pytest.approx(seconds)
    assert parse_duration(f"{seconds * 1000}ms") == pytest.approx(seconds)


@given(st.text(max_size=20))
def test_a_text_is_a_duration_or_a_clear_error(text: str) -> None:
    try:
        value = parse_duration(text)
    except ValueError:
        return
    assert isinstance(value, float)


def test_sizes_know_binary_and_decimal_units() -> None:
    assert parse_size("64MiB") == 64 * 1024 * 1024
    assert parse_size("2GB") == 2 * 10**9
    with pytest.raises(ValueError, match="not a size"):
        parse_size("lots")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_configuration_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, body: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "agent.yaml"
    path.write_bytes(body)
    try:
        load_config(path, {})
    except ConfigError as error:
        assert error.problems


VAULT = """
environment: staging
secrets:
  vault:
    auth: {token_file: /run/token}
"""


def test_another_makers_variables_fill_a_section_that_is_there_and_switch_none_on(
    tmp_path: Path,
) -> None:
    environ = {"VAULT_ADDR": "https://vault:8200", "AWS_REGION": "eu-west-1", "VAULT_ROLE": "x"}
    file = tmp_path / "agent.yaml"
    file.write_text(VAULT)
    found = load_config(file, environ).secrets
    assert found.vault is not None
    assert (found.vault.url, found.vault.auth.role, found.aws) == ("https://vault:8200", None, None)
    assert load_config(None, {**environ, "ENVIRONMENT": "production"}).secrets.vault is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (VAULT.replace("staging", "development"), "not in the order"),
        (VAULT.replace("auth:", "url: http://vault:8200\n    auth:"), "without TLS"),
        (VAULT.replace("token_file: /run/token", "method: approle"), "role_id"),
        (VAULT.replace("token_file", "role: x, token_file"), "means nothing"),
    ],
)
def test_a_backend_that_would_be_silent_or_unsafe_is_refused(
    tmp_path: Path, text: str, told: str
) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(text)
    environ = {} if "http:" in text else {"VAULT_ADDR": "https://vault:8200"}
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]\n",
        "secrets: &a {local: *a}\n",
        "l0: &l0 [x, x]\n" + "".join(f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}]\n" for n in range(1, 24)),
    ],
    ids=["a list in itself", "a mapping in itself", "doubled 23 times"],
)
def test_aliases_that_make_it_endless_or_huge_are_an_error_not_a_hang(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="aliases"):
        load_config(path, {})


def test_a_date_that_is_none_is_an_error_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("environment: 2001-02-30\n")
    with pytest.raises(ConfigError, match="a date or a number"):
        load_config(path, {})


def test_an_init_container_leaves_the_alerts_to_others_and_judges_all_the_rest(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, "alerts:\n  interval: soon\n")
    assert load_init_config(path, {}).secrets == load_config(None, {}).secrets
    assert len(problems_of(path)) == 1
    path = write(tmp_path, "secrets:\n  cache_ttl: five\n")
    with pytest.raises(ConfigError, match=r"agent.yaml:2: secrets\.cache_ttl"):
        load_init_config(path, {})
