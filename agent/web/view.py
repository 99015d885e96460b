"""What the status page shows, as a tree of elements: a pure function of the read model and a time.

The order is that of the questions of a person who was just woken: is it well and what do I do, what
fires, which bundle is live and is one on its way, are the secrets fresh, did the pages get out,
what has the agent been through. Each part stands alone: one that stumbles over its read model says
so in its place, and the others are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.telemetry.logs import get_logger
from agent.units import UnixTime
from agent.web import view_bundles
from agent.web.element import Node, ago, badge, clock_time, duration, el, link, shown, table

__all__ = ["Node", "body", "title", "verdict"]

_log = get_logger(__name__)

_MARKS = {"good": "✓", "warn": "▲", "bad": "✕"}
_CALM = {"none": "steady", "info": "info"}
"""Severities that call for nobody, and their badge: a watchdog that always fires, a word to know.
They are shown last and leave the page green."""


def verdict(status: Mapping[str, Any]) -> tuple[str, str, str]:
    """Tone (`good`, `warn`, `bad`), one or two words, and a sentence."""
    wrong = [item for item in status["conditions"] if not item["ok"]]
    alerts = [
        alert
        for alert in (status.get("alerts") or {}).get("alerts", [])
        if alert.get("severity") not in _CALM
    ]
    firing = [alert for alert in alerts if alert["state"] == "firing"]
    told = _counted(len(firing), "alert fires", "alerts fire") if firing else ""
    if not status["live"]:
        return "bad", "Hung", "The agent's event loop does not turn."
    if not status["ready"]:
        gating = sum(1 for item in wrong if item["gates_ready"])
        return (
            "bad",
            "Not ready",
            _sentence(
                f"{_counted(gating, 'thing', 'things')} the trader needs "
                f"{'is' if gating == 1 else 'are'} missing",
                told,
            ),
        )
    if any(alert.get("severity") == "critical" for alert in firing):
        return "bad", "Firing", _sentence(told, _checks(wrong))
    if wrong or firing:
        return "warn", "Attention", _sentence(told, _checks(wrong), "the trader has what it needs")
    pending = sum(1 for alert in alerts if alert["state"] == "pending")
    if pending:
        return (
            "warn",
            "Pending",
            _sentence(
                f"{_counted(pending, 'alert is', 'alerts are')} pending: nobody is paged yet"
            ),
        )
    rollout = (status.get("bundles") or {}).get("rollout")
    coming = f"{rollout['version']} is being rolled out" if rollout else ""
    return (
        "good",
        "All well",
        _sentence("everything the trader needs is there, and nothing fires", coming),
    )


def _checks(wrong: Sequence[Any]) -> str:
    return _counted(len(wrong), "check fails", "checks fail") if wrong else ""


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _sentence(*parts: str) -> str:
    told = "; ".join(part for part in parts if part)
    return told[:1].upper() + told[1:] + "."


def title(status: Mapping[str, Any]) -> str:
    """For the browser's tab: the state by a sign and a word, and the pod."""
    tone, word, _ = verdict(status)
    return f"{_MARKS[tone]} {word} · {status['agent']['pod']}"


def body(status: Mapping[str, Any], now: UnixTime) -> Node:
    """The whole of `<main>`."""
    parts: list[tuple[str, Callable[[Mapping[str, Any], UnixTime], Node | None]]] = [
        ("Agent", _head),
        ("Verdict", _verdict),
        ("Alerts", _alerts),
        ("Bundle", view_bundles.bundle),
        ("Secrets", _secrets),
        ("Notifications", _notifications),
        ("Jobs", _jobs),
    ]
    made = [_alone(name, make, status, now) for name, make in parts]
    return el("main", "", *(part for part in made if part is not None), id="view")


def _alone(
    name: str,
    make: Callable[[Mapping[str, Any], UnixTime], Node | None],
    status: Mapping[str, Any],
    now: UnixTime,
) -> Node | None:
    try:
        return make(status, now)
    except Exception:  # noqa: BLE001 - at 3 a.m. the other parts are worth more than a clean 500
        _log.exception("a part of the status page cannot be shown", part=name)
        return section(name, el("p", "bad", "This part cannot be shown; the log says why."))


def section(name: str, *children: Node | None, aside: Node | str = "") -> Node:
    """A titled part of the page."""
    key = name.lower()
    heading = el("h2", "", name, el("small", "", aside) if aside else "", id=f"h-{key}")
    inner = (child for child in children if child is not None)
    return el("section", key, heading, *inner, **{"aria-labelledby": f"h-{key}"})


