"""Alerts as a real Alertmanager takes them: accepted, grouped, kept alive, resolved."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.alerts.errors import DeliveryError
from agent.alerts.notifiers.alertmanager import AlertmanagerNotifier, postable
from agent.confignotify import Alertmanager
from agent.units import Seconds, UnixTime
from tests.alerts.made import notification
from tests.demo.programs import until
from tests.faults.receiver import FaultyReceiver

BINARY = shutil.which("prometheus-alertmanager")
needs_it = pytest.mark.skipif(not BINARY, reason="apt-get install prometheus-alertmanager")


def notifier(url: str, token: str = "", **more: Any) -> AlertmanagerNotifier:
    tree: dict[str, Any] = {"url": url, "timeout": "2s", **more}
    if token:
        tree["bearer_token"] = {"secret": "t"}
    config = Alertmanager.model_validate(tree)
    return AlertmanagerNotifier(config, lambda _n: token.encode(), lambda _n, _v: None)


def now() -> UnixTime:
    return UnixTime(time.time())


def fresh(key: str, status: str = "firing", **labels: str) -> Any:
    at = now()
    told = {"alertname": "Tripped", "severity": "critical", **labels}
    ended = at if status == "resolved" else None
    return notification(
        key, status, labels=told, active_at=at - 5, fired_at=at - 5, resolved_at=ended
    )


class Real:
    """A running Alertmanager that tells a receiver of this process."""

    def __init__(self, url: str, sink: FaultyReceiver) -> None:
        self.url, self.sink = url, sink

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=5) as answer:
            return json.loads(answer.read())

    def alerts(self) -> list[dict[str, Any]]:
        return list(self.get("/api/v2/alerts"))

    def calls(self) -> list[dict[str, Any]]:
        return [body for body in self.sink.accepted if "groupKey" in body]


@contextmanager
def running(folder: Path, grouped_by: str = "alertname") -> Iterator[Real]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with FaultyReceiver() as sink:
        config = folder / "am.yml"
        config.write_text(
            f"route: {{receiver: hook, group_by: [{grouped_by}], group_wait: 100ms,"
            " group_interval: 300ms, repeat_interval: 1h}\n"
            "receivers: [{name: hook, webhook_configs: [{send_resolved: true,"
            f" url: '{sink.url('/hook')}'}}]}}]\n"
        )
        assert BINARY is not None
        command = [
            BINARY,
            f"--config.file={config}",
            f"--storage.path={folder / 'am'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ]
        with (folder / "am.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            made = Real(f"http://127.0.0.1:{port}", sink)
            until("Alertmanager", lambda: _answers(made), 30.0)
            yield made
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(made: Real) -> bool:
    try:
        return bool(made.get("/api/v2/status"))
    except OSError:
        return False


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Real]:
    with running(tmp_path) as made:
        yield made


@needs_it
def test_it_accepts_what_fires_tells_its_receiver_in_one_group_and_ends_it_on_the_resolve(
    real: Real,
) -> None:
    sent = notifier(real.url)
    sent.send(fresh("a", desk="fx"), now())
    sent.send(fresh("b", desk="rates"), now())
    until("two alerts there", lambda: len(real.alerts()) == 2)
    until("one group of both", lambda: any(len(c["alerts"]) == 2 for c in real.calls()))
    sent.send(fresh("a", "resolved", desk="fx"), now())
    sent.send(fresh("b", "resolved", desk="rates"), now())
    until("the resolve", lambda: real.calls()[-1]["status"] == "resolved")
    assert real.alerts() == []
    sent.close()


@needs_it
def test_the_same_alert_from_a_central_prometheus_is_one_alert_there(real: Real) -> None:
    sent = notifier(real.url)
    told = fresh("a", desk="fx")
    sent.send(told, now())
    central = postable(told, now(), Seconds(60.0), "http://prometheus/graph")
    central["annotations"] = {"summary": "as the central one words it"}
    request = urllib.request.Request(
        f"{real.url}/api/v2/alerts",
        json.dumps([central]).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert answer.status == 200
    (one,) = real.alerts()
    assert one["labels"] == dict(told.labels)
    sent.close()


@needs_it
def test_what_is_told_again_outlives_its_end_and_what_is_not_ends_by_itself(real: Real) -> None:
    sent = notifier(real.url, resend="500ms")  # ends by itself after 2 s
    began = time.monotonic()
    sent.send(fresh("kept", desk="fx"), now())
    sent.send(fresh("ended", "resolved", desk="rates"), now())

    def again() -> bool:
        assert sent.resend(now()) == 1
        return time.monotonic() - began > 4.0

    until("twice its end", again)
    assert [alert["labels"]["desk"] for alert in real.alerts()] == ["fx"]
    until("its end without a word", lambda: real.alerts() == [])
    sent.close()


def test_a_resolve_takes_an_alert_off_what_is_told_again_and_a_restart_adopts_what_stands() -> None:
    with FaultyReceiver() as receiver:
        posted: list[Any] = []
        receiver.answer = lambda handler: handler.reply(200, b"")
        sent = notifier(receiver.url(""))
        sent._post = lambda ns, _now: posted.append([n.dedup_key for n in ns])  # type: ignore[method-assign,assignment]
        sent.adopt([fresh("old")])
        sent.send(fresh("new"), now())
        sent.send(fresh("old", "resolved"), now())
        assert sent.resend(now()) == 1
        assert posted == [["new"], ["old"], ["new"]]
        sent.close()


def test_a_refused_alert_is_not_told_again_behind_the_outbox_s_back() -> None:
    with FaultyReceiver() as receiver:
        receiver.plan(400)
        sent = notifier(receiver.url(""))
        with pytest.raises(DeliveryError) as caught:
            sent.send(fresh("a"), now())
        assert caught.value.permanent
        assert sent.resend(now()) == 0
        sent.close()


def test_a_token_goes_along_and_never_in_the_clear() -> None:
    with FaultyReceiver() as receiver:
        receiver.answer = lambda handler: handler.reply(200, b"")
        sent = notifier(receiver.url("/am/"), "token-of-the-fleet")
        sent.send(fresh("a"), now())
        ((_, path, headers),) = receiver.requests
        assert path == "/am/api/v2/alerts"
        assert headers["Authorization"] == "Bearer token-of-the-fleet"
        sent.close()
    away = notifier("http://alertmanager.example", "token-of-the-fleet")
    with pytest.raises(DeliveryError, match="not https"):
        away.send(fresh("a"), now())


def test_labels_are_the_alert_s_own_and_an_alert_never_ends_before_it_began() -> None:
    told = notification("k", "resolved", labels={"alertname": "A", "empty": "", "desk": "fx"})
    built = postable(told, UnixTime(told.fired_at - 100), Seconds(60.0), None)
    assert built["labels"] == {"alertname": "A", "desk": "fx"}
    assert built["annotations"]["bundle"] == "v2025-07-08"
    assert built["endsAt"] > built["startsAt"]
    assert "generatorURL" not in built
