"""The forms in which a secret is written, and that no message tells a value."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.configsecrets import SecretItem
from agent.errors import AgentError
from agent.secrets.errors import ShapeError
from agent.secrets.formats import files
from agent.secrets.model import Fetched, Kind, SecretValue
from agent.units import SecretName, UnixTime

CANARY = "canary-7f3a"
DB = {"host": "db", "port": 5432, "password": f"it's {CANARY}", "tls": True, "note": None}


def fetched(value: object, kind: Kind = "json", name: str = "database/main") -> Fetched:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Fetched(SecretName(name), SecretValue(data), "1", "fake", UnixTime(1.0), kind=kind)


def none(_name: str) -> Fetched:
    raise ShapeError("not declared")


def written(
    value: Fetched, lookup: Callable[[str], Fetched] = none, **item: object
) -> dict[str, bytes]:
    made = SecretItem.model_validate({"name": "database/main", **item})
    return {file.path: file.data for file in files(made, value, lookup)}


def from_shell(text: bytes, *names: str) -> list[str]:
    """What a POSIX shell makes of an env file."""
    script = 'set -a; . /dev/stdin; python3 -c "$0" "$@"'
    show = "import os, sys, json; print(json.dumps([os.environ[name] for name in sys.argv[1:]]))"
    done = subprocess.run(
        ["sh", "-c", script.replace("python3", sys.executable), show, *names],
        input=text,
        capture_output=True,
        check=True,
        env={"LC_ALL": "C.UTF-8"},
    )
    found: list[str] = json.loads(done.stdout)
    return found


def test_env_is_what_a_shell_reads(tmp_path: Path) -> None:
    made = written(fetched(DB), format="env")["database/main.env"]
    names = ("HOST", "PORT", "PASSWORD", "TLS", "NOTE")
    assert from_shell(made, *names) == ["db", "5432", DB["password"], "true", ""]


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60))
def test_no_value_breaks_out_of_its_quotes(value: str) -> None:
    assert from_shell(written(fetched({"v": value}), format="env")["database/main.env"], "V") == [
        value
    ]


def test_a_bare_text_is_a_variable_of_the_secrets_own_name() -> None:
    assert written(fetched("x"), format="env") == {"database/main.env": b"MAIN='x'\n"}


def test_fields_are_a_file_each() -> None:
    assert written(fetched({**DB, "more": [1]}), format="fields", path="db") == {
        "db/host": b"db",
        "db/port": b"5432",
        "db/password": str(DB["password"]).encode(),
        "db/tls": b"true",
        "db/note": b"",
        "db/more": b"[1]",
    }


def test_a_template_has_the_fields_the_value_and_the_other_secrets(tmp_path: Path) -> None:
    template = tmp_path / "pgpass.j2"
    template.write_text(
        "{{ host }}:{{ port }}:{{ password }}\n"
        "{% if tls %}\nsslmode=require\n{% endif %}\n"
        "{{ secret('api_key/x') }} {{ (value | length) > 10 }}\n"
    )
    made = written(
        fetched(DB),
        lambda name: fetched("k", name=name),
        format="template",
        path="pgpass",
        template=str(template),
    )
    assert made == {"pgpass": f"db:5432:it's {CANARY}\nsslmode=require\nk True\n".encode()}


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ pasword }}", "names pasword, which"),
        ("{{ password.nothing }}", "line 1 failed on secret database/main: UndefinedError"),
        ("\n\n{{ {}[password] }}", "line 3 failed"),
        ("{{ password | int(base=3) + nothing }}", "names nothing"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ password.__class__.__mro__ }}", "SecurityError"),
        ("{{ secret(password) }}", "not declared"),
        ("{% include '/etc/passwd' %}", "failed on secret database/main: TypeError"),
        ("{{ ''.join(range(9999999)) }}", "OverflowError"),
        ("{% if %}", "line 1 is no jinja2"),
    ],
)
def test_a_template_that_fails_says_where_and_shows_no_value(
    tmp_path: Path, template: str, told: str
) -> None:
    path = tmp_path / "t.j2"
    path.write_text(template)
    with pytest.raises(ShapeError) as caught:
        written(fetched(DB), format="template", path="t", template=str(path))
    assert told in str(caught.value)
    assert CANARY not in caught.value.told()


def test_a_template_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    for path, data in ((tmp_path / "none", None), (tmp_path / "bytes", b"\xff\xfe")):
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(ShapeError, match=path.name):
            written(fetched(DB), format="template", path="t", template=str(path))


@pytest.mark.parametrize(
    ("item", "value", "kind"),
    [
        ({"format": "json"}, CANARY.encode(), "bytes"),
        ({"format": "fields"}, [CANARY], "json"),
        ({"format": "fields"}, {}, "json"),
        ({"format": "fields"}, {f"../{CANARY}": "x"}, "json"),
        ({"format": "env"}, {"a": {"b": CANARY}}, "json"),
        ({"format": "env"}, {"a-b": CANARY, "a.b": CANARY}, "json"),
        ({"format": "env"}, {"1a": CANARY}, "json"),
        ({"format": "env"}, {"a": f"{CANARY}\0"}, "json"),
        ({"format": "env"}, b"\xff" + CANARY.encode(), "bytes"),
        ({"format": "json", "type": "database_password"}, {"host": CANARY}, "json"),
        ({"format": "raw", "type": "jwt_secret"}, CANARY, "json"),
    ],
)
def test_what_does_not_fit_its_form_is_refused_without_a_word_of_it(
    item: dict[str, Any], value: object, kind: Kind
) -> None:
    with pytest.raises(ShapeError, match="secret database/main") as caught:
        written(fetched(value, kind), **item)
    assert CANARY not in caught.value.told()


def test_jinja2_is_imported_only_where_a_template_is_configured() -> None:
    code = (
        "import sys\nfrom agent.configsecrets import SecretItem\n"
        "from agent.secrets.service import SecretsService\n"
        "print('jinja2' in sys.modules, 'agent.secrets.typed' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_a_template_needs_both_its_file_and_its_path() -> None:
    for item in (
        {"format": "template", "path": "x"},
        {"template": "/t"},
        {"format": "template", "template": "/t"},
    ):
        with pytest.raises(ValueError, match="template"):
            SecretItem.model_validate({"name": "a", **item})


def test_the_error_of_another_secret_passes_through_a_template(tmp_path: Path) -> None:
    path = tmp_path / "t.j2"
    path.write_text("{{ secret('b') }}")

    def down(_name: str) -> Fetched:
        raise AgentError("b is down")

    with pytest.raises(AgentError, match="b is down"):
        written(fetched(DB), down, format="template", path="t", template=str(path))
