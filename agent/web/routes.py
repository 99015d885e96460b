"""What each path of the face answers: probes, metrics, read models, the status page.

The handler that `routes` returns is a plain function of a request; it asks the face, which is the
daemon, and does no I/O. Probes answer as the Kubernetes API server's do: `ok`, or a list with a
line for each check; `?verbose` gives the list always, `?exclude=NAME` leaves a check out, and
`Accept: application/json` or `?format=json` gives it as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from agent.clock import Clock, SystemClock
from agent.health import Condition, ready
from agent.web import prometheus
from agent.web.encode import to_json
from agent.web.page import CSP, page, view
from agent.web.server import Handler, Request, Response

JSON = "application/json; charset=utf-8"
HTML = "text/html; charset=utf-8"


class Face(Protocol):
    """What the face reads: the daemon."""

    def live(self) -> tuple[bool, str]:
        """Whether the loop turns, and what is known of it."""
        ...

    def ready(self) -> tuple[bool, list[Condition]]:
        """Whether what the trader needs is there, and the conditions that say so."""
        ...

    def started(self) -> tuple[bool, str]:
        """True for good once the agent has been ready."""
        ...

    def conditions(self) -> list[Condition]:
        """Everything that can be wrong."""
        ...

    def expose(self, accept: str) -> tuple[str, bytes]:
        """Content type and body of the agent's own metrics."""
        ...

    def status(self) -> dict[str, Any]:
        """The whole read model."""
        ...


def routes(face: Face, clock: Clock | None = None) -> Handler:
    """The handler for the face of `face`."""
    clock = clock or SystemClock()
    probes: dict[str, Callable[[], list[Condition]]] = {
        "/livez": lambda: [_live(face)],
        "/readyz": lambda: face.ready()[1],
        "/startupz": lambda: [_started(face)],
        "/healthz": lambda: [_live(face), *face.ready()[1]],
    }
    table: dict[str, Callable[[Request], Response]] = {
        "/": lambda request: _page(face, clock),
        **{
            path: lambda request, checks=checks: _probe(request, checks())  # type: ignore[misc]
            for path, checks in probes.items()
        },
        "/health": lambda request: _health(face, clock),
        "/metrics": lambda request: _metrics(face, request),
        "/api/v1/status": lambda request: _status(face, clock, request),
        "/api/v1/secrets": lambda request: _part(face, "secrets"),
        "/api/v1/deployments": lambda request: _part(face, "bundles"),
        "/api/v1/status/alerts": lambda request: _part(face, "alerts"),
        "/api/v1/rules": lambda request: _rules(face, request),
        "/api/v1/alerts": lambda request: _alerts(face),
    }

    def handle(request: Request) -> Response:
        route = table.get(request.path)
        return route(request) if route else _unknown(request, tuple(table))

    return handle


# -- probes -----------------------------------------------------------------------------------


def _live(face: Face) -> Condition:
    good, told = face.live()
    return Condition("loop", good, told, "" if good else "the kubelet restarts the agent")


def _started(face: Face) -> Condition:
    good, told = face.started()
    return Condition(
        "started", good, told, "" if good else "see /readyz?verbose for what is missing"
    )


def _probe(request: Request, checks: Sequence[Condition]) -> Response:
    excluded = set(request.query.get("exclude", ()))
    unknown = sorted(excluded - {check.name for check in checks})
    good = ready(check for check in checks if check.name not in excluded)
    status = 200 if good else 503
    if _wants_json(request):
        body = {
            "status": "ok" if good else "failed",
            "checks": [{**c.as_dict(), "excluded": c.name in excluded} for c in checks],
            "unknown_excludes": unknown,
        }
        return Response(status, to_json(body), JSON)
    if good and "verbose" not in request.query:
        return Response(status, b"ok")
    lines = [_line(check, check.name in excluded) for check in checks]
    if unknown:
        lines.append(f"warn: no check to exclude is called {', '.join(unknown)}")
    lines.append(f"{request.path[1:]} check {'passed' if good else 'failed'}")
    return Response(status, "\n".join([*lines, ""]).encode("utf-8", "replace"))


def _line(check: Condition, excluded: bool) -> str:
    if excluded:
        return f"[+]{check.name} excluded: ok"
    if check.ok:
        return f"[+]{check.name} ok"
    told = f"[-]{check.name} failed: {check.reason}"
    if check.remedy:
        told += f" ({check.remedy})"
    return told if check.gates_ready else f"{told} [does not gate readiness]"


def _health(face: Face, clock: Clock) -> Response:
    """The shape that the trading system's earlier scripts ask for."""
    good, found = face.ready()
    alive = face.live()[0]
    if not (good and alive):
        status = "unhealthy"
    elif all(condition.ok for condition in found):
        status = "healthy"
    else:
        status = "degraded"
    body = {
        "status": status,
        "timestamp": datetime.fromtimestamp(clock.now(), UTC).isoformat(timespec="milliseconds"),
        "ready": good,
        "live": alive,
        "checks": {
            condition.name: {
                "status": "healthy"
                if condition.ok
                else "unhealthy"
                if condition.gates_ready
                else "degraded",
                "message": condition.reason,
                "remedy": condition.remedy,
            }
            for condition in (_live(face), *found)
        },
    }
    return Response(503 if status == "unhealthy" else 200, to_json(body), JSON)


# -- everything else --------------------------------------------------------------------------


def _metrics(face: Face, request: Request) -> Response:
    content_type, body = face.expose(request.accept)
    return Response(200, body, content_type)


def _status(face: Face, clock: Clock, request: Request) -> Response:
    seen = face.status()
    if "page" in request.query.get("view", ()):
        return Response(200, to_json(view(seen, clock.now())), JSON)
    return Response(200, to_json(seen), JSON)


def _part(face: Face, job: str) -> Response:
    part = face.status().get(job)
    if part is None:
        told = {"error": f"the {job} job is switched off", "remedy": f"set {job}.enabled: true"}
        return Response(404, to_json(told), JSON)
    return Response(200, to_json(part), JSON)


def _rules(face: Face, request: Request) -> Response:
    model = face.status().get("alerts")
    if model is None:
        return Response(404, to_json(prometheus.switched_off()), JSON)
    status, told = prometheus.rules(model, request.query)
    return Response(status, to_json(told), JSON)


def _alerts(face: Face) -> Response:
    model = face.status().get("alerts")
    if model is None:
        return Response(404, to_json(prometheus.switched_off()), JSON)
    return Response(200, to_json(prometheus.alerts(model)), JSON)


def _page(face: Face, clock: Clock) -> Response:
    return Response(200, page(face.status(), clock.now()), HTML, csp=CSP)


def _unknown(request: Request, known: Sequence[str]) -> Response:
    if _wants_json(request):
        return Response(404, to_json({"error": "no such page", "pages": known}), JSON)
    return Response(404, "\n".join(["no such page; there are", *known, ""]).encode())


def _wants_json(request: Request) -> bool:
    return "json" in request.query.get("format", ()) or "application/json" in request.accept
