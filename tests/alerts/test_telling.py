"""Who is told when something mutes, flaps, groups, refuses or is down: the whole way, one job."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.errors import UsageError
from tests.alerts.made import until
from tests.alerts.test_engine import Bench
from tests.faults.receiver import FaultyReceiver

RULES = """
groups:
  - name: trading
    rules:
      - {alert: Tripped, expr: trips > 0, labels: {severity: critical}}
      - {alert: Slow, expr: slow > 0, labels: {severity: warning}}
"""


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    with FaultyReceiver() as target, FaultyReceiver() as receiver:
        made = Bench(tmp_path, target, receiver)
        made.rules.write_text(RULES)
        yield made
        await made.stop()


def both(bench: Bench, **more: Any) -> dict[str, Any]:
    return {"slack": bench.slack(), **more}


async def told(bench: Bench) -> list[str]:
    """What both destinations accepted, one line each, in order of arrival."""
    job = bench.job
    assert job is not None
    job.start_senders()
    job.desk.wake()
    await until("an empty outbox", lambda: not job.outbox.waiting())
    lines = []
    for event in bench.receiver.accepted:
        if "event_action" in event:
            lines.append(f"pd {event['event_action']} {event['payload']['summary']}")
        else:
            lines.append(f"slack {event['text']}")
    return lines


async def test_a_silenced_alert_is_told_when_the_silence_ends_and_it_fires_on(
    bench: Bench,
) -> None:
    job = bench.start()
    job.admin("silence.add", {"matchers": 'alertname="Tripped"', "duration": "10m"})
    bench.metrics("trips 1\n")
    await bench.ticks(0, 3)
    assert await told(bench) == []
    (muted,) = job.snapshot()["muted"]
    assert muted["name"] == "Tripped"
    assert muted["reason"].startswith("silence ")
    job = await bench.restart(4)
    await bench.ticks(4, 5)
    assert await told(bench) == []
    bench.clock.tick(600)  # type: ignore[attr-defined]
    await bench.ticks(6)
    assert await told(bench) == ["pd trigger Tripped (desk=fx, instance=" + host(bench)]
    assert job.snapshot()["muted"] == []


def host(bench: Bench) -> str:
    return f"127.0.0.1:{bench.target.port}, job=trader)"


async def test_an_alert_that_began_and_ended_in_silence_is_told_to_nobody(bench: Bench) -> None:
    job = bench.start()
    silence = job.admin("silence.add", {"matchers": 'alertname="Tripped"', "duration": "10m"})
    bench.metrics("trips 1\n")
    await bench.ticks(0)
    bench.metrics("trips 0\n")
    await bench.ticks(1)
    job.admin("silence.expire", {"id": silence["id"]})
    await bench.ticks(2)
    assert await told(bench) == []


async def test_a_silence_does_not_keep_an_open_incident_from_being_closed(bench: Bench) -> None:
    job = bench.start()
    bench.metrics("trips 1\n")
    await bench.ticks(0)
    job.admin("silence.add", {"matchers": 'alertname="Tripped"', "duration": "10m"})
    bench.metrics("trips 0\n")
    await bench.ticks(1)
    actions = [line.split()[1] for line in await told(bench)]
    assert actions == ["trigger", "resolve"]


async def test_a_critical_alert_keeps_the_warning_beside_it_quiet_until_it_ends(
    bench: Bench,
) -> None:
    rule = {"source": ["severity=critical"], "target": ["severity=warning"], "equal": ["desk"]}
    bench.start(**both(bench, inhibit=[rule]))
    bench.metrics("trips 1\nslow 1\n")
    await bench.ticks(0)
    assert [line.split()[0] for line in await told(bench)].count("slack") == 1
    bench.metrics("trips 0\nslow 1\n")
    await bench.ticks(1)
    lines = await told(bench)
    assert sum("WARNING" in line for line in lines) == 1


async def test_an_alert_that_flaps_is_told_once_more_and_then_resolved_when_it_is_calm(
    bench: Bench,
) -> None:
    flapping = {"changes": 4, "within": "10m", "calm": "60s"}
    bench.start(flapping=flapping)
    for second in range(40):
        bench.metrics(f"trips {(second + 1) % 2}\n")
        await bench.ticks(second)
        await told(bench)
    lines = await told(bench)
    assert [line.split()[1] for line in lines] == ["trigger", "resolve"] * 2 + ["trigger"]
    assert "[flapping; quiet until it is calm for 60 s]" in lines[-1]
    await bench.restart(40, flapping=flapping)
    bench.metrics("trips 0\n")
    await bench.ticks(40)
    await bench.ticks(90)
    assert len(await told(bench)) == 5
    await bench.ticks(101)
    assert (await told(bench))[-1].startswith("pd resolve")
    bench.metrics("trips 1\n")
    await bench.ticks(102)
    assert (await told(bench))[-1].startswith("pd trigger")


ROUTE = {
    "receivers": ["slack"],
    "group_by": ["alertname"],
    "group_wait": "30s",
    "group_interval": "5m",
    "routes": [{"matchers": ["severity=critical"], "receivers": ["pagerduty", "slack"]}],
}


async def test_warnings_of_a_group_become_one_message_after_its_wait_and_critical_goes_at_once(
    bench: Bench,
) -> None:
    job = bench.start(**both(bench, route=ROUTE))
    bench.metrics('slow{n="1"} 1\nslow{n="2"} 1\nslow{n="3"} 1\ntrips{n="9"} 1\n')
    await bench.ticks(0)
    job.start_senders()
    await until("the critical one", lambda: len(bench.receiver.accepted) == 2)
    assert {i.notification.name for i in job.outbox.waiting()} == {"Slow"}
    await bench.clock.advance(29.0)  # type: ignore[attr-defined]
    assert len(job.outbox.waiting()) == 3
    await bench.clock.advance(1.5)  # type: ignore[attr-defined]
    await until("the group", lambda: not job.outbox.waiting())
    text = bench.receiver.accepted[-1]["text"]
    assert "3 alerts fire: Slow ×3" in text
    whole = str(bench.receiver.accepted[-1])
    assert all(f"n={number}" in whole for number in (1, 2, 3))
    assert len(bench.receiver.accepted) == 3


async def test_a_resolve_does_not_wait_for_its_group(bench: Bench) -> None:
    job = bench.start(**both(bench, route=ROUTE))
    bench.metrics("slow 1\n")
    await bench.ticks(0)
    bench.metrics("slow 0\n")
    await bench.ticks(1)
    job.start_senders()
    await until("both messages", lambda: not job.outbox.waiting())
    texts = [event["text"] for event in bench.receiver.accepted]
    assert "WARNING" in texts[0]
    assert "RESOLVED" in texts[1]


async def test_a_new_alert_of_a_group_that_was_told_waits_for_the_interval(bench: Bench) -> None:
    job = bench.start(**both(bench, route=ROUTE))
    bench.metrics('slow{n="1"} 1\n')
    await bench.ticks(0)
    job.start_senders()
    await bench.clock.advance(31.0)  # type: ignore[attr-defined]
    await until("the first", lambda: not job.outbox.waiting())
    bench.metrics('slow{n="1"} 1\nslow{n="2"} 1\n')
    await bench.ticks(32)
    await bench.clock.advance(290.0)  # type: ignore[attr-defined]
    assert len(job.outbox.waiting()) == 1
    await bench.clock.advance(20.0)  # type: ignore[attr-defined]
    await until("the second", lambda: not job.outbox.waiting())


async def test_what_one_destination_refuses_for_good_is_told_to_another(bench: Bench) -> None:
    job = bench.start(**both(bench))
    bench.metrics("trips 1\n")
    job.senders["slack"].start()
    await bench.ticks(0)
    await until("slack", lambda: not job.outbox.waiting("slack"))
    bench.receiver.plan(400)
    job.senders["pagerduty"].start()
    job.desk.wake()
    await until("the word of it", lambda: len(bench.receiver.accepted) == 2)
    assert "pagerduty refused the notification about Tripped" in bench.receiver.accepted[1]["text"]


async def test_a_refusal_by_the_only_destination_starts_no_circle(bench: Bench) -> None:
    job = bench.start()
    bench.metrics("trips 1\n")
    bench.receiver.always = 400
    await bench.ticks(0)
    job.start_senders()
    await until("the refusal", lambda: not job.outbox.waiting())
    assert len(bench.receiver.requests) == 1


async def test_a_fallback_is_told_of_what_waits_too_long_and_of_its_end(bench: Bench) -> None:
    fallbacks = [{"destination": "pagerduty", "to": "slack", "after": "5m"}]
    slack = {**bench.slack(), "severities": ["warning"]}
    job = bench.start(slack=slack, fallbacks=fallbacks)
    bench.metrics("trips 1\n")
    await bench.ticks(0)
    job.senders["slack"].start()
    bench.clock.tick(301)  # type: ignore[attr-defined]
    await bench.ticks(1, 2)
    await until("slack", lambda: not job.outbox.waiting("slack"))
    (first,) = bench.receiver.accepted
    assert "pagerduty cannot be reached" in first["text"]
    bench.metrics("trips 0\n")
    await bench.ticks(3)
    lines = await told(bench)
    assert [line.split()[0] for line in lines].count("slack") == 2
    assert [line for line in lines if line.startswith("pd resolve")]
    assert len(lines) == 4
    late = next(line for line in lines if line.startswith("pd trigger"))
    assert "[told 5 min late]" in late


async def test_an_episode_that_was_over_before_the_fallback_is_told_there_whole(
    bench: Bench,
) -> None:
    fallbacks = [{"destination": "pagerduty", "to": "slack", "after": "5m"}]
    slack = {**bench.slack(), "severities": ["warning"]}
    job = bench.start(slack=slack, fallbacks=fallbacks)
    bench.metrics("trips 1\n")
    await bench.ticks(0)
    bench.clock.tick(1)  # type: ignore[attr-defined]
    bench.metrics("trips 0\n")
    await bench.ticks(1)
    bench.clock.tick(302)  # type: ignore[attr-defined]
    await bench.ticks(2, 4)
    job.senders["slack"].start()
    job.desk.wake()
    await until("slack", lambda: not job.outbox.waiting("slack"))
    texts = [event["text"] for event in bench.receiver.accepted]
    assert ["RESOLVED" in text for text in texts] == [False, True]


async def test_a_fallback_that_was_told_anyway_is_not_told_twice(bench: Bench) -> None:
    fallbacks = [{"destination": "pagerduty", "to": "slack", "after": "5m"}]
    job = bench.start(**both(bench, fallbacks=fallbacks))
    bench.metrics("trips 1\n")
    await bench.ticks(0)
    job.senders["slack"].start()
    bench.clock.tick(301)  # type: ignore[attr-defined]
    bench.metrics("trips 0\n")
    await bench.ticks(1, 3)
    bench.clock.tick(301)  # type: ignore[attr-defined]
    await bench.ticks(4, 5)
    await until("slack", lambda: not job.outbox.waiting("slack"))
    texts = [event["text"] for event in bench.receiver.accepted]
    assert ["RESOLVED" in text for text in texts] == [False, True]


@pytest.mark.parametrize(
    "more",
    [
        {"route": {"receivers": ["nobody"]}},
        {"inhibit": [{"source": ["nonsense"], "target": ["a=b"]}]},
        {"maintenance": [{"name": "w", "matchers": ["{"]}]},
        {"fallbacks": [{"destination": "pagerduty", "to": "slack"}]},
        {"fallbacks": [{"destination": "pagerduty", "to": "pagerduty"}]},
    ],
)
async def test_a_reload_that_names_what_is_not_there_is_refused_and_changes_nothing(
    bench: Bench, more: dict[str, Any]
) -> None:
    job = bench.start()
    policy = job.desk.policy
    with pytest.raises(UsageError):
        job.prepare(bench.section(**more))
    assert job.desk.policy is policy


async def test_a_reload_changes_the_routes_of_what_fires_next(bench: Bench) -> None:
    job = bench.start(**both(bench))
    bench.metrics("trips 1\n")
    await bench.ticks(0)
    job.prepare(bench.section(**both(bench, route={"receivers": ["slack"]})))()
    bench.metrics("trips 0\nslow 1\n")
    await bench.ticks(1)
    bench.metrics("trips 1\n")
    await bench.ticks(2)
    lines = await told(bench)
    assert [line.split()[1] for line in lines if line.startswith("pd")] == ["trigger", "resolve"]
