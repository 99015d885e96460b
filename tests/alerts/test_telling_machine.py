"""Whatever fires, ends, is silenced, repeats and restarts: people know what a model says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.alerts.damping import Withheld
from agent.alerts.judge import Verdict
from agent.alerts.outbox import Outbox
from agent.alerts.policy import make_policy
from agent.alerts.redact import Redaction
from agent.alerts.routing import Route
from agent.alerts.silences import Silences
from agent.alerts.state import Alert, Transition, fingerprint
from agent.alerts.states import States
from agent.alerts.telling import Teller
from agent.config import Alerts
from agent.state import StateDB
from agent.telemetry.redaction import Redactor
from agent.units import Seconds, UnixTime
from tests.faults.clock import FakeClock

SLACK = Route("slack", frozenset({"critical", "warning"}))


class FakeJudge:
    """The alerts that fire, as the judge would list them."""

    def __init__(self) -> None:
        self.firing: dict[str, Alert] = {}

    def alerts(self) -> list[Alert]:
        return list(self.firing.values())


class World:
    """The teller over a real state file; a receiver that takes everything, at once or not."""

    def __init__(self, folder: Path, grouped: bool) -> None:
        self.clock = FakeClock()
        self.path = folder / "state.db"
        self.judge = FakeJudge()
        tree: dict[str, Any] = {"flapping": {"changes": 0}}
        if grouped:
            tree["route"] = {"receivers": ["slack"], "group_by": ["alertname"], "group_wait": 30}
        self.config = Alerts.model_validate(tree)
        self.knows: set[str] = set()
        self.open()

    def open(self) -> None:
        self.db = StateDB(self.path, self.clock)
        redaction = Redaction(Redactor())
        self.box = Outbox(self.db, self.clock, 1000)
        self.silences = Silences(self.db, self.clock)
        self.teller = Teller(
            States(self.db, redaction.scrub_texts),
            self.box,
            environment="test",
            pod="p",
            context=dict,
            redactor=redaction,
            withheld=Withheld(self.db, redaction.scrub_texts),
            policy=make_policy(self.config, [SLACK], "test", self.silences),
            wall=self.clock.now,
        )

    def close(self) -> None:
        self.box.close()
        self.db.close()

    async def tick(self, *verdicts: Verdict) -> None:
        at = self.clock.now()
        self.teller.take(verdicts, self.judge, at, at)  # type: ignore[arg-type]
        self.teller.repeat(self.judge, at, at, Seconds(1e9))  # type: ignore[arg-type]
        await self.teller.commit()

    async def deliver(self) -> None:
        """What is due reaches the receiver, which checks that nothing is told out of order."""
        while ready := [i for i in self.box.heads("slack") if i.due <= self.clock.monotonic()]:
            for item in ready:
                n = item.notification
                if n.status == "firing":
                    assert n.labels["n"] not in self.knows, "told twice"
                    self.knows.add(n.labels["n"])
                else:
                    assert n.labels["n"] in self.knows, "a resolve of what was never told"
                    self.knows.discard(n.labels["n"])
                self.box.accepted(item)
            await self.box.flush()


def verdict(change: Any, name: str, severity: str, at: UnixTime) -> Verdict:
    labels = {"alertname": "A", "n": name, "severity": severity}
    alert = Alert(fingerprint(labels), labels, {}, 1.0, "firing", at, at)
    return Verdict("rule", Transition(change, alert, at))


STEP = st.tuples(
    st.sampled_from(("fire", "fire", "end", "silence", "expire", "wait", "deliver", "restart")),
    st.sampled_from("123"),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(STEP, max_size=25), st.booleans())
async def test_in_the_end_people_know_exactly_what_fires_and_is_not_silenced(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]], grouped: bool
) -> None:
    world = World(tmp_path_factory.mktemp("telling"), grouped)
    told: set[str] = set()  # the model: of whom a first word has been decided
    silenced: dict[str, str] = {}
    for step, name in steps:
        severity = "critical" if name == "1" else "warning"
        now = world.clock.now()
        fires = {alert.labels["n"] for alert in world.judge.alerts()}
        if step == "fire" and name not in fires:
            made = verdict("firing", name, severity, now)
            world.judge.firing[name] = made.transition.alert
            await world.tick(made)
        elif step == "end" and name in fires:
            del world.judge.firing[name]
            await world.tick(verdict("resolved", name, severity, now))
        elif step == "silence" and name not in silenced:
            made_silence = world.silences.add({"matchers": f'n="{name}"', "duration": 1e6})
            silenced[name] = made_silence["id"]
        elif step == "expire" and name in silenced:
            world.silences.expire({"id": silenced.pop(name)})
            await world.tick()
        elif step == "wait":
            world.clock.tick(10)
            await world.tick()
        elif step == "deliver":
            await world.deliver()
        elif step == "restart":
            world.close()
            world.open()
        fires = {alert.labels["n"] for alert in world.judge.alerts()}
        told = {n for n in told if n in fires} | {n for n in fires if n not in silenced}
        critical = [i for i in world.box.waiting() if i.notification.critical]
        assert all(item.due <= world.clock.monotonic() for item in critical), "a critical one waits"
    world.clock.tick(1000)
    await world.tick()
    await world.deliver()
    assert world.knows == told
    assert world.box.waiting() == []
    world.close()
