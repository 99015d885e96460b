"""Deliveries to a receiver that misbehaves: everything arrives, in order, at the pace allowed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.alerts.errors import DeliveryError
from agent.alerts.notifiers.base import Notifier, Rate, retry_after
from agent.alerts.notifiers.pagerduty import PagerDutyNotifier
from agent.alerts.notifiers.slack import SlackNotifier
from agent.alerts.outbox import Outbox
from agent.alerts.pace import LONGEST_PAUSE, TokenBucket, pause
from agent.alerts.sender import Sender
from agent.clock import SystemClock
from agent.confignotify import PagerDuty, Slack
from agent.state import StateDB
from agent.telemetry.exporter import PrometheusRecorder
from agent.units import Monotonic, UnixTime
from tests.alerts.made import HOOK_PATH, ROUTING_KEY, notification, until
from tests.faults.receiver import FaultyReceiver

NOW = UnixTime(time.time())


class Bench:
    """An outbox and senders on the real clock; backoff is shortened by the roll of its jitter."""

    def __init__(self, folder: Path, roll: float = 0.05) -> None:
        self.clock = SystemClock()
        self.db = StateDB(folder / "state.db")
        self.box = Outbox(self.db, self.clock, 1000)
        self.recorder = PrometheusRecorder()
        self.roll = roll
        self.paced = False
        self.senders: dict[str, Sender] = {}
        self.keys = {"api_key/pagerduty": ROUTING_KEY}

    def add(self, notifier: Notifier) -> Sender:
        if not self.paced:
            notifier.rate = Rate(per_second=1000.0, burst=1000)
        sender = Sender(notifier, self.box, self.recorder, self.clock, lambda: self.roll)
        self.senders[notifier.name] = sender
        sender.start()
        return sender

    def pagerduty(self, receiver: FaultyReceiver, timeout: float = 0.3) -> Sender:
        config = PagerDuty.model_validate(
            {
                "url": receiver.url("/v2/enqueue"),
                "routing_key": {"secret": "api_key/pagerduty"},
                "timeout": timeout,
            }
        )

        def read(name: str) -> bytes:
            return self.keys[name].encode()

        return self.add(PagerDutyNotifier(config, read, lambda _name, _value: None))

    def slack(self, receiver: FaultyReceiver) -> Sender:
        hook = receiver.url(HOOK_PATH).encode()
        config = Slack.model_validate({"webhook_url": {"secret": "s"}, "timeout": 0.3})
        return self.add(SlackNotifier(config, lambda _n: hook, lambda _name, _value: None))

    async def queue(self, destination: str, *keys: str, status: str = "firing") -> None:
        for key in keys:
            self.box.add(destination, notification(key, status), UnixTime(time.time()))
        await self.box.flush()
        self.senders[destination].wake()

    async def emptied(self, destination: str) -> None:
        await until("an empty queue", lambda: not self.box.waiting(destination))


@asynccontextmanager
async def bench(folder: Path, roll: float = 0.05) -> AsyncIterator[Bench]:
    made = Bench(folder, roll)
    try:
        yield made
    finally:
        for sender in made.senders.values():
            await sender.stop()
        made.box.close()
        made.db.close()


@pytest.mark.parametrize("destination", ["pagerduty", "slack"])
@pytest.mark.parametrize(
    "fault", [429, 408, 500, 503, "hang", "drip", "reset", "half", "silent", 401, 403, 404, 302]
)
async def test_whatever_passes_is_tried_again_until_trigger_and_resolve_are_accepted(
    tmp_path: Path, destination: str, fault: int | str
) -> None:
    with FaultyReceiver() as receiver:
        receiver.plan(fault, fault)
        async with bench(tmp_path) as made:
            sender = getattr(made, destination)(receiver)
            await made.queue(destination, "k")
            await made.queue(destination, "k", status="resolved")

            def gone() -> bool:
                if fault in (401, 403, 404, 302):
                    sender.hurry()  # those are tried again each minute
                return not made.box.waiting()

            await until("an empty queue", gone)
        assert len(receiver.accepted) == 2
        assert "resolve" in str(receiver.accepted[1]).lower()
        assert receiver.refusals == 2


async def test_a_message_refused_for_good_is_told_and_does_not_hold_up_the_next(
    tmp_path: Path,
) -> None:
    with FaultyReceiver() as receiver:
        receiver.plan(400)
        async with bench(tmp_path) as made:
            sender = made.pagerduty(receiver)
            await made.queue("pagerduty", "bad", "good")
            await made.emptied("pagerduty")
            assert receiver.keys("trigger") == ["good"]
            assert [entry[1:3] for entry in made.box.given_up] == [("pagerduty", "undeliverable")]
            assert sender.delivery.failures == 0
            text = made.recorder.text().decode()
    name = 'jules_agent_notifications_total{destination="pagerduty",outcome="undeliverable"}'
    assert f"{name} 1.0" in text


async def test_one_message_that_the_receiver_chokes_on_does_not_hold_up_the_others(
    tmp_path: Path,
) -> None:
    with FaultyReceiver() as receiver:
        receiver.plan(500)
        async with bench(tmp_path) as made:
            made.pagerduty(receiver)
            await made.queue("pagerduty", "first", "second", "third")
            await made.emptied("pagerduty")
            assert receiver.keys("trigger") == ["second", "third", "first"]


async def test_a_resolve_never_overtakes_its_trigger(tmp_path: Path) -> None:
    with FaultyReceiver() as receiver:
        receiver.plan(503, 503)
        async with bench(tmp_path) as made:
            made.pagerduty(receiver)
            await made.queue("pagerduty", "k")
            await made.queue("pagerduty", "k", status="resolved")
            await made.emptied("pagerduty")
    assert [event["event_action"] for event in receiver.accepted] == ["trigger", "resolve"]


async def test_retry_after_is_waited_for_by_the_whole_destination(tmp_path: Path) -> None:
    with FaultyReceiver() as receiver:
        receiver.retry_after = "1"
        receiver.plan(429)
        async with bench(tmp_path, roll=0.0) as made:
            made.pagerduty(receiver)
            await made.queue("pagerduty", "a", "b", "c")
            await made.emptied("pagerduty")
        times = [at for at, _, _ in receiver.requests]
    assert len(times) == 4  # one refusal told it all
    assert times[1] - times[0] >= 0.99


async def test_a_destination_that_hangs_does_not_delay_another(tmp_path: Path) -> None:
    with FaultyReceiver() as hanging, FaultyReceiver() as sound:
        hanging.always = "hang"
        async with bench(tmp_path) as made:
            made.pagerduty(hanging, timeout=20.0)
            made.slack(sound)
            await made.queue("pagerduty", "k")
            await until("the hanging attempt", lambda: hanging.requests)
            await made.queue("slack", "k")
            await made.emptied("slack")
            assert made.box.waiting("pagerduty")
            hanging.released.set()


async def test_a_rotated_key_heals_a_refusal(tmp_path: Path) -> None:
    """The credential is read at every try."""
    with FaultyReceiver() as receiver:
        receiver.plan(403)
        async with bench(tmp_path) as made:
            sender = made.pagerduty(receiver)
            await made.queue("pagerduty", "k")
            await until("the refusal", lambda: sender.delivery.failures)
            assert "credential" in (sender.delivery.last_error or "")
            made.keys["api_key/pagerduty"] = "f" * 32
            sender.hurry()
            await made.emptied("pagerduty")
        assert [event["routing_key"] for event in receiver.accepted] == ["f" * 32]


async def test_a_storm_is_sent_at_the_pace_the_service_allows_critical_first(
    tmp_path: Path,
) -> None:
    with FaultyReceiver() as receiver:
        async with bench(tmp_path) as made:
            made.paced = True
            sender = made.slack(receiver)
            for number in range(4):
                made.box.add("slack", notification(f"w{number}", severity="warning"), NOW)
            made.box.add("slack", notification("c"), NOW)
            await made.box.flush()
            sender.wake()
            await made.emptied("slack")
        texts = [event["text"] for event in receiver.accepted]
        times = [at for at, _, _ in receiver.requests]
    assert "CRITICAL" in texts[0]
    assert times[4] - times[0] >= 1.9  # three at once, then 0.95 a second


async def test_what_is_on_its_way_when_the_agent_stops_is_still_in_the_outbox(
    tmp_path: Path,
) -> None:
    with FaultyReceiver() as receiver:
        receiver.plan("hang")
        async with bench(tmp_path) as made:
            made.pagerduty(receiver, timeout=0.5)
            await made.queue("pagerduty", "k")
            await until("the attempt", lambda: receiver.requests)
            await made.senders["pagerduty"].stop()
            assert len(made.box.waiting("pagerduty")) == 1
            made.senders.clear()
            made.pagerduty(receiver)
            await made.emptied("pagerduty")
        assert receiver.keys("trigger") == ["k"]


# -- the pace itself ------------------------------------------------------------------------------


def test_the_bucket_never_allows_more_than_its_burst_and_rate_in_any_minute() -> None:
    rate, burst = PagerDutyNotifier.rate.per_second, PagerDutyNotifier.rate.burst
    bucket = TokenBucket(rate, burst, Monotonic(0.0))
    sent: list[float] = []
    now = 0.0
    while now < 300.0:
        wait = bucket.wait(Monotonic(now))
        if wait > 0:
            now += wait
            continue
        bucket.take(Monotonic(now))
        sent.append(now)
    for start in sent:
        assert sum(start <= at < start + 60.0 for at in sent) <= 111  # PagerDuty takes 120


def test_backoff_doubles_up_to_a_minute_with_full_jitter() -> None:
    error = DeliveryError("down")
    assert [pause(error, n, lambda: 1.0) for n in range(1, 9)] == [
        float(s) for s in (1, 2, 4, 8, 16, 32, 60, 60)
    ]
    assert pause(error, 10_000, lambda: 1.0) == LONGEST_PAUSE
    assert pause(error, 8, lambda: 0.5) == 30.0
    assert pause(error, 1, lambda: 0.0) > 0


def test_what_the_receiver_asked_for_is_a_lower_bound() -> None:
    error = DeliveryError("slow down", retry_after=30.0)
    assert [pause(error, 1, lambda: roll) for roll in (0.0, 0.5)] == [30.0, 30.5]  # noqa: B023


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("999999999999", 3600.0),
        ("Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("", None),
        ("٣", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(told: str, seconds: float | None) -> None:
    now = UnixTime(784111777.0)  # 08:49:37
    assert retry_after({"retry-after": told}, now) == seconds
