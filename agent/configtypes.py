"""What the sections of the configuration are made of: durations, sizes, modes, paths, names.

Durations are written as `250ms`, `30s`, `5m`, `1h` or a number of seconds; sizes as `64MiB` or a
number of bytes. Unknown keys are errors: a misspelt `max_stale` must not silently mean the default.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from agent.units import AbsolutePath, Bytes, Seconds, SecretName, absolute

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)?")
_UNIT_BYTES: dict[str | None, int] = {
    None: 1,
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", start=1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", start=1)},
}


def parse_duration(value: object) -> object:
    """`1h30m`, `250ms`, `5` → seconds. Anything else is handed on for pydantic to refuse.

    Raises:
        ValueError: a text that is no duration.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    parts = list(_DURATION.finditer(text))
    if parts and "".join(part.group(0) for part in parts) == text:
        return sum(float(part.group(1)) * _UNIT_SECONDS[part.group(2)] for part in parts)
    try:
        return float(text)
    except ValueError:
        raise ValueError("not a duration; write 250ms, 30s, 5m or 1h") from None


def parse_size(value: object) -> object:
    """`64MiB`, `1GB`, `4096` → bytes.

    Raises:
        ValueError: a text that is no size.
    """
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError("not a size; write 64MiB, 1GB or a number of bytes")
    return int(float(match.group(1)) * _UNIT_BYTES[match.group(2)])


def _parse_mode(value: object) -> object:
    """`"0440"` → 0o440. A bare YAML number is refused: `0440` and `440` would differ by reader."""
    if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}", value):
        return int(value, 8)
    raise ValueError('not a file mode; write it quoted, as "0400"')


def _parse_path(value: object) -> object:
    return absolute(value) if isinstance(value, str | Path) and str(value) else value


Duration = Annotated[Seconds, BeforeValidator(parse_duration), Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[Seconds, BeforeValidator(parse_duration), Field(gt=0, allow_inf_nan=False)]
Size = Annotated[Bytes, BeforeValidator(parse_size), Field(ge=0)]
Mode = Annotated[int, BeforeValidator(_parse_mode)]
FilePath = Annotated[AbsolutePath, BeforeValidator(_parse_path)]
HttpUrl = Annotated[str, Field(pattern=r"^https?://[^\s/?#]+([/?#]\S*)?$")]
Name = Annotated[
    SecretName,
    Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$", max_length=200),
]


class Section(BaseModel):
    """Common rules of every section: closed, frozen, defaults checked as well.

    `defer_build`: only what is validated, the whole tree, gets a validator. Building one for each
    section as well costs the init container 7 ms.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
        defer_build=True,
    )


def left_out(tree: Any = None) -> Any:
    """The default of a section, as if the file said `tree` there; nothing, unless told.

    Plain data and not an instance, which would have its validator built while we are imported.
    """
    return Field(default_factory=lambda: {} if tree is None else tree)
