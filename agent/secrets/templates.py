"""Templates over secrets: jinja2 in its sandbox, imported only where one is configured.

A template sees the fields of its own secret by name, `value` (the whole, as text) and
`secret("other/name")` for the others that the configuration declares. It loads no other file, and
what it names and does not get is an error. jinja2's own messages are never shown: they quote what
they stumbled over. An error names file, line and kind.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agent.errors import AgentError
from agent.secrets.errors import ShapeError

MAX_BYTES = 1024 * 1024


def render(path: Path, about: str, tree: Any, lookup: Callable[[str], Any]) -> bytes:
    """The text that the template at `path` makes of secret `about`, whose value is `tree`.

    Args:
        lookup: another declared secret's value by name; raises AgentError.

    Raises:
        ShapeError: the template cannot be read, is none, names what is not there, or fails; and
            whatever `lookup` raises.
    """
    environment, source = _environment(), _source(path)
    known: dict[str, Any] = dict(tree) if isinstance(tree, Mapping) else {}
    known["value"] = tree if isinstance(tree, str) else json.dumps(tree)
    known["secret"] = lookup
    try:
        parsed = environment.parse(source)
        missing = sorted(meta.find_undeclared_variables(parsed) - set(known) - {"range", "dict"})
        if missing:  # names out of the template's own text
            raise ShapeError(
                f"template {path} names {', '.join(missing)}, which secret {about} does not have",
                "correct the template or the secret's fields",
            )
        made = environment.from_string(source).render(known)
    except AgentError:
        raise
    except TemplateSyntaxError as error:
        raise _no_template(path, error) from None
    except Exception as error:  # noqa: BLE001 - whatever a template does is its own fault
        raise ShapeError(
            f"template {path}{_line(error)} failed on secret {about}: {type(error).__name__}",
            "a field is missing or is not what the template takes it for",
        ) from None
    return made.encode("utf-8", "surrogatepass")


def check(path: Path) -> None:
    """Parse the template at `path`; raises ShapeError as `render`."""
    try:
        _environment().parse(_source(path))
    except TemplateSyntaxError as error:
        raise _no_template(path, error) from None


def _source(path: Path) -> str:
    try:
        with path.open("rb") as file:
            source = file.read(MAX_BYTES + 1).decode()
    except OSError as error:
        raise ShapeError(f"template {path}: {error.strerror}", "name a readable file") from None
    except UnicodeDecodeError:
        raise ShapeError(f"template {path} is not UTF-8 text", "correct the template") from None
    if len(source) > MAX_BYTES:
        raise ShapeError(f"template {path} is larger than {MAX_BYTES} bytes", "is it a template?")
    return source


def _no_template(path: Path, error: TemplateSyntaxError) -> ShapeError:
    return ShapeError(f"template {path} line {error.lineno} is no jinja2", "correct the template")


def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        autoescape=False,  # the output is no HTML
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        cache_size=0,  # neither sources nor values are kept
    )


def _line(error: BaseException) -> str:
    """Where in the template it happened, from the last frame that jinja2 mapped back to it."""
    found = ""
    trace = error.__traceback__
    while trace is not None:
        if os.path.basename(trace.tb_frame.f_code.co_filename) == "<template>":
            found = f" line {trace.tb_lineno}"
        trace = trace.tb_next
    return found
