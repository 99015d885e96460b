"""The status page's part about bundles: what is live, what is on its way, what was before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.units import UnixTime
from agent.web.element import Node, ago, badge, duration, el, shown, table

_STEPS = ("copy", "validate", "gates", "flip", "verify", "bake")
_TONES = {"ACTIVE": "good", "FAILED": "bad", "ROLLED_BACK": "warn"}
_SHOWN = 8


def bundle(status: Mapping[str, Any], now: UnixTime) -> Node:
    """Live and previous version, the rollout in progress, store, quarantine, history."""
    seen = status.get("bundles")
    heading = el("h2", "", "Bundle", _aside(seen), id="h-bundle")
    inner: list[Node] = [el("p", "quiet", "Switched off here.")]
    if seen is not None:
        history = seen.get("history") or []
        inner = [
            _live(seen, now),
            _rollout(seen["rollout"], history, now) if seen["rollout"] else "",
            _store(seen, now),
            _quarantine(seen.get("quarantine") or [], now),
            _history(history, now),
        ]
    return el("section", "bundle", heading, *inner, **{"aria-labelledby": "h-bundle"})


def _aside(seen: Mapping[str, Any] | None) -> Node:
    return el("small", "", f"channel {shown(seen.get('channel'))}") if seen else ""


def _live(seen: Mapping[str, Any], now: UnixTime) -> Node:
    current = seen["current"]
    facts = [
        el(
            "div",
            "",
            el("dt", "", "Live"),
            el("dd", "big", current or "none"),
            el("dd", "quiet", "for ", ago(seen.get("current_since"), now, after=""))
            if current
            else "",
        ),
        el("div", "", el("dt", "", "Before it"), el("dd", "", shown(seen.get("previous")))),
    ]
    desired = seen.get("desired")
    if desired and desired != current:
        facts.append(
            el(
                "div",
                "",
                el("dt", "", "Wanted"),
                el("dd", "", shown(desired)),
                el("dd", "quiet", shown(seen["waiting"])) if seen.get("waiting") else "",
            )
        )
    return el("dl", "facts", *facts)


# -- the rollout in progress ------------------------------------------------------------------


def _rollout(rollout: Mapping[str, Any], history: Sequence[Any], now: UnixTime) -> Node:
    version = rollout["version"]
    entry: Mapping[str, Any] = next(
        (item for item in history if item["version"] == version and not item["ended_at"]), {}
    )
    done = {step["step"]: step for step in entry.get("steps") or ()}
    bake = rollout.get("bake")
    return el(
        "div",
        "rollout",
        el(
            "div",
            "line",
            badge("rolling out", "warn"),
            el("b", "", shown(version)),
            el("span", "quiet", shown(rollout.get("state"))),
            el("span", "quiet", "started ", ago(rollout.get("started_at"), now)),
        ),
        el("ol", "steps", *(_step(name, str(rollout.get("step")), done) for name in _STEPS)),
        _bake(bake, rollout, now) if bake else "",
    )


def _step(name: str, at: str, done: Mapping[str, Any]) -> Node:
    step = done.get(name) or {}
    took = step.get("seconds")
    if name == at:
        return el("li", "at", "▸ ", el("b", "", name), **{"aria-current": "step"})
    if took is not None:
        good = step.get("outcome") not in ("failed", "aborted", "interrupted")
        return el(
            "li",
            "done" if good else "bad",
            f"{'✓' if good else '✕'} {name} ",
            el("small", "", duration(took)),
        )
    if at in _STEPS and _STEPS.index(name) < _STEPS.index(at):
        return el("li", "done", f"✓ {name}")
    return el("li", "quiet", f"○ {name}")


def _bake(bake: Mapping[str, Any], rollout: Mapping[str, Any], now: UnixTime) -> Node:
    ends = float(bake["ends_at"])
    began = float(bake.get("started_at") or rollout.get("started_at") or now)
    left = max(0.0, ends - now)
    whole = max(1.0, ends - began)
    passed = f"{min(whole, whole - left):.0f}"
    gates = [
        el(
            "li",
            "",
            _gate_state(gate),
            el("b", "", shown(gate["name"])),
            el("span", "value", "value ", el("b", "", shown(gate["value"])))
            if gate.get("value") is not None
            else "",
            el("code", "", shown(gate.get("expr"))),
            el("span", "bad", shown(gate["error"])) if gate.get("error") else "",
        )
        for gate in bake.get("gates") or ()
    ]
    return el(
        "div",
        "bake",
        el(
            "div",
            "line",
            el("progress", "", value=passed, max=f"{whole:.0f}", **{"aria-label": "bake"}),
            el(
                "span",
                "",
                el("b", "", duration(round(left)) if left >= 1 else "0 s"),
                " left to bake",
            ),
        ),
        el("ul", "plain", *gates),
    )


def _gate_state(gate: Mapping[str, Any]) -> Node:
    """A gate without an answer is not a good one, and not a breach either (yet)."""
    if gate["ok"]:
        return badge("clear", "good")
    known = gate.get("value") is not None
    return badge("breached", "bad") if known else badge("no data", "warn")


# -- store, quarantine, history ---------------------------------------------------------------


def _store(seen: Mapping[str, Any], now: UnixTime) -> Node:
    store = seen.get("store")
    if not store:
        return el("p", "quiet", "No store is configured: versions come by hand.")
    good = store.get("reachable")
    return el(
        "ul",
        "plain",
        el(
            "li",
            "",
            badge("reachable" if good else "unreachable", "good" if good else "warn"),
            el("b", "", "store"),
            el("span", "quiet url", shown(store.get("name"))),
            el("span", "quiet", "answered ", ago(store.get("last_success"), now)),
            el("span", "bad", shown(store["error"])) if store.get("error") else "",
        ),
    )


def _quarantine(found: Sequence[Mapping[str, Any]], now: UnixTime) -> Node:
    lines = [
        el(
            "li",
            "",
            badge("quarantined", "warn"),
            el("b", "", shown(item["version"])),
            el("span", "", shown(item["reason"])),
            el("span", "quiet", ago(item.get("at"), now)),
        )
        for item in found
    ]
    return el("ul", "plain", *lines) if lines else ""


def _history(history: Sequence[Mapping[str, Any]], now: UnixTime) -> Node:
    rows = [_past(item, now) for item in history[:_SHOWN]]
    headings = ("Version", "State", "Started", "Took", "By", "Why")
    return table("Last deployments", headings, rows) if rows else ""


def _past(item: Mapping[str, Any], now: UnixTime) -> list[Node]:
    state = str(item["state"])
    took = "running"
    if item.get("ended_at") is not None:
        took = duration(item["ended_at"] - item["started_at"])
    failed = [
        f"{step['step']}: {step['detail']}"
        for step in item.get("steps") or ()
        if step.get("outcome") not in ("ok", "passed", "running", "done") and step.get("detail")
    ]
    why = item.get("reason") or "; ".join(failed)
    return [
        el("b", "", shown(item["version"])),
        badge(state.lower().replace("_", " "), _TONES.get(state, "warn")),
        ago(item["started_at"], now),
        took,
        shown(item.get("actor")),
        shown(why),
    ]
