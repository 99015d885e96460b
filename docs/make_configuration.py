"""Write docs/configuration.md from the configuration tree, so that the page cannot be wrong.

    python docs/make_configuration.py            write the page
    python docs/make_configuration.py --check    exit 1 when the page is out of date

An option's meaning is its description in `agent.config`; `_MEANINGS` holds those whose name and
section say it all to a reader of the code, but not to a reader of a table.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from agent.config import Config
from agent.configload import BACKEND_VARIABLES, SEED_VARIABLES
from agent.confignotify import CredentialRef
from agent.units import AbsolutePath, Bytes, Seconds

PAGE = Path(__file__).parent / "configuration.md"

_MEANINGS = {
    "environment": "Which of the three this is; also the default channel.",
    "log.level": "The lowest level that is written.",
    "log.format": "`auto`: readable lines on a terminal, one JSON object a line elsewhere.",
    "web.listen": "Where the read-only face listens: `HOST:PORT`.",
    "secrets.enabled": "Whether the agent does this job.",
    "secrets.directory": "Where secrets are published; a tmpfs.",
    "secrets.items": "The secrets that the trader needs.",
    "secrets.items[].name": "Name in the store, such as `database/main`.",
    "secrets.items[].format": "`json`, `env`, `raw` (bytes), `fields` (a file each), `template`.",
    "secrets.cache_ttl": "How long a value is served before the store is asked again.",
    "bundles.enabled": "Whether the agent does this job.",
    "bundles.root": "Deployment root: `current`, `previous`, `bundles/`.",
    "bundles.store.path": "Folder with `channels/` and `bundles/`.",
    "bundles.channel": "Channel document that is followed; default: the environment's name.",
    "bundles.require_manifest": "Refuse a bundle without a manifest; default: only in production.",
    "bundles.health.url": "Asked before a flip and after it.",
    "bundles.health.timeout": "Deadline of one question.",
    "bundles.health.attempts": "Questions before the answer counts as no.",
    "bundles.health.interval": "Pause between two questions.",
    "bundles.bake.duration": "How long a new version is watched; `0` switches the bake off.",
    "bundles.bake.interval": "How often its gates are evaluated.",
    "bundles.bake.gates": "Conditions that roll the version back.",
    "bundles.bake.gates[].name": "Shown in history and status.",
    "bundles.bake.gates[].expr": "PromQL; any result is a breach.",
    "bundles.limits.max_files": "Most files that a bundle may have.",
    "bundles.limits.max_size": "Most bytes that a bundle may have.",
    "alerts.enabled": "Whether the agent does this job.",
    "alerts.targets": "What is scraped; each `job` once.",
    "alerts.targets[].job": "The `job` label of its series.",
    "alerts.targets[].url": "Its metrics page.",
    "alerts.targets[].labels": "Labels added to its series.",
    "alerts.interval": "Time between two scrapes of a target.",
    "alerts.max_series": "Most series kept for the rules.",
    "alerts.external_labels": "Labels added to every notification.",
    "alerts.pagerduty.url": "Where events are posted.",
    "alerts.pagerduty.routing_key": "The integration's key, by where it is.",
    "alerts.pagerduty.severities": "Severities that page.",
    "alerts.pagerduty.timeout": "Deadline of one delivery.",
    "alerts.slack.webhook_url": "The webhook's URL, by where it is.",
    "alerts.slack.channel": "Named in the message; the webhook decides where it goes.",
    "alerts.slack.severities": "Severities that are told there.",
    "alerts.slack.timeout": "Deadline of one delivery.",
}
_INTRODUCTION = """# Configuration

<!-- Written from agent/config.py by `make pages`; change it there. -->

One YAML file, named with `--config` or `JULES_CONFIG`; every option has the default shown, and no
file at all is valid too. `jules-agent check --config agent.yaml` looks it over. An unknown key is
an error. All errors are told at once, each with its line and what to write instead.

