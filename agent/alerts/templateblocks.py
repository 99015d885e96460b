"""What a compiled template is made of: closures that read values, and closures that write text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.alerts.gofmt import show
from agent.alerts.templatefuncs import RenderError

if TYPE_CHECKING:
    from agent.alerts.promql import Sample

Query = Callable[[str], "list[Sample]"]


@dataclass(slots=True)
class Scope:
    """What an action sees: the variables, and the dot."""

    variables: dict[str, Any]
    dot: Any
    query: Query | None


Eval = Callable[[Scope], Any]
Block = Callable[[Scope, list[str]], None]


def literal(text: str) -> Block:
    return lambda scope, out: out.append(text)


def constant(value: Any) -> Eval:
    return lambda scope: value


def variable(name: str) -> Eval:
    return lambda scope: scope.variables[name]


def sequence(parts: Sequence[Block]) -> Block:
    def run(scope: Scope, out: list[str]) -> None:
        for part in parts:
            part(scope, out)

    return run


def assign(name: str, value: Eval) -> Block:
    def run(scope: Scope, out: list[str]) -> None:
        scope.variables[name] = value(scope)

    return run


def field(of: Eval, name: str) -> Eval:
    def run(scope: Scope) -> Any:
        value = of(scope)
        if isinstance(value, dict):
            if name in value:
                return value[name]
            if value is scope.variables["$"] or "Labels" in value:
                raise RenderError(f"can't evaluate field {name}")
            return ""  # a label that is not there is empty
        raise RenderError(f"can't evaluate field {name} in {show(value)}")

    return run


def call(name: str, function: Callable[..., Any], args: list[Eval]) -> Eval:
    def run(scope: Scope) -> Any:
        given = [argument(scope) for argument in args]
        try:
            if name == "query":
                return function(scope.query, *given)
            return function(*given)
        except (TypeError, ValueError) as error:
            raise RenderError(f"error calling {name}: {error}") from error

    return run


def choice(rebind: bool, names: list[str], value: Eval, then: Block, otherwise: Block) -> Block:
    def run(scope: Scope, out: list[str]) -> None:
        found = value(scope)
        for name in names:
            scope.variables[name] = found
        if not found:
            otherwise(scope, out)
        elif rebind:
            then(Scope(scope.variables, found, scope.query), out)
        else:
            then(scope, out)

    return run


def loop(names: list[str], value: Eval, then: Block, otherwise: Block) -> Block:
    def run(scope: Scope, out: list[str]) -> None:
        found = value(scope)
        if isinstance(found, dict):
            pairs: list[tuple[Any, Any]] = sorted(found.items())
        elif isinstance(found, list):
            pairs = list(enumerate(found))
        elif found is None:
            pairs = []
        else:
            raise RenderError(f"range can't iterate over {show(found)}")
        if not pairs:
            otherwise(scope, out)
        for index, item in pairs:
            if names:
                scope.variables[names[-1]] = item
            if len(names) == 2:
                scope.variables[names[0]] = index
            then(Scope(scope.variables, item, scope.query), out)

    return run
