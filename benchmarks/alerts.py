"""Pages beside Prometheus and Alertmanager: how soon, how surely, at what weight.

Both stacks scrape the same exporter, judge the same rule file and tell the same kinds of receivers
in one run. `tuned` is the pair's best setting (scrape and evaluation 1 s, group_wait 0 s,
group_interval 1 s); `default` is 5 s, 5 s, 30 s, 5 min. A figure of ours that is not a number of
seconds, MiB or percent counts what went wrong.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent.demo.stage import Stage
from benchmarks.alertlab import Fault, Lab, Process, Sink, burden, lab, until, wait
from benchmarks.harness import Bar, arguments, compiled, finish, median

NEVER = 999.0
"""Stands for a page that did not come while it was waited for."""
KINDS = ("pd", "slack", "hook")
TUNED = {"group_wait": "0s", "group_interval": "1s", "repeat_interval": "1h"}
DEFAULT = {"group_wait": "30s", "group_interval": "5m", "repeat_interval": "4h"}


HOWS: tuple[Callable[[list[float]], float], ...] = (median, max)


def _named(how: Callable[[list[float]], float]) -> str:
    return "max" if how is max else "median"


def rule(name: str, expr: str, hold: str = "0s", severity: str = "critical") -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expr,
        "for": hold,
        "labels": {"severity": severity},
        "annotations": {"summary": "{{ $labels.n }}"},
    }


def write_rules(path: Path, rules: list[dict[str, Any]]) -> Path:
    path.write_text(yaml.safe_dump({"groups": [{"name": path.stem, "rules": rules}]}))
    return path


def wide_rules() -> list[dict[str, Any]]:
    """100 rules, each over 40 of the 2,000 series; none fires."""
    return [
        rule(f"Wide{n}", f'rate(wide_total{{shard="s{n % 50}"}}[1m]) < 0', severity="warning")
        for n in range(100)
    ]


def seconds(sink: Sink, word: str, since: float, resolved: bool = False) -> float:
    at = sink.first(word, resolved)
    return NEVER if at is None else at - since


def ratio(ours: float, peer: float) -> str:
    if peer >= NEVER:
        return "pair: never"
    return f"pair {peer:.2f}, {peer / ours:.1f}x" if ours > 0 else f"pair {peer:.2f}"


# -- how soon -----------------------------------------------------------------------------------


def latency(room: Lab, quick: bool) -> list[Bar]:
    """Increments, thresholds with `for`, resolves: two agents and the pair on the same trials."""
    trials, hold = (8, 3) if quick else (30, 30)
    exporter, sinks = room.exporter, room.sinks
    words = [f"trial-{n}x" for n in range(trials)]
    held = [f"trial-{1000 + n}x" for n in range(max(8, trials // 3))]
    for word in words:
        exporter.set("trips_total", word, 0.0)
    for word in held:
        exporter.set("level", word, 0.0)
    rules = write_rules(
        room.work / "latency.yml",
        [
            rule("Tripped", "increase(trips_total[1m]) >= 1"),
            rule("Held", "level > 25", f"{hold}s"),
            *wide_rules(),
        ],
    )
    names = ["fast", "slow", "tuned"] + ([] if quick else ["default"])
    seen = {name: sinks.add(f"{name}-hook") for name in names}
    hooks = {n: {"webhooks": [{"url": sinks.url(f"{n}-hook")}]} for n in ("fast", "slow")}
    agents = {
        "fast": room.agent("fast", rules, interval="1s", **hooks["fast"]),
        "slow": room.agent("slow", rules, interval="1s", fast_interval="0s", **hooks["slow"]),
    }
    pairs: dict[str, list[Process]] = {}
    for name, every, route in (("tuned", "1s", TUNED), ("default", "5s", DEFAULT)):
        if name in seen:
            manager, port = room.alertmanager(f"am-{name}", {"hook": f"{name}-hook"}, **route)
            pairs[name] = [room.prometheus(f"prom-{name}", rules, every, [port]), manager]
    time.sleep(6.0 if quick else 12.0)  # a Prometheus looks for targets after 5 s
    figures = _tripped(room, words, seen, quick)
    bars = [
        Bar(
            f"increment → received, {label}, {_named(how)}",
            how(mine),
            bound,
            "s",
            ratio(how(mine), how(figures["tuned"])) + other,
        )
        for label, key, bounds in (("4 Hz", "fast", (0.15, 0.3)), ("1 s", "slow", (0.7, 1.1)))
        for how, bound in zip(HOWS, bounds, strict=True)
        for mine in (figures[key],)
        for other in ((f"; default {how(figures['default']):.1f}" if not quick else ""),)
    ]
    over, ended = _held(room, held, seen, hold)
    for label, key, bounds in (("4 Hz", "fast", (0.15, 0.3)), ("1 s", "slow", (0.7, 1.1))):
        for how, bound in zip(HOWS, bounds, strict=True):
            mine, peer = how(over[key]), how(over["tuned"])
            bars.append(
                Bar(
                    f"`for: {hold}s` exceeded by, {label}, {_named(how)}",
                    mine,
                    bound,
                    "s",
                    ratio(mine, peer),
                )
            )
        mine, peer = max(ended[key]), max(ended["tuned"])
        bars.append(
            Bar(f"condition's end → resolve, {label}, max", mine, bounds[1], "s", ratio(mine, peer))
        )
    return bars + _weight(agents["slow"], pairs["tuned"], 4.0 if quick else 60.0)


def _tripped(
    room: Lab, words: list[str], seen: dict[str, Sink], quick: bool
) -> dict[str, list[float]]:
    began: dict[str, float] = {}
    for word in words:
        began[word] = room.exporter.set("trips_total", word, 1.0)
        time.sleep(random.uniform(0.2, 0.8))
    until(
        lambda: all(sink.first(word) for sink in seen.values() for word in words),
        6.0 if quick else 50.0,
    )
    return {
        name: [seconds(sink, word, began[word]) for word in words] for name, sink in seen.items()
    }


def _held(
    room: Lab, words: list[str], seen: dict[str, Sink], hold: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Over `level > 25` for `hold` seconds, then below: excess over `hold`, and the resolves."""
    watched = {name: sink for name, sink in seen.items() if name != "default"}
    began, ended = {}, {}
    for word in words:
        began[word] = room.exporter.set("level", word, 30.0)
        time.sleep(random.uniform(0.1, 0.4))
    until(lambda: all(s.first(w) for s in watched.values() for w in words), hold + 5.0)
    over = {
        name: [seconds(sink, word, began[word] + hold) for word in words]
        for name, sink in watched.items()
    }
    for word in words:
        ended[word] = room.exporter.set("level", word, 0.0)
        time.sleep(random.uniform(0.1, 0.4))
    until(lambda: all(s.first(w, True) for s in watched.values() for w in words), 5.0)
    gone = {
        name: [seconds(sink, word, ended[word], True) for word in words]
        for name, sink in watched.items()
    }
    return over, gone


