"""A storm against receivers with the published limits: everything is told, nothing is refused."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from agent.alerts.notifiers.base import Notifier, Rate
from agent.alerts.notifiers.pagerduty import PagerDutyNotifier
from agent.alerts.notifiers.slack import SlackNotifier
from agent.alerts.outbox import Outbox
from agent.alerts.outboxrows import Item
from agent.alerts.routing import Notification
from agent.alerts.sender import Sender
from agent.alerts.storm import digest_key, pick
from agent.clock import SystemClock
from agent.confignotify import PagerDuty, Slack
from agent.configrouting import Storm
from agent.state import StateDB
from agent.telemetry.metrics import NullRecorder
from agent.units import UnixTime
from tests.alerts.made import HOOK_PATH, ROUTING_KEY, notification, until
from tests.faults.receiver import FaultyReceiver

SPEED = 20.0
"""The receivers' clocks and ours run this much faster than the published limits."""


class FastClock(SystemClock):
    """A real clock, sped up, so that a minute's limit is met in a second."""

    def now(self) -> UnixTime:
        return UnixTime(1.75e9 + time.monotonic() * SPEED)

    def monotonic(self) -> Any:
        return time.monotonic() * SPEED

    async def sleep(self, duration: Any) -> None:
        await asyncio.sleep(max(0.0, duration) / SPEED)


class Limited(FaultyReceiver):
    """A token bucket by the fast clock; when it is empty, 429."""

    def __init__(self, per_second: float, burst: float) -> None:
        super().__init__()
        self.rate, self.burst = per_second, burst
        self.tokens, self.at = burst, time.monotonic() * SPEED

    def next(self) -> Any:
        now = time.monotonic() * SPEED
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1.0:
            return 429
        self.tokens -= 1.0
        return None


def pagers_limit() -> Limited:
    """120 a minute."""
    return Limited(2.0, 30.0)


def slacks_limit() -> Limited:
    """One a second, a short burst; one more, for at this speed a millisecond's jitter counts."""
    return Limited(1.0, 4.0)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.clock = FastClock()
        self.path = folder / "state.db"
        self.open()

    def open(self) -> None:
        self.db = StateDB(self.path)
        self.box = Outbox(self.db, self.clock, 10_000)
        self.senders: list[Sender] = []

    def add(self, notifier: Notifier) -> Sender:
        sender = Sender(notifier, self.box, NullRecorder(), self.clock)
        self.senders.append(sender)
        sender.start()
        return sender

    def pagerduty(
        self, receiver: FaultyReceiver, keys: list[str], rate: Rate | None = None
    ) -> Sender:
        config = PagerDuty.model_validate(
            {"url": receiver.url("/v2/enqueue"), "routing_key": {"secret": "k"}}
        )
        made = PagerDutyNotifier(config, lambda _n: keys[-1].encode(), lambda _n, _v: None)
        made.rate = rate or made.rate
        return self.add(made)

    def slack(self, receiver: FaultyReceiver) -> Sender:
        hook = receiver.url(HOOK_PATH).encode()
        config = Slack.model_validate({"webhook_url": {"secret": "s"}})
        return self.add(SlackNotifier(config, lambda _n: hook, lambda _n, _v: None))

    async def queue(self, destination: str, notes: list[Notification]) -> None:
        for note in notes:
            self.box.add(destination, note, self.clock.now())
        await self.box.flush()
        for sender in self.senders:
            sender.wake()

    async def emptied(self) -> None:
        await until("an empty outbox", lambda: not self.box.waiting(), 40.0)

    async def close(self) -> None:
        await asyncio.gather(*(sender.stop() for sender in self.senders))
        self.box.close()
        self.db.close()


