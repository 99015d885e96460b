"""The whole job, from a sample to a page: real target, real receiver, ticks by hand."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agent.alerts.engine import AlertsJob
from agent.alerts.errors import AlertsError, RuleError
from agent.clock import Clock, SystemClock
from agent.config import Alerts
from agent.errors import UsageError
from agent.health import ready
from agent.state import StateDB
from agent.telemetry.exporter import PrometheusRecorder
from agent.telemetry.redaction import Redactor
from agent.units import Monotonic, Seconds, UnixTime
from tests.alerts.made import HOOK_PATH, ROUTING_KEY, until
from tests.faults.clock import FakeClock
from tests.faults.receiver import FaultyReceiver

T0 = 1_750_000_000.0

RULES = """
groups:
  - name: recorded
    rules:
      - record: job:latency:double
        expr: latency * 2
  - name: trading
    rules:
      - alert: Slow
        expr: latency > 25
        for: 30s
        labels: {severity: critical, band: "{{ if gt $value 100.0 }}high{{ else }}low{{ end }}"}
        annotations: {summary: "latency is {{ $value }} on {{ $labels.desk }}"}
      - alert: Tripped
        expr: trips > 0
        labels: {severity: critical}
      - alert: Watch
        expr: job:latency:double > 200
        labels: {severity: warning}