def _weight(agent: Stage, pair: list[Process], window: float) -> list[Bar]:
    measured: dict[str, tuple[float, float]] = {}

    def measure(name: str, pids: list[int]) -> None:
        measured[name] = burden(pids, window)

    threads = [
        threading.Thread(target=measure, args=("ours", [agent.pid("agent")])),
        threading.Thread(target=measure, args=("pair", [process.pid for process in pair])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (memory, cpu), (theirs, used) = measured["ours"], measured["pair"]
    what = "2,000 series, 100 rules, 1 s"
    return [
        Bar(f"{what}: resident", memory, 70, "MiB", f"pair {theirs:.0f}"),
        Bar(f"{what}: CPU of one core", cpu, 2, "%", f"pair {used:.2f}"),
    ]


# -- how surely ---------------------------------------------------------------------------------

Answer = tuple[int, dict[str, str]] | None


def _busy(t: float) -> Answer:
    return (429, {"Retry-After": "2"}) if t < 8.0 else None


def _down(length: float) -> Fault:
    return lambda t: (503, {}) if t < length else None


@dataclass(frozen=True, slots=True)
class Case:
    """What the receivers do, how long the alert lasts, whether both stacks are killed meanwhile.

    `interval` is Alertmanager's group_interval: 5 min by default, within which it retries one
    notification; 5 s makes the outage longer than that, as an outage of 6 minutes would be.
    """

    fault: Fault
    lasts: float
    kill: bool = False
    interval: str = "5m"


def faults(room: Lab, quick: bool) -> list[Bar]:
    """Each fault met by three receivers of both stacks: what was never told, or told twice."""
    long = 8.0 if quick else 30.0
    cases: dict[str, Case] = {
        "429, then well": Case(_busy, 9.0 if quick else 20.0),
        "503 for a while": Case(_down(long), long + 10.0),
        "an outage longer than the alert": Case(_down(long), long / 3, interval="5s"),
        "kill -9 in an outage": Case(_down(long), long / 3, kill=True, interval="5s"),
    }
    if quick:
        del cases["503 for a while"]
    rules = write_rules(
        room.work / "faults.yml",
        [rule(f"Fault{n}", f"fault{n} > 0") for n in range(len(cases))],
    )
    stages, managers, ports = [], [], []
    for n, case in enumerate(cases.values()):
        word, prefix = f"trial-{n}x", f"ours{n}"
        room.exporter.set(f"fault{n}", word, 0.0)
        for kind in KINDS:
            room.sinks.add(f"{prefix}-{kind}")
            room.sinks.add(f"pair{n}-{kind}")
        one = write_rules(room.work / f"fault{n}.yml", [rule(f"Fault{n}", f"fault{n} > 0")])
        stages.append(room.agent(prefix, one, **room.destinations(prefix)))
        route = {"group_wait": "0s", "group_interval": case.interval, "repeat_interval": "1h"}
        manager, port = room.alertmanager(
            f"am-fault{n}", {k: f"pair{n}-{k}" for k in KINDS}, **route
        )
        managers.append(manager)
        ports.append(port)
    room.prometheus("prom-faults", rules, "1s", ports)
    time.sleep(2.5)
    # Who starts a process must outlive it: the case that starts the agent anew is not a thread's.
    todo = [(room, n, case, stages[n], managers[n], long) for n, case in enumerate(cases.values())]
    threads = [threading.Thread(target=_fault, args=it) for it in todo if not it[2].kill]
    for thread in threads:
        thread.start()
    for it in todo:
        if it[2].kill:
            _fault(*it)
    for thread in threads:
        thread.join()
    until(
        lambda: all(
            room.sinks.all[f"ours{n}-{k}"].first(f"trial-{n}x", True)
            for n in range(len(cases))
            for k in KINDS
        ),
        25.0 if quick else 90.0,  # a pause between two tries may be a minute
    )
    return _told(room, cases)


def _fault(room: Lab, n: int, case: Case, stage: Stage, manager: Process, long: float) -> None:
    word, now = f"trial-{n}x", time.monotonic()
    for prefix in ("ours", "pair"):
        for kind in KINDS:
            sink = room.sinks.all[f"{prefix}{n}-{kind}"]
            sink.since, sink.fault = now, case.fault
    room.exporter.set(f"fault{n}", word, 1.0)
    if case.kill:
        time.sleep(case.lasts / 2)
        os.kill(stage.pid("agent"), signal.SIGKILL)
        manager.stop(signal.SIGKILL)
    time.sleep(max(0.0, now + case.lasts - time.monotonic()))
    room.exporter.set(f"fault{n}", word, 0.0)
    if case.kill:
        time.sleep(max(0.0, now + long * 0.75 - time.monotonic()))
        room.run(stage)
        manager.start()


def _told(room: Lab, cases: dict[str, Case]) -> list[Bar]:
    bars, twice = [], 0
    for n, name in enumerate(cases):
        lost = {}
        for who in ("ours", "pair"):
            of = [room.sinks.all[f"{who}{n}-{kind}"] for kind in KINDS]
            lost[who] = sum(sink.first(f"trial-{n}x") is None for sink in of)
            if who == "ours":
                lost[who] += sum(sink.first(f"trial-{n}x", True) is None for sink in of)
                twice = max(twice, *(sink.count(f"trial-{n}x") - 1 for sink in of))
        bars.append(
            Bar(
                f"{name}: triggers and resolves lost",
                lost["ours"],
                1,
                "of 6",
                f"pair: {lost['pair']} of 3 triggers",
            )
        )
    bars.append(Bar("duplicates at one receiver, most", twice, 2, ""))
    return bars


# -- storms and restarts ------------------------------------------------------------------------


def storm(room: Lab) -> list[Bar]:
    """60 alerts at once at receivers that keep published limits; a restart in a `for: 30s`."""
    words = [f"trial-{n}x" for n in range(60)]
    for word in words:
        room.exporter.set("storm", word, 0.0)
    room.exporter.set("held", "trial-60x", 0.0)
    rules = write_rules(
        room.work / "storm.yml",
        [rule("Storm", "storm > 0"), rule("Restarted", "held > 0", "30s")],
    )
    for who in ("ours", "pair"):
        room.sinks.add(f"{who}-pd", per_second=2.0, burst=30)
        room.sinks.add(f"{who}-slack", per_second=1.0, burst=3)
        room.sinks.add(f"{who}-hook")
    stage = room.agent("storm", rules, **room.destinations("ours"))
    _, port = room.alertmanager("am-storm", {k: f"pair-{k}" for k in KINDS}, **TUNED)
    prometheus = room.prometheus("prom-storm", rules, "1s", [port])
    time.sleep(4.0)
    held = room.exporter.set("held", "trial-60x", 1.0)
    time.sleep(25.0)
    os.kill(stage.pid("agent"), signal.SIGTERM)
    prometheus.stop()
    wait(stage.dead, 15.0, "the agent's end")
    room.run(stage)
    prometheus.start()
    mine, theirs = (room.sinks.all[f"{who}-hook"] for who in ("ours", "pair"))
    until(lambda: mine.first("trial-60x") and theirs.first("trial-60x"), 45.0)
    paged = seconds(mine, "trial-60x", held)
    bars = [
        Bar(
            "restart 25 s into `for: 30s`: page after",
            paged,
            32,
            "s",
            ratio(paged, seconds(theirs, "trial-60x", held)),
        )
    ]
    for word in words:
        room.exporter.set("storm", word, 1.0)
    sinks = [room.sinks.all[f"ours-{kind}"] for kind in ("pd", "slack")]
    until(lambda: all(sink.first(word) for sink in sinks for word in words), 90.0)
    for kind in ("pd", "slack"):
        ours, pair = room.sinks.all[f"ours-{kind}"], room.sinks.all[f"pair-{kind}"]
        missed = sum(ours.first(word) is None for word in words)
        lost = sum(pair.first(word) is None for word in words)
        bars.append(Bar(f"storm of 60, {kind}: not told", missed, 1, "", f"pair {lost}"))
        bars.append(
            Bar(f"storm of 60, {kind}: answers of 429", ours.refused, 1, "", f"pair {pair.refused}")
        )
    return bars


def main() -> int:
    options = arguments(__doc__)
    compiled()
    bars: list[Bar] = []
    with lab() as room:
        bars += latency(room, options.quick)
    with lab() as room:
        bars += faults(room, options.quick)
    if not options.quick:
        with lab() as room:
            bars += storm(room)
    return finish("alerts beside Prometheus and Alertmanager", bars, options)


if __name__ == "__main__":
    sys.exit(main())