def alerts(count: int, severity: str, status: str = "firing") -> list[Notification]:
    return [
        notification(
            f"key-{number}",
            status,
            severity,
            name="Tripped",
            labels={"alertname": "Tripped", "severity": severity, "breaker": f"b{number:03}"},
            annotations={"summary": f"breaker b{number:03} has tripped"},
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [60, 500])
async def test_a_storm_of_critical_alerts_is_told_whole_on_both_and_meets_no_429(
    tmp_path: Path, count: int
) -> None:
    bench = Bench(tmp_path)
    with pagers_limit() as pager, slacks_limit() as slack:
        bench.pagerduty(pager, [ROUTING_KEY])
        bench.slack(slack)
        for name in ("pagerduty", "slack"):
            await bench.queue(name, alerts(count, "critical"))
        await bench.emptied()
        assert (pager.refusals, slack.refusals) == (0, 0)
        for receiver in (pager, slack):
            said = str(receiver.accepted)
            missing = [n for n in range(count) if f"b{n:03}" not in said]
            assert missing == []
            assert len(receiver.accepted) <= 100
        ended = alerts(count, "critical", "resolved")
        await bench.queue("pagerduty", ended)
        await bench.emptied()
        assert pager.refusals == 0
        assert sorted({*pager.keys("trigger")}) == sorted({*pager.keys("resolve")})
    await bench.close()


async def test_a_storm_of_warnings_is_a_few_messages_and_so_is_its_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with slacks_limit() as slack:
        bench.slack(slack)
        await bench.queue("slack", alerts(500, "warning"))
        await bench.emptied()
        assert len(slack.accepted) == 3
        assert "498 alerts fire: Tripped ×498" in slack.accepted[2]["text"]
        await bench.queue("slack", alerts(500, "warning", "resolved"))
        await bench.emptied()
        assert len(slack.accepted) <= 8
        assert slack.refusals == 0
    await bench.close()


async def test_a_critical_alert_goes_before_the_digest_of_what_is_not(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with slacks_limit() as slack:
        for note in (*alerts(100, "warning"), notification("c", "firing", "critical")):
            bench.box.add("slack", note, bench.clock.now())
        await bench.box.flush()
        bench.slack(slack)
        await bench.emptied()
        assert "CRITICAL" in slack.accepted[0]["text"]
    await bench.close()


async def test_a_digest_that_may_have_been_received_goes_again_as_the_same_after_a_kill(
    tmp_path: Path,
) -> None:
    """Else a second incident would open, and the first would never close."""
    bench = Bench(tmp_path)
    with FaultyReceiver() as pager:
        slow = Rate(per_second=0.5, burst=1)
        pager.plan("silent")
        bench.pagerduty(pager, [ROUTING_KEY], slow)
        await bench.queue("pagerduty", alerts(30, "warning"))
        await until("the digest's attempt", lambda: pager.requests)
        joined = {item.digest for item in bench.box.waiting()}
        await bench.close()
        bench.open()
        assert {item.digest for item in bench.box.waiting()} == joined
        assert len(joined) == 1
        bench.box.add("pagerduty", notification("later", severity="warning"), bench.clock.now())
        await bench.box.flush()
        bench.pagerduty(pager, [ROUTING_KEY], slow)
        await bench.emptied()
        assert sorted(pager.keys("trigger")) == sorted([*joined, "later"])
        await bench.queue("pagerduty", alerts(29, "warning", "resolved"))
        await bench.emptied()
        assert pager.keys("resolve") == []
        await bench.queue("pagerduty", alerts(30, "warning", "resolved")[29:])
        await bench.emptied()
        assert pager.keys("resolve") == [*joined]
    await bench.close()


async def test_a_digest_that_is_refused_goes_one_by_one(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with FaultyReceiver() as slack:
        for note in alerts(5, "warning"):
            bench.box.add("slack", note, bench.clock.now())
        bench.box.join(bench.box.waiting(), "jules-digest-x")
        await bench.box.flush()
        slack.plan(400)
        bench.slack(slack)
        await bench.emptied()
        assert len(slack.accepted) == 5
    await bench.close()


NEW = "f" * 32


async def test_a_resolve_goes_by_the_routing_key_of_its_trigger_after_a_rotation(
    tmp_path: Path,
) -> None:
    bench, keys = Bench(tmp_path), [ROUTING_KEY]
    with FaultyReceiver() as pager:
        bench.pagerduty(pager, keys)
        await bench.queue("pagerduty", [notification("old")])
        await bench.emptied()
        keys.append(NEW)
        await bench.queue("pagerduty", [notification("new")])
        await bench.emptied()
        await bench.queue("pagerduty", [notification("old", repeated=True)])
        await bench.emptied()
        for key in ("old", "new"):
            await bench.queue("pagerduty", [notification(key, "resolved")])
            await bench.emptied()
        used = [(e["dedup_key"], e["event_action"], e["routing_key"]) for e in pager.accepted]
        assert used == [
            ("old", "trigger", ROUTING_KEY),
            ("new", "trigger", NEW),
            ("old", "trigger", ROUTING_KEY),
            ("old", "resolve", ROUTING_KEY),
            ("new", "resolve", NEW),
        ]
    await bench.close()
    raw = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert ROUTING_KEY.encode() not in raw
    assert NEW.encode() not in raw


async def test_a_former_key_that_is_refused_gives_way_to_the_current_one(tmp_path: Path) -> None:
    bench, keys = Bench(tmp_path), [ROUTING_KEY]
    with FaultyReceiver() as pager:
        bench.pagerduty(pager, keys)
        await bench.queue("pagerduty", [notification("k")])
        await bench.emptied()
        keys.append(NEW)
        pager.plan(400)
        await bench.queue("pagerduty", [notification("k", "resolved")])
        await bench.emptied()
        assert [e["routing_key"] for e in pager.accepted] == [ROUTING_KEY, NEW]
        assert bench.box.given_up == []
    await bench.close()


def test_what_is_waiting_for_its_group_alone_is_not_joined_with_others() -> None:
    notes = alerts(3, "warning")
    items = [
        Item(n, "slack", note, UnixTime(0.0), UnixTime(0.0), group=f"g{n // 2}")
        for n, note in enumerate(notes)
    ]
    picked = pick(items, used_up=False, storm=Storm(), together=True, keyed=False, room=2600)
    assert picked == items[:2]
    assert digest_key("slack", picked) == digest_key("slack", picked)
    assert digest_key("slack", picked) != digest_key("slack", items)