"""


class Bench:
    """A target whose metrics a test sets, a receiver, and jobs on one state file."""

    def __init__(self, folder: Path, target: FaultyReceiver, receiver: FaultyReceiver) -> None:
        self.folder = folder
        self.target, self.receiver = target, receiver
        self.clock: Clock = FakeClock(T0)
        self.redactor = Redactor()
        self.context: dict[str, str] = {"bundle": "v2025-07-08", "bundle_live_for": "42s"}
        self.rules = folder / "rules.yml"
        self.rules.write_text(RULES)
        self.metrics()
        self.job: AlertsJob | None = None
        self.db: StateDB | None = None

    def metrics(self, text: str = "") -> None:
        self.target.answer = lambda handler: handler.reply(200, text.encode())

    def section(self, **more: Any) -> Alerts:
        tree: dict[str, Any] = {
            "targets": [
                {"job": "trader", "url": self.target.url("/metrics"), "labels": {"desk": "fx"}}
            ],
            "rules": [str(self.rules)],
            "timeout": "2s",
            "pagerduty": {
                "url": self.receiver.url("/v2/enqueue"),
                "routing_key": {"secret": "key"},
                "timeout": "1s",
            },
        }
        return Alerts.model_validate({**tree, **more})

    def slack(self) -> dict[str, Any]:
        hook = self.folder / "hook"
        hook.write_text(self.receiver.url(HOOK_PATH) + "\n")
        return {"webhook_url": {"file": str(hook)}, "timeout": "1s"}

    def start(self, **more: Any) -> AlertsJob:
        self.db = StateDB(self.folder / "state.db", self.clock)
        self.recorder = PrometheusRecorder()
        self.job = AlertsJob(
            self.section(**more),
            db=self.db,
            recorder=self.recorder,
            clock=self.clock,
            environment="test",
            pod="trader-0",
            secret_reader=lambda _name: ROUTING_KEY.encode(),
            context=lambda: self.context,
            redactor=self.redactor,
        )
        return self.job

    async def stop(self) -> None:
        if self.job is not None:
            await self.job.close()
        if self.db is not None:
            self.db.close()
        self.job = self.db = None

    async def restart(self, at: float, **more: Any) -> AlertsJob:
        """As after a kill: nothing of the old job is asked to finish."""
        await self.stop()
        self.clock = FakeClock(T0 + at)
        return self.start(**more)

    async def ticks(self, first: int, last: int | None = None) -> None:
        assert self.job is not None
        for offset in range(first, (first if last is None else last) + 1):
            await self.job.tick(UnixTime(T0 + offset))

    async def delivered(self) -> list[tuple[str, str]]:
        """Start the senders, wait for an empty outbox; action and summary of what was accepted."""
        job = self.job
        assert job is not None
        job.start_senders()
        await until("an empty outbox", lambda: not job.outbox.waiting())
        return [(e["event_action"], e["payload"]["summary"]) for e in self.pages()]

    def pages(self) -> list[dict[str, Any]]:
        return [event for event in self.receiver.accepted if "event_action" in event]

    def alerts(self) -> dict[str, str]:
        assert self.job is not None
        return {alert["name"]: alert["state"] for alert in self.job.snapshot()["alerts"]}

    def failed(self) -> dict[str, str]:
        assert self.job is not None
        return {c.name: c.reason for c in self.job.conditions() if not c.ok}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    with FaultyReceiver() as target, FaultyReceiver() as receiver:
        made = Bench(tmp_path, target, receiver)
        try:
            yield made
        finally:
            await made.stop()


# -- from a sample to a page ----------------------------------------------------------------------


async def test_a_page_says_what_fires_where_and_with_which_bundle(bench: Bench) -> None:
    bench.start()
    bench.metrics("trips 1\n")
    await bench.ticks(0)
    assert await bench.delivered() == [
        ("trigger", f"Tripped (desk=fx, instance=127.0.0.1:{bench.target.port}, job=trader)")
    ]
    details = bench.pages()[0]["payload"]["custom_details"]
    assert details["bundle"] == "v2025-07-08"
    assert details["bundle_live_for"] == "42s"
    assert (details["environment"], details["pod"]) == ("test", "trader-0")
    assert details["labels"]["severity"] == "critical"


async def test_a_rule_with_a_for_pages_when_it_has_held_and_resolves_at_the_first_good_sample(
    bench: Bench,
) -> None:
    bench.start()
    bench.metrics("latency 31\n")
    await bench.ticks(0, 29)
    assert bench.alerts() == {"Slow": "pending"}
    assert await bench.delivered() == []
    await bench.ticks(30)
    assert bench.alerts() == {"Slow": "firing"}
    assert await bench.delivered() == [("trigger", "latency is 31 on fx")]
    bench.metrics("latency 10\n")
    await bench.ticks(31)
    assert await bench.delivered() == [
        ("trigger", "latency is 31 on fx"),
        ("resolve", "latency is 31 on fx"),
    ]
    first, second = bench.pages()
    assert first["dedup_key"] == second["dedup_key"]
    assert bench.alerts() == {}


async def test_a_rule_sees_what_was_recorded_at_the_same_tick_and_alerts_are_series(
    bench: Bench,
) -> None:
    job = bench.start()
    bench.metrics("latency 101\n")
    await bench.ticks(0)
    assert bench.alerts() == {"Slow": "pending", "Watch": "firing"}
    job.validate('ALERTS{alertstate="firing"}')
    await bench.ticks(1)
    (result,) = job.read('ALERTS{alertstate="firing"}').results
    assert result.labels["alertname"] == "Watch"
    assert bench.alerts() == {"Slow": "pending", "Watch": "firing"}


async def test_a_firing_alert_is_told_again_after_the_repeat_interval(bench: Bench) -> None:
    bench.start(repeat_interval="10s")
    bench.metrics("trips 1\n")
    for first in (0, 10, 20):
        await bench.ticks(first, first + 9)
        pages = await bench.delivered()
        assert [action for action, _ in pages] == ["trigger"] * (first // 10 + 1)
    assert len({event["dedup_key"] for event in bench.pages()}) == 1


async def test_two_rules_with_the_same_labels_are_one_incident_that_closes_with_the_last(
    bench: Bench,
) -> None:
    rule = "{alert: Twin, expr: %s > 0, labels: {severity: critical}}"
    groups = ", ".join(f"{{name: of_{x}, rules: [{rule % x}]}}" for x in "ab")
    bench.rules.write_text(f"groups: [{groups}]")
    bench.start()
    bench.metrics("a 1\nb 1\n")
    await bench.ticks(0)
    bench.metrics("a 0\nb 1\n")
    await bench.ticks(1)
    assert [action for action, _ in await bench.delivered()] == ["trigger"]
    bench.metrics("a 0\nb 0\n")
    await bench.ticks(2)
    assert [action for action, _ in await bench.delivered()] == ["trigger", "resolve"]


async def test_a_rule_that_cannot_be_evaluated_is_shown_and_the_others_go_on(
    bench: Bench,
) -> None:
    bench.rules.write_text(
        "groups: [{name: g, rules: ["
        "{alert: Broken, expr: a * on(x) b > 0, labels: {severity: critical}},"
        "{alert: Sound, expr: a > 0, labels: {severity: critical}}]}]"
    )
    job = bench.start()
    bench.metrics('a{y="1"} 1\na{y="2"} 1\nb{y="1"} 1\nb{y="2"} 1\n')
    await bench.ticks(0)
    assert bench.alerts() == {"Sound": "firing"}
    assert "Broken" in bench.failed()["alerts-rules"]
    shown = {r["name"]: r for group in job.snapshot()["groups"] for r in group["rules"]}
    assert shown["Broken"]["last_error"]
    sound = shown["Sound"]
    assert (sound["type"], sound["state"], sound["last_error"]) == ("alerting", "firing", None)
    assert sound["query"] == "a > 0"
    text = bench.recorder.text().decode()
    assert 'jules_agent_rule_evaluations_total{outcome="error"} 1.0' in text


async def test_a_context_that_fails_costs_no_page(bench: Bench) -> None:
    job = bench.start()
    missing: dict[str, dict[str, str]] = {}
    job.teller._context = lambda: missing["no such thing"]
    bench.metrics("trips 1\n")
    await bench.ticks(0)
    assert [action for action, _ in await bench.delivered()] == ["trigger"]


async def test_a_known_secret_reaches_neither_the_outbox_nor_the_state_nor_the_page(
    bench: Bench,
) -> None:
    bench.redactor.learn("database/main", b"canary-7f3a")
    bench.start()
    bench.metrics('trips{note="login canary-7f3a failed"} 1\n')
    await bench.ticks(0)
    await bench.delivered()
    assert "canary" not in json.dumps(bench.receiver.accepted)
    assert "[redacted]" in json.dumps(bench.receiver.accepted)
    await bench.stop()
    for file in bench.folder.glob("state.db*"):
        assert b"canary-7f3a" not in file.read_bytes(), file
        assert ROUTING_KEY.encode() not in file.read_bytes(), file


async def test_a_redacted_alert_is_still_the_same_alert_after_a_restart(bench: Bench) -> None:
    bench.redactor.learn("database/main", b"canary-7f3a")
    bench.start()
    bench.metrics('trips{note="canary-7f3a"} 1\n')
    await bench.ticks(0)
    await bench.restart(5)
    await bench.ticks(6)
    assert [action for action, _ in await bench.delivered()] == ["trigger"]


# -- restart and reload ---------------------------------------------------------------------------


async def test_pending_for_25_of_30_seconds_pages_at_30_although_the_agent_was_restarted(
    bench: Bench,
) -> None:
    bench.start()
    bench.metrics("latency 31\n")
    await bench.ticks(0, 25)
    await bench.restart(27)
    await bench.ticks(28, 29)
    assert bench.alerts() == {"Slow": "pending"}
    await bench.ticks(30)
    assert [action for action, _ in await bench.delivered()] == ["trigger"]


async def test_a_firing_alert_is_not_paged_again_by_a_restart_and_resolves_under_its_key(
    bench: Bench,
) -> None:
    bench.start()
    bench.metrics("trips 1\n")
    await bench.ticks(0)
    await bench.delivered()
    await bench.restart(10)
    await bench.ticks(11)
    assert bench.alerts() == {"Tripped": "firing"}
    bench.metrics("trips 0\n")
    await bench.ticks(12)
    assert [action for action, _ in await bench.delivered()] == ["trigger", "resolve"]
    assert len({event["dedup_key"] for event in bench.pages()}) == 1


async def test_an_alert_over_a_range_is_not_resolved_by_a_restart_s_empty_window(
    bench: Bench,
) -> None:
    bench.rules.write_text(
        "groups: [{name: g, rules: ["
        "{alert: Rising, expr: 'increase(trips_total[20s]) > 0', labels: {severity: critical}}]}]"
    )
    bench.start()
    for tick, value in enumerate((0, 0, 1, 1)):
        bench.metrics(f"trips_total {value}\n")
        await bench.ticks(tick)
    assert bench.alerts() == {"Rising": "firing"}
    await bench.restart(5)
    await bench.ticks(6, 25)
    assert bench.alerts() == {"Rising": "firing"}  # nothing has shown yet that it is over
    await bench.ticks(26)
    assert bench.alerts() == {}
    assert [action for action, _ in await bench.delivered()] == ["trigger", "resolve"]


async def test_an_alert_whose_rule_is_gone_after_a_restart_or_a_reload_is_resolved(
    bench: Bench,
) -> None:
    bench.start()
    bench.metrics("trips 1\nlatency 101\n")
    await bench.ticks(0)
    bench.rules.write_text(RULES.replace("alert: Tripped", "alert: Renamed"))
    job = await bench.restart(2)
    await bench.ticks(3)
    assert bench.alerts() == {"Renamed": "firing", "Slow": "pending", "Watch": "firing"}
    bench.rules.write_text("groups: []")
    job.prepare(bench.section())()
    await bench.ticks(4)
    assert bench.alerts() == {}
    actions = [(action, text.split(" ")[0]) for action, text in await bench.delivered()]
    assert sorted(actions) == [
        ("resolve", "Renamed"),
        ("resolve", "Tripped"),
        ("trigger", "Renamed"),
        ("trigger", "Tripped"),
    ]


async def test_a_reload_keeps_what_is_pending_and_a_refused_one_changes_nothing(
    bench: Bench,
) -> None:
    job = bench.start()
    bench.metrics("latency 31\n")
    await bench.ticks(0, 20)
    bench.rules.write_text("groups: [{name: g, rules: [{alert: X, expr: 'rate(x)'}]}]")
    with pytest.raises(RuleError):
        job.prepare(bench.section())
    with pytest.raises(UsageError):
        job.prepare(bench.section(max_series=100))
    bench.rules.write_text(RULES.replace("for: 30s", "for: 25s"))
    job.prepare(bench.section(slack=bench.slack()))()
    assert {d["name"] for d in job.snapshot()["destinations"]} == {"pagerduty", "slack"}
    await bench.ticks(21, 24)
    assert bench.alerts() == {"Slow": "pending"}
    await bench.ticks(25)
    await bench.delivered()
    assert len(bench.receiver.accepted) == 2


async def test_a_reload_ends_the_pause_of_a_destination_only_when_it_changes_it(
    bench: Bench,
) -> None:
    job = bench.start()
    sender = next(iter(job.senders.values()))
    sender._not_before = paused = Monotonic(bench.clock.monotonic() + 50.0)
    job.prepare(bench.section())()
    assert sender._not_before == paused
    changed = bench.section()
    assert changed.pagerduty is not None
    other = changed.pagerduty.model_copy(update={"timeout": 2.0})
    job.prepare(changed.model_copy(update={"pagerduty": other}))()
    assert sender._not_before < paused


async def test_a_reload_during_a_tick_waits_for_its_end(bench: Bench) -> None:
    job = bench.start()
    task = asyncio.ensure_future(job.run())
    await until("a tick", lambda: job.snapshot()["targets"][0]["up"])
    bench.rules.write_text("groups: []")
    job.prepare(bench.section())()
    await until("the new rules", lambda: job.snapshot()["rules"] == 0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_target_that_was_removed_leaves_no_series(bench: Bench) -> None:
    job = bench.start()
    bench.metrics("trips 1\n")
    await bench.ticks(0)
    assert isinstance(bench.clock, FakeClock)
    bench.clock.tick(0.5)
    job.prepare(bench.section(targets=[]))()
    await bench.ticks(1)
    assert bench.alerts() == {}


# -- what others ask, and what is shown -----------------------------------------------------------


async def test_a_gate_reads_the_newest_samples_and_knows_how_old_they_are(bench: Bench) -> None:
    job = bench.start()
    assert job.read("latency > 0").samples_age is None
    job.validate("spread > 3")
    bench.metrics('spread{pair="a"} 4\nspread{pair="b"} 2\n')
    await bench.ticks(0)
    assert isinstance(bench.clock, FakeClock)
    bench.clock.tick(7.0)
    reading = job.read("spread > 3")
    assert [(r.labels["pair"], r.value) for r in reading.results] == [("a", 4.0)]
    assert reading.samples_age == Seconds(7.0)
    with pytest.raises(AlertsError):
        job.validate("spread >")


async def test_nothing_of_the_alerts_job_keeps_the_trader_from_being_ready(bench: Bench) -> None:
    job = bench.start()
    bench.receiver.always = 503
    bench.target.answer = lambda handler: handler.reply(500, b"")
    await bench.ticks(0)
    assert "alerts-targets" in bench.failed()
    assert ready(job.conditions())


async def test_a_destination_that_refuses_is_shown_until_it_accepts(bench: Bench) -> None:
    bench.clock = SystemClock()
    job = bench.start()
    bench.receiver.plan(503, 503)
    bench.metrics("trips 1\n")
    await job.tick(UnixTime(time.time()))
    job.start_senders()
    await until("a failure", lambda: "alerts-delivery-pagerduty" in bench.failed())
    assert "503" in bench.failed()["alerts-delivery-pagerduty"]
    (destination,) = job.snapshot()["destinations"]
    assert (destination["pending"], destination["accepted"]) == (1, 0)
    await until("acceptance", lambda: not job.outbox.waiting())
    assert "alerts-delivery-pagerduty" not in bench.failed()
    assert job.snapshot()["destinations"][0]["accepted"] == 1


async def test_no_destination_at_all_is_a_failed_condition(bench: Bench) -> None:
    bench.start(pagerduty=None)
    assert "nobody is told" in bench.failed()["alerts-routes"]


async def test_the_read_model_is_json(bench: Bench) -> None:
    job = bench.start(slack=bench.slack())
    bench.metrics("latency NaN\ntrips 1\n")
    await bench.ticks(0)
    seen = json.loads(json.dumps(job.snapshot(), allow_nan=False))
    assert seen["rules"] == 4
    assert set(seen["alerts"][0]) == {
        *("name", "state", "severity", "labels", "annotations", "value", "active_at", "fired_at"),
        *("rule", "keeping_since"),
    }
    assert set(seen["destinations"][0]) == {
        *("name", "pending", "oldest_seconds", "last_success", "last_error", "accepted"),
    }


async def test_drain_delivers_what_is_queued_and_leaves_the_rest(bench: Bench) -> None:
    bench.clock = SystemClock()
    job = bench.start()
    bench.metrics("trips 1\n")
    task = asyncio.ensure_future(job.run())
    await until("the page", lambda: bench.pages())
    bench.receiver.always = 503
    bench.metrics("trips 0\n")
    await until("a failed resolve", lambda: bench.receiver.refusals)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    bench.receiver.always = None
    await job.drain()
    assert [event["event_action"] for event in bench.pages()] == ["trigger", "resolve"]
    bench.job = None


async def test_a_crash_between_judging_and_queueing_loses_no_page(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.clock = SystemClock()
    job = bench.start()
    bench.metrics("trips 1\n")

    def broken(*_: Any) -> None:
        raise RuntimeError("bug")

    with monkeypatch.context() as patched:
        patched.setattr(job.teller, "take", broken)
        with pytest.raises(RuntimeError, match="bug"):
            await job.run()
    task = asyncio.ensure_future(job.run())  # as the supervisor does
    await until("the page", bench.pages)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert [event["event_action"] for event in bench.pages()] == ["trigger"]


async def test_a_run_that_crashed_and_was_started_again_goes_on(bench: Bench) -> None:
    bench.clock = SystemClock()
    job = bench.start()
    bench.metrics("trips 1\n")
    for _ in range(2):
        task = asyncio.ensure_future(job.run())
        seen = len(bench.target.requests)
        await until("a scrape", lambda n=seen: len(bench.target.requests) > n)  # type: ignore[misc]
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert [action for action, _ in await bench.delivered()] == ["trigger"]
