"""From a fetched value to the files that an item asks for. Pure but for a template's own file.

`json` as stored; `env` one `NAME='value'` line a field, quoted for a POSIX shell; `raw` the bytes,
or the bare text of a JSON string; `fields` one file a field; `template` what a template makes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.configsecrets import SecretItem
from agent.secrets.errors import ShapeError
from agent.secrets.model import Fetched, SecretType
from agent.secrets.tree import Item

_FIELD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


@dataclass(frozen=True, slots=True)
class Owners:
    """Numbers for the accounts that an item names; None: as the whole set."""

    uid: int | None = None
    gid: int | None = None


def files(
    item: SecretItem,
    fetched: Fetched,
    lookup: Callable[[str], Fetched],
    owners: Owners = Owners(),
) -> list[Item]:
    """The files that `item` asks for.

    Args:
        lookup: another declared secret, for templates; raises AgentError.

    Raises:
        ShapeError: the value does not fit the format or lacks its type's fields; names fields only.
    """
    if item.type is not None:
        from agent.secrets.typed import parse

        parse(item.name, SecretType(item.type), fetched.value.reveal())
    return [
        Item(
            path=path,
            data=data,
            name=item.name,
            version=fetched.version,
            provider=fetched.provider,
            fetched_at=fetched.fetched_at,
            mode=item.mode,
            uid=owners.uid,
            gid=owners.gid,
        )
        for path, data in _written(item, fetched, lookup)
    ]


def _written(
    item: SecretItem, fetched: Fetched, lookup: Callable[[str], Fetched]
) -> list[tuple[str, bytes]]:
    data = fetched.value.reveal()
    if item.format == "raw":
        tree = _tree(item, data) if fetched.kind == "json" else None
        # the bare text of a JSON string is what a program expects of a key file
        return [(item.target, _encoded(tree) if isinstance(tree, str) else data)]
    if item.format == "template":
        from agent.secrets.templates import render

        assert item.template is not None
        return [
            (
                item.target,
                render(
                    item.template,
                    item.name,
                    _value(fetched),
                    lambda name: _value(lookup(name)),
                ),
            )
        ]
    if item.format == "env":
        return [(item.target, _env(item, fetched))]
    tree = _tree(item, data)
    if item.format == "fields":
        return [(f"{item.target}/{name}", part) for name, part in _fields(item, tree).items()]
    return [(item.target, data)]


def _tree(item: SecretItem, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ShapeError(
            f"secret {item.name} is to be written as {item.format} and is not JSON",
            "store it as JSON; plain bytes are stored with --raw and published with format: raw",
        ) from None


def _value(fetched: Fetched) -> Any:
    """What a template is given: the JSON tree, else the text."""
    data = fetched.value.reveal()
    try:
        return json.loads(data) if fetched.kind == "json" else data.decode()
    except (ValueError, RecursionError):
        raise ShapeError(
            f"secret {fetched.name} is neither JSON nor text, and a template needs one of them",
            "publish bytes with format: raw",
        ) from None


def _fields(item: SecretItem, tree: Any) -> dict[str, bytes]:
    if not isinstance(tree, dict) or not tree:
        raise ShapeError(
            f"secret {item.name} has no fields to write one by one", "store a JSON object"
        )
    unfit = sum(not _FIELD.fullmatch(name) for name in tree)
    if unfit:
        raise ShapeError(
            f"secret {item.name}: {unfit} of its fields have names that are no file names",
            "use letters, digits, dot, dash, underscore",
        )
    return {name: _encoded(_plain(part)) for name, part in tree.items()}


def _env(item: SecretItem, fetched: Fetched) -> bytes:
    value = _value(fetched)
    last = item.name.rsplit("/", 1)[-1]
    given: dict[str, Any] = value if isinstance(value, dict) else {last: value}
    lines: dict[str, str] = {}
    for name, part in given.items():
        variable = re.sub(r"[^A-Za-z0-9]", "_", name).upper()
        if not _VARIABLE.fullmatch(variable) or variable in lines:
            raise ShapeError(
                f"secret {item.name}: the names of its fields make no distinct variables",
                "use letters, digits and underscore, not beginning with a digit",
            )
        if isinstance(part, dict | list):
            raise ShapeError(
                f"secret {item.name}: field {variable} is no single value", "use format: json"
            )
        text = _plain(part)
        if "\0" in text:
            raise ShapeError(f"secret {item.name}: field {variable} holds a NUL byte")
        quoted = text.replace("'", "'\\''")
        lines[variable] = f"{variable}='{quoted}'\n"
    return _encoded("".join(lines.values()))


def _plain(part: Any) -> str:
    """A field as text: strings as they are, nothing for null, the rest as JSON."""
    if part is None:
        return ""
    return part if isinstance(part, str) else json.dumps(part)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