def _head(status: Mapping[str, Any], now: UnixTime) -> Node:
    agent = status["agent"]
    return el(
        "header",
        "",
        el("h1", "", shown(agent["pod"])),
        el("span", "env", shown(agent["environment"])),
        el("span", "quiet", f"jules-agent {agent['version']}"),
        el("span", "quiet", "up ", ago(agent["started_at"], now, after="")),
        el("span", "quiet now", "as of ", clock_time(now)),
    )


def _verdict(status: Mapping[str, Any], now: UnixTime) -> Node:
    tone, word, told = verdict(status)
    wrong = [item for item in status["conditions"] if not item["ok"]]
    wrong.sort(key=lambda item: not item["gates_ready"])
    return el(
        "section",
        f"verdict {tone}",
        el(
            "div",
            "",
            el("span", "mark", _MARKS[tone], **{"aria-hidden": "true"}),
            el("strong", "", word),
            el("span", "told", told),
            role="status",
        ),
        el("ul", "why", *(_why(item) for item in wrong)) if wrong else "",
    )


def _why(item: Mapping[str, Any]) -> Node:
    gating = item["gates_ready"]
    return el(
        "li",
        "bad" if gating else "warn",
        badge("blocks" if gating else "warns", "bad" if gating else "warn"),
        el("b", "", shown(item["name"])),
        el("span", "", shown(item["reason"])),
        el("span", "remedy", f"→ {item['remedy']}") if item.get("remedy") else "",
    )


# -- alerts -----------------------------------------------------------------------------------

_MOST_CARDS = 100
"""Alerts that the page shows, the firing ones first; `/api/v1/alerts` has them all."""


def _alerts(status: Mapping[str, Any], now: UnixTime) -> Node:
    alerts = status.get("alerts")
    if alerts is None:
        return section("Alerts", el("p", "quiet", "Switched off here."))
    order = {"firing": 0, "pending": 1}
    found = sorted(
        alerts["alerts"],
        key=lambda a: (a.get("severity") in _CALM, order.get(a["state"], 2), a["active_at"]),
    )
    shown_here, beyond = found[:_MOST_CARDS], len(found) - _MOST_CARDS
    rows = [_alert(alert, now) for alert in shown_here]
    if beyond > 0:
        rows.append(el("li", "quiet", f"and {beyond} more"))
    cards = el("ul", "cards", *rows) if found else None
    aside = f"{alerts['rules']} rules over {alerts['series']} series"
    nothing = None if found else el("p", "quiet", "Nothing fires, nothing is pending.")
    return section(
        "Alerts", cards, nothing, _targets(alerts, now), _failed_rules(alerts), aside=aside
    )


def _alert(alert: Mapping[str, Any], now: UnixTime) -> Node:
    severity, firing = alert.get("severity"), alert["state"] == "firing"
    tone = "bad" if firing and severity == "critical" else "good" if severity in _CALM else "warn"
    state = _CALM.get(severity or "", "firing") if firing else shown(alert["state"])
    annotations = alert.get("annotations") or {}
    told = annotations.get("summary") or annotations.get("description") or ""
    runbook = annotations.get("runbook_url") or ""
    labels = [
        el("span", "label", f"{name}={value}")
        for name, value in sorted((alert.get("labels") or {}).items())
        if name not in ("alertname", "severity")
    ]
    since = alert.get("fired_at") if firing else None
    return el(
        "li",
        tone,
        el(
            "div",
            "line",
            badge(state, tone, strong=firing and tone != "good"),
            el("b", "", shown(alert["name"])),
            el("span", "quiet", shown(severity or "no severity")),
            el("span", "value", "value ", el("b", "", shown(alert.get("value")))),
            el("span", "quiet", "for ", ago(since or alert["active_at"], now, after="")),
        ),
        el("p", "", shown(told)) if told else "",
        el("div", "labels", *labels) if labels else "",
        el("p", "remedy", "→ ", link(str(runbook))) if runbook else "",
    )


def _targets(alerts: Mapping[str, Any], now: UnixTime) -> Node | None:
    lines = [
        el(
            "li",
            "",
            badge("up" if target["up"] else "down", "good" if target["up"] else "bad"),
            el("b", "", shown(target["job"])),
            el("span", "quiet url", shown(target["url"])),
            el("span", "quiet", "scraped ", ago(target.get("last_scrape"), now))
            if target.get("last_scrape")
            else el("span", "quiet", "never scraped"),
            el("span", "bad", shown(target["last_error"])) if target.get("last_error") else "",
        )
        for target in alerts.get("targets", ())
    ]
    return el("ul", "plain", *lines) if lines else None