- **duration**: `250ms`, `30s`, `5m`, `1h30m`, `1d`, or a number of seconds.
- **size**: `64MiB`, `1GB`, or a number of bytes.
- **mode**: quoted, such as `"0440"`.
- **credential**: a mapping that says where a credential is, never the credential itself: exactly
  one of `secret` (a name in the agent's own store, with `field` when it is a JSON object), `file`,
  or `env` (works, with a warning: every child process sees it).

Order of weight, lightest first: defaults, the file, the variables that the trading system's earlier
scripts used, `JULES_*`. The value of a `JULES_*` variable is read as YAML, so lists and mappings
work too: `JULES_ALERTS__TARGETS='[{url: "http://localhost:8000/metrics"}]'`. Options marked with
`[]` belong to the entries of a list and are set through the list. A section marked *absent unless
written* takes effect by being there.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table."""

    option: str
    kind: str
    default: str
    meaning: str
    optional: bool = False
    """Whether it stands in a section that is absent unless written."""

    @property
    def variable(self) -> str:
        return "" if "[]" in self.option else "JULES_" + self.option.upper().replace(".", "__")


def main(arguments: list[str]) -> int:
    """Write the page, or compare it with what stands there."""
    page = render()
    if "--check" not in arguments:
        PAGE.write_text(page, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
        sys.stderr.write(f"{PAGE} is out of date: run make pages\n")
        return 1
    return 0


def render() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    tables: dict[str, list[Row]] = {}
    for row in rows(Config):
        tables.setdefault(_section(row.option), []).append(row)
    for section, lines in tables.items():
        parts.append(_table(section, lines))
    parts.append(_seed_variables())
    return "\n".join(parts)


def rows(model: type[BaseModel], prefix: str = "", optional: bool = False) -> Iterator[Row]:
    """Every option below `model`, sections after what stands directly in it."""
    later: list[Iterator[Row]] = []
    for name, field in model.model_fields.items():
        option = f"{prefix}{field.alias or name}"
        inner, many = _model_of(field.annotation)
        credential = inner is CredentialRef
        if inner is None or many or credential:
            kind = "credential" if credential else _kind(field)
            yield Row(option, kind, _default(field), _meaning(option, field), optional)
        if inner is not None and not credential and inner is not model:  # a tree names itself
            absent = optional or (not many and field.default is None)
            later.append(rows(inner, f"{option}[]." if many else f"{option}.", absent))
    for below in later:
        yield from below


def _section(option: str) -> str:
    """The heading under which an option stands: its section, and the section's own sections."""
    parts = option.split(".")
    return ".".join(part.removesuffix("[]") for part in parts[:-1])


def _model_of(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section that an annotation holds, and whether it holds many."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    many = get_origin(annotation) is tuple
    for part in get_args(annotation):
        inner, _ = _model_of(part)
        if inner is not None:
            return inner, many
    return None, False


def _kind(field: FieldInfo) -> str:
    """The option's type in words, with its bounds."""
    text = _type(field.annotation, tuple(field.metadata))
    bounds = []
    for item in field.metadata:
        if isinstance(item, Ge) and item.ge != 0:
            bounds.append(f"≥ {item.ge}")
        elif isinstance(item, Gt):
            bounds.append(f"> {item.gt}")
        elif isinstance(item, Le):
            bounds.append(f"≤ {item.le}")
    return ", ".join([text, *bounds])


def _type(annotation: Any, metadata: tuple[Any, ...]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0], arguments[1:])
    if origin is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        kept = next(part for part in arguments if part is not type(None))
        return _type(kept, metadata)
    if origin is tuple:
        inner, _ = _model_of(arguments[0])
        if get_origin(arguments[0]) is Literal:
            return _type(arguments[0], ()).replace("one of", "list of")
        return "list of mappings" if inner else "list of texts"
    if origin is dict:
        return "mapping"
    named = {Seconds: "duration", Bytes: "size", AbsolutePath: "path", bool: "true or false"}
    if annotation in named:
        return named[annotation]
    if annotation is int:
        is_mode = any(isinstance(item, BeforeValidator) for item in metadata)
        return "mode" if is_mode else "whole number"
    return "URL" if _pattern(metadata).startswith("^https?") else "text"


def _pattern(metadata: tuple[Any, ...]) -> str:
    for item in metadata:
        pattern = getattr(item, "pattern", None)
        if pattern:
            return str(pattern)
    return ""


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return ""
    kind = _type(field.annotation, tuple(field.metadata))
    return f"`{_written(value, kind)}`"


def _written(value: Any, kind: str) -> str:
    """A value as one would write it in the file."""
    if kind == "duration":
        return duration(value)
    if kind == "size":
        return size(value)
    if kind == "mode":
        return f'"{value:04o}"'
    if isinstance(value, tuple):
        value = [_plain(item) for item in value]
    text = yaml.safe_dump(
        _plain(value), default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _plain(value: Any) -> Any:
    """Without what is only a default again, and without types that YAML does not know."""
    if isinstance(value, BaseModel):
        return {name: item for name, item in value.model_dump().items() if item != {}}
    return str(value) if isinstance(value, Path) else value


def duration(seconds: float) -> str:
    """The shortest way to write it: `5m`, `1d`, `500ms`."""
    if seconds and seconds < 1:
        return f"{seconds * 1000:g}ms"
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


def size(count: int) -> str:
    """The shortest way to write it: `8GiB`, `16MiB`."""
    for unit, length in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count and count % length == 0:
            return f"{count // length}{unit}"
    return str(count)


def _meaning(option: str, field: FieldInfo) -> str:
    return field.description or _MEANINGS.get(option, "")


def _table(section: str, lines: list[Row]) -> str:
    heading = f"## `{section}`" if section else "## The top"
    note = ["*Absent unless written.*", ""] if lines[0].optional else []
    told = [
        heading,
        "",
        *note,
        "| option | type | default | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for row in lines:
        cells = [f"`{row.option}`"]
        if row.variable:
            cells[0] += f"<br>`{row.variable}`"
        cells += [row.kind, row.default, row.meaning]
        told.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*told, ""])


def _seed_variables() -> str:
    told = [
        "## Variables of the trading system's earlier scripts",
        "",
        "| variable | option |",
        "| --- | --- |",
    ]
    told += [f"| `{name}` | `{'.'.join(map(str, loc))}` |" for name, loc in SEED_VARIABLES.items()]
    told += [
        f"| `{name}` | `{'.'.join(map(str, loc))}`, where that section is there |"
        for name, loc in BACKEND_VARIABLES.items()
    ]
    told.append("| `PAGERDUTY_INTEGRATION_KEY` | `alerts.pagerduty.routing_key` (as `env`) |")
    told.append("| `SLACK_WEBHOOK_URL` | `alerts.slack.webhook_url` (as `env`) |")
    return "\n".join([*told, ""])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
