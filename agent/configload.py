"""From a YAML file and the environment to a `Config`, or to every error at once.

Order of weight, lightest first: defaults, the file, the earlier scripts' variables, `JULES_*`. So
`JULES_ALERTS__INTERVAL=500ms` sets `alerts.interval`; its value is read as YAML, so lists and maps
work too. Each error says file and line (or the variable), what is wrong there and what to write
instead; no input value is shown, since a misplaced credential would be.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from agent.errors import AgentError, Exit

if TYPE_CHECKING:
    from agent.config import Config
    from agent.configpod import InitConfig

Model = TypeVar("Model", bound=BaseModel)
Loc = tuple[str | int, ...]

SEED_VARIABLES: dict[str, Loc] = {
    "ENVIRONMENT": ("environment",),
    "DEPLOYMENT_ROOT": ("bundles", "root"),
    "HEALTH_CHECK_URL": ("bundles", "health", "url"),
    "SLACK_CHANNEL": ("alerts", "slack", "channel"),
    "SECRETS_STORAGE_PATH": ("secrets", "local", "path"),
}
"""The earlier scripts' variables that name one option; `_credentials` has those that hold one."""

BACKEND_VARIABLES: dict[str, Loc] = {
    "VAULT_URL": ("secrets", "vault", "url"),
    "VAULT_ADDR": ("secrets", "vault", "url"),
    "VAULT_NAMESPACE": ("secrets", "vault", "namespace"),
    "VAULT_CACERT": ("secrets", "vault", "tls", "ca_file"),
    "VAULT_TOKEN_FILE": ("secrets", "vault", "auth", "token_file"),
    "VAULT_ROLE": ("secrets", "vault", "auth", "role"),
    "AWS_DEFAULT_REGION": ("secrets", "aws", "region"),
    "AWS_REGION": ("secrets", "aws", "region"),
}
"""Variables of other makers. Every pod of a cluster may have them, so they say something only where
their section is there, and never switch a provider on."""

_MOST_OPTIONS = 20_000
_DEEPEST = 32

_REMEDIES = {
    "extra_forbidden": "remove it or correct its name: see docs/configuration.md",
    "missing": "add it",
    "literal_error": "use one of the values named",
    "greater_than": "use a larger value",
    "greater_than_equal": "use a larger value",
    "less_than_equal": "use a smaller value",
    "bool_parsing": "write true or false",
    "bool_type": "write true or false",
    "int_parsing": "write a whole number",
    "string_type": "write a text; quote it if it looks like a number",
    "string_pattern_mismatch": "write it in the form that docs/configuration.md shows",
    "tuple_type": "write a list",
    "model_type": "write a mapping of options",
    "dict_type": "write a mapping",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration."""

    where: str
    option: str
    what: str
    remedy: str

    def __str__(self) -> str:
        option = f"{self.option}: " if self.option else ""
        remedy = f" — {self.remedy}" if self.remedy else ""
        return f"{self.where}: {option}{self.what}{remedy}"


class ConfigError(AgentError):
    """The configuration cannot be used; `problems` lists everything that is wrong with it."""

    exit_code = Exit.USAGE

    def __init__(self, problems: list[Problem]) -> None:
        count = f"{len(problems)} errors" if len(problems) > 1 else "1 error"
        lines = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"configuration: {count}\n{lines}")
        self.problems = problems


class _TooMuchError(Exception):
    """More than a configuration can be."""


def load_config(path: Path | None, environ: Mapping[str, str] | None = None) -> Config:
    """Read, override and validate the whole.

    Args:
        path: the YAML file; None for defaults and environment alone.
        environ: the environment; the process's own unless told.

    Raises:
        ConfigError: with every problem found, each with its place and remedy.
    """
    from agent.config import Config

    return _load(path, environ, Config)


def load_init_config(path: Path | None, environ: Mapping[str, str] | None = None) -> InitConfig:
    """As `load_config`, without a look at `alerts`, which an init container has no use for."""
    from agent.configpod import InitConfig

    return _load(path, environ, InitConfig)


def _load(path: Path | None, environ: Mapping[str, str] | None, model: type[Model]) -> Model:
    environ = os.environ if environ is None else environ
    tree, lines = _read(path) if path else ({}, {})
    origin: dict[Loc, str] = {}
    for variable, loc, value in _overrides(environ, tree):
        _put(tree, loc, value)
        origin[loc] = variable
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_problems(error, str(path or "defaults"), lines, origin)) from None


def _read(path: Path) -> tuple[dict[str, Any], dict[Loc, int]]:
    """The file as plain data, and the line on which each option stands."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        remedy = "name an existing file with --config, or run `jules-agent demo` for a look"
        raise ConfigError([Problem(str(path), "", "no such file", remedy)]) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError([Problem(str(path), "", reason, "make it readable")]) from None
    loader = yaml.CSafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}, {}
        problems: list[Problem] = []
        lines: dict[Loc, int] = {}
        _index(node, (), lines, problems, str(path))
        data = loader.construct_document(node)
    except _TooMuchError:
        what = f"over {_MOST_OPTIONS} options, or over {_DEEPEST} levels, aliases followed"
        raise ConfigError(
            [Problem(str(path), "", what, "write it without nested aliases")]
        ) from None
    except ValueError:  # its own message would quote the value
        what = "a date or a number in it is none"
        raise ConfigError([Problem(str(path), "", what, "correct it, or quote it")]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        what = getattr(error, "problem", None) or "not YAML"
        raise ConfigError([Problem(where, "", what, "correct the YAML there")]) from None
    finally:
        loader.dispose()
    if not isinstance(data, dict):
        problems.append(Problem(f"{path}:1", "", "not a mapping", "write `option: value` lines"))
    if problems:
        raise ConfigError(problems)
    return data, lines


def _index(
    node: yaml.Node, loc: Loc, lines: dict[Loc, int], problems: list[Problem], name: str
) -> None:
    """Note the line of every option below `node`, and every key that is there twice.

    Raises:
        _TooMuchError: aliases make it larger than any configuration, or endless.
    """
    if len(loc) > _DEEPEST or len(lines) > _MOST_OPTIONS:
        raise _TooMuchError
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*loc, str(key.value))
            line = key.start_mark.line + 1
            if here in lines:
                what = f"also on line {lines[here]}"
                problems.append(Problem(f"{name}:{line}", _dotted(here), what, "keep one of them"))
                continue
            lines[here] = line
            _index(value, here, lines, problems, name)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            lines[(*loc, position)] = value.start_mark.line + 1
            _index(value, (*loc, position), lines, problems, name)