def _failed_rules(alerts: Mapping[str, Any]) -> Node | None:
    lines = [
        el(
            "li",
            "",
            badge("rule fails", "bad"),
            el("b", "", shown(rule["name"])),
            el("span", "", shown(rule["last_error"])),
        )
        for group in alerts.get("groups", ())
        for rule in group.get("rules", ())
        if rule.get("last_error")
    ]
    return el("ul", "plain", *lines) if lines else None


# -- secrets ----------------------------------------------------------------------------------


def _secrets(status: Mapping[str, Any], now: UnixTime) -> Node:
    secrets = status.get("secrets")
    if secrets is None:
        return section("Secrets", el("p", "quiet", "Switched off here."))
    rows = [_secret(item) for item in secrets["items"]]
    generation = secrets.get("generation")
    aside: Node | str = "nothing is published"
    if generation is not None:
        aside = el(
            "span",
            "",
            f"generation {generation}, published ",
            ago(secrets.get("published_at"), now),
        )
    if not rows:
        return section("Secrets", el("p", "quiet", "None are configured."), aside=aside)
    headings = ("Secret", "State", "Confirmed", "Version", "From")
    return section("Secrets", table("Secrets", headings, rows), aside=aside)


def _secret(item: Mapping[str, Any]) -> list[Node]:
    age = item.get("age_seconds")
    state = badge("fresh", "good")
    if age is None:
        state = badge("missing", "bad" if item.get("required") else "warn")
    elif item["stale"]:
        state = badge("stale", "warn")
    error = el("div", "bad", shown(item["error"])) if item.get("error") else ""
    optional = "" if item.get("required", True) else el("span", "quiet", " optional")
    return [
        el("div", "", el("b", "", shown(item["name"])), optional, error),
        state,
        f"{duration(age)} ago" if age is not None else "never",
        shown(item.get("version")),
        shown(item.get("provider")),
    ]


# -- notifications and jobs -------------------------------------------------------------------


def _notifications(status: Mapping[str, Any], now: UnixTime) -> Node | None:
    alerts = status.get("alerts")
    if alerts is None:
        return None
    rows = [_destination(item, now) for item in alerts.get("destinations", ())]
    if not rows:
        told = "No destination is configured: alerts are shown here and nowhere else."
        return section("Notifications", el("p", "warn", told))
    headings = ("To", "State", "Undelivered", "Last accepted", "Accepted")
    return section("Notifications", table("Notifications", headings, rows))


def _destination(item: Mapping[str, Any], now: UnixTime) -> list[Node]:
    pending, error, oldest = item["pending"], item.get("last_error"), item.get("oldest_seconds")
    state, waiting, trouble = badge("clear", "good"), "none", ("", "")
    if pending:
        state = badge("failing", "bad") if error else badge("sending", "warn")
        waiting = f"{pending} waiting"
        waiting += f", oldest {duration(oldest)}" if oldest is not None else ""
    if error:
        trouble = ("bad", shown(error)) if pending else ("quiet", f"last trouble: {error}")
    return [
        el("b", "", shown(item["name"])),
        state,
        el("div", "", el("b", "", waiting), el("div", *trouble)) if error else waiting,
        ago(item.get("last_success"), now),
        shown(item.get("accepted")),
    ]


def _jobs(status: Mapping[str, Any], now: UnixTime) -> Node:
    rows = [_job(name, record, now) for name, record in status["jobs"].items()]
    checks = status["conditions"]
    listed = el(
        "ul",
        "plain",
        *(
            el(
                "li",
                "",
                badge("ok" if item["ok"] else "fails", "good" if item["ok"] else "bad"),
                el("b", "", shown(item["name"])),
                el("span", "quiet", shown(item["reason"])),
            )
            for item in checks
        ),
    )
    return section(
        "Jobs",
        table("Jobs", ("Job", "State", "Since", "Restarts"), rows),
        el("details", "", el("summary", "", f"All {len(checks)} checks"), listed),
    )


def _job(name: str, record: Mapping[str, Any], now: UnixTime) -> list[Node]:
    tones = {"running": "good", "disabled": "off", "stopped": "off"}
    error = el("div", "bad", shown(record["last_error"])) if record.get("last_error") else ""
    restarts = record["restarts"]
    return [
        el("div", "", el("b", "", name), error),
        badge(shown(record["state"]), tones.get(record["state"], "bad")),
        ago(record.get("since"), now) if record["state"] != "disabled" else "–",
        el("b", "", str(restarts)) if restarts else "0",
    ]