def _overrides(environ: Mapping[str, str], tree: Mapping[str, Any]) -> list[tuple[str, Loc, Any]]:
    """What the environment says: (variable, option, value), in order of weight."""
    found = [
        (variable, loc, environ[variable])
        for variable, loc in BACKEND_VARIABLES.items()
        if environ.get(variable) and _meant(variable, loc, environ, tree)
    ]
    for variable, loc in SEED_VARIABLES.items():
        if environ.get(variable) and not (
            variable == "SLACK_CHANNEL" and not environ.get("SLACK_WEBHOOK_URL")
        ):
            found.append((variable, loc, environ[variable]))
    found.extend(_credentials(environ))
    for variable in sorted(environ):
        if variable.startswith("JULES_") and variable != "JULES_CONFIG":
            loc = tuple(part.lower() for part in variable[len("JULES_") :].split("__"))
            try:
                value = yaml.safe_load(environ[variable])
            except yaml.YAMLError:
                value = environ[variable]
            found.append((variable, loc, value))
    return found


def _meant(variable: str, loc: Loc, environ: Mapping[str, str], tree: Mapping[str, Any]) -> bool:
    """Whether the section that another maker's variable belongs to is configured, and uses it."""
    secrets = tree.get("secrets")
    section = secrets.get(loc[1]) if isinstance(secrets, dict) else None
    prefix = f"JULES_{loc[0]}__{loc[1]}".upper()
    if not isinstance(section, dict) and not any(name.startswith(prefix) for name in environ):
        return False
    auth = section.get("auth") if isinstance(section, dict) else None
    method = auth.get("method", "token") if isinstance(auth, dict) else "token"
    if variable == "VAULT_TOKEN_FILE":
        return bool(method == "token")
    return variable != "VAULT_ROLE" or method in ("kubernetes", "jwt", "aws")


def _credentials(environ: Mapping[str, str]) -> list[tuple[str, Loc, Any]]:
    """Their credential variables, named and not copied: the value stays where it is."""
    pairs: list[tuple[str, Loc]] = [
        ("PAGERDUTY_INTEGRATION_KEY", ("alerts", "pagerduty", "routing_key")),
        ("SLACK_WEBHOOK_URL", ("alerts", "slack", "webhook_url")),
    ]
    return [(name, loc, {"env": name}) for name, loc in pairs if environ.get(name)]


def _put(tree: dict[str, Any], loc: Loc, value: Any) -> None:
    here = tree
    for part in loc[:-1]:
        below = here.get(str(part))
        if not isinstance(below, dict):
            below = here[str(part)] = {}
        here = below
    here[str(loc[-1])] = value


def _problems(
    error: ValidationError, name: str, lines: Mapping[Loc, int], origin: Mapping[Loc, str]
) -> list[Problem]:
    problems = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        loc = detail["loc"]
        kind = detail["type"]
        what = detail["msg"].removeprefix("Value error, ")
        if kind == "extra_forbidden":
            what = "no such option"
        remedy = _REMEDIES.get(kind, "")
        problems.append(Problem(_place(loc, name, lines, origin), _dotted(loc), what, remedy))
    return problems


def _place(loc: Loc, name: str, lines: Mapping[Loc, int], origin: Mapping[Loc, str]) -> str:
    """The variable or the line that says it: the option's own, or its nearest parent's."""
    for length in range(len(loc), 0, -1):
        part = loc[:length]
        for at, variable in origin.items():
            if at[:length] == part and len(at) >= length and length == len(loc):
                return variable
        if part in origin:
            return origin[part]
        if part in lines:
            return f"{name}:{lines[part]}"
    return name


def _dotted(loc: Loc) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
