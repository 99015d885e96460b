"""The steps of the story, in order: each makes one thing happen, waits until it has, and tells.

A step returns `Told`; it raises `NotHappenedError` or `CommandError` when its thing did not happen
in time. Times that are told come from the clocks of those who acted (the agent's history, the
receiver's `received_at`), not from when the story happened to look.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent.demo.narrator import Narrator, took
from agent.demo.stage import Stage, free_port, post
from agent.demo.values import PUBLISHED, database, secret_values
from agent.demo.watch import NotHappenedError, Watch, link, steps_text, until, weight

BUNDLES = Path(__file__).parent / "bundles"
GOOD, SLOW, DAMAGED = "v2025-07-06", "v2025-07-08", "v2025-07-09"
CHANNEL = "development"
LATENCY, BREAKER = "CriticalLatencyP99High", "CriticalCircuitBreakerTripped"
HOLD = 30.0
"""The latency rule's `for`, in seconds."""


@dataclass(frozen=True, slots=True)
class Told:
    """What happened, how long it took (None: nothing to measure), where to see it."""

    text: str
    seconds: float | None = None
    look: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its name, as `--once` reports it, and how it is played."""

    name: str
    play: Callable[[], Told]


class Story:
    """What the steps share. `port` is the status page's."""

    def __init__(self, stage: Stage, narrator: Narrator, port: int) -> None:
        self.stage = stage
        self._tell = narrator
        ports = (port or free_port(), free_port(), free_port())
        agent, trader, receiver = (f"http://127.0.0.1:{number}" for number in ports)
        self._listen = [f"127.0.0.1:{number}" for number in ports]
        self.watch = Watch(agent, trader, receiver)
        self._published_at = self._flipped_at = 0.0
        self._active_at = self._rolled_back_at = 0.0
        self._weighed = (0.0, 0.0)

    def steps(self) -> list[Step]:
        """Every step, in the order in which they are played."""
        return [
            Step("secrets stored", self.store_secrets),
            Step("v1 published", self.publish_good),
            Step("init", self.init),
            Step("trader up", self.trader_up),
            Step("v1 live", self.agent_up),
            Step("secret rotated", self.rotate),
            Step("v2 published", self.publish_slow),
            Step("v2 live", self.slow_live),
            Step("bake", self.bake),
            Step("latency pending", self.pending),
            Step("latency page", self.page),
            Step("rolled back", self.rolled_back),
            Step("damaged v3 refused", self.damaged),
            Step("breaker page", self.breaker),
            Step("latency resolved", self.resolved),
            Step("weight", self.weigh),
        ]

    # -- getting ready ----------------------------------------------------------------------

    def store_secrets(self) -> Told:
        """The agent's configuration, a key file, and five secrets in the encrypted local store."""
        began = time.monotonic()
        stage = self.stage
        stage.config.write_text(yaml.safe_dump(self._config(), sort_keys=False))
        stage.command("secrets", "new-key", str(stage.work / "store.key"))
        for name, kind, value in secret_values(self.watch.receiver):
            self._put(name, kind, value)
        text = "5 encrypted by `jules-agent secrets put` (AES-256-GCM), key file mode 0600"
        return Told(text, time.monotonic() - began, str(stage.work / "secrets.enc"))

    def _put(self, name: str, kind: str, value: dict[str, Any]) -> None:
        raw = json.dumps(value).encode()
        named = ("--type", kind, "--config", str(self.stage.config))
        self.stage.command("secrets", "put", name, *named, value=raw)

    def _config(self) -> dict[str, Any]:
        stage, watch = self.stage, self.watch
        return {
            "environment": CHANNEL,
            "grace_period": "5s",
            "log": {"format": "json"},
            "web": {"listen": self._listen[0], "admin_socket": str(stage.memory / "admin.sock")},
            "secrets": {
                "directory": str(stage.secrets),
                "allow_disk": not stage.in_memory,
                "items": [{"name": name} for name in PUBLISHED],
                "local": {
                    "path": str(stage.work / "secrets.enc"),
                    "key_file": str(stage.work / "store.key"),
                },
                "check_interval": "250ms",
            },
            "bundles": {
                "root": str(stage.models),
                "store": {"path": str(stage.store), "poll": "5s"},
                "health": {"url": f"{watch.trader}/health"},
                "bake": {"duration": "3m"},
            },
            "alerts": {
                "targets": [{"job": "trader", "url": f"{watch.trader}/metrics"}],
                "pagerduty": {
                    "url": f"{watch.receiver}/v2/enqueue",
                    "routing_key": {"secret": "api_key/pagerduty", "field": "routing_key"},
                },
                "slack": {"webhook_url": {"secret": "api_key/slack", "field": "webhook_url"}},
            },
        }

    def publish_good(self) -> Told:
        began = time.monotonic()
        self._publish(BUNDLES / GOOD, GOOD, CHANNEL)
        text = f"{GOOD} into a folder store, channel {CHANNEL}, manifest with sha256 digests"
        return Told(text, time.monotonic() - began, str(self.stage.store))

    def _publish(self, source: Path, version: str, channel: str) -> None:
        to = ("--store", str(self.stage.store), "--version", version, "--channel", channel)
        self.stage.command("bundle", "publish", str(source), *to)

    def init(self) -> Told:
        """What the init container does, as its own process."""
        began = time.monotonic()
        self.stage.command("init", "--config", str(self.stage.config))
        seconds = time.monotonic() - began
        if link(self.stage.models / "current") != GOOD:
            raise NotHappenedError(f"current is not {GOOD} after init")
        for name in PUBLISHED:
            if not (self.stage.secrets / f"{name}.json").is_file():
                raise NotHappenedError(f"{name} was not published")
        text = f"the trader's 3 secrets published, {GOOD} verified and current; whole process"
        return Told(text, seconds, f"ls -l {self.stage.secrets} {self.stage.models}")

    def trader_up(self) -> Told:
        began = time.monotonic()
        self.stage.start("receiver", "agent.demo.receiver", "--listen", self._listen[2])
        folders = ("--secrets", str(self.stage.secrets), "--models", str(self.stage.models))
        trader = ("agent.demo.trader", *folders, "--listen", self._listen[1], "--demo-controls")
        self.stage.start("trader", *trader)
        self._await_trader(GOOD, 20.0)
        text = f"reads its secrets from the tmpfs and trades with {GOOD}"
        return Told(text, time.monotonic() - began, f"{self.watch.trader}/health and /metrics")

    def _await_trader(self, version: str, within: float) -> None:
        def runs() -> bool | None:
            health = self.watch.health()
            good = health.get("status") == "healthy" and health.get("model_version") == version
            return True if good else None

        until(self.stage, within, f"the trader to be healthy with {version}", runs)

    def agent_up(self) -> Told:
        began = time.monotonic()
        self.stage.start("agent", "agent", "run", "--config", str(self.stage.config))

        def ready() -> dict[str, Any] | None:
            seen = self.watch.status()
            targets = (seen.get("alerts") or {}).get("targets", [])
            scraped = bool(targets) and all(target["up"] for target in targets)
            return seen if seen.get("ready") and scraped else None

        seen = until(self.stage, 20.0, "the agent to be ready and to scrape", ready, 0.02)
        seconds = time.monotonic() - began
        self._weighed = (time.monotonic(), weight(self.stage.pid("agent"))[1])
        alerts = seen["alerts"]
        text = f"agent ready: {alerts['rules']} rules over {alerts['series']} series, scraped 1/s"
        return Told(text, seconds, self.watch.agent)

    # -- a rotation -------------------------------------------------------------------------

    def rotate(self) -> Told:
        """A new password in the store is a new generation in the tmpfs."""
        data = self.stage.secrets / "..data"
        before = link(data)
        old = self._published("database/main.json")
        self._put("database/main", "database_password", database())
        stored_at = (self.stage.work / "secrets.enc").stat().st_mtime

        def flipped() -> str | None:
            return link(data) if link(data) != before else None

        after = until(self.stage, 15.0, "a new generation of secrets", flipped, 0.005)
        seconds = os.lstat(data).st_mtime - stored_at
        if self._published("database/main.json") == old:
            raise NotHappenedError("the new generation holds the old password")

        def noticed() -> bool | None:
            return True if self.watch.health().get("secrets_generation") == after else None

        until(self.stage, 10.0, "the trader to see the new generation", noticed)
        text = f"database/main: {before} -> {after}, one rename for the whole set"
        return Told(text, seconds, f"readlink {data}")

    def _published(self, name: str) -> bytes:
        return (self.stage.secrets / "..data" / name).read_bytes()

    # -- a release that is too slow ----------------------------------------------------------

    def publish_slow(self) -> Told:
        began = time.monotonic()
        self._publish(BUNDLES / SLOW, SLOW, CHANNEL)
        seconds = time.monotonic() - began
        channel = self.stage.store / "channels" / f"{CHANNEL}.json"
        self._published_at = channel.stat().st_mtime
        text = f"{SLOW}: sound files, a wider policy, risk over 240 bars"
        return Told(text, seconds, str(channel))

    def slow_live(self) -> Told:
        def flipped() -> dict[str, Any] | None:
            if link(self.stage.models / "current") != SLOW:
                return None
            return self.watch.rollout(SLOW, "DEPLOYING", "ACTIVE", "ROLLED_BACK")

        rollout = until(self.stage, 30.0, f"current to be {SLOW}", flipped, 0.02)
        self._flipped_at = os.lstat(self.stage.models / "current").st_mtime
        self._await_trader(SLOW, 15.0)
        rollout = self.watch.rollout(SLOW, "DEPLOYING", "ACTIVE", "ROLLED_BACK") or rollout
        text = f"published to flipped; its steps: {steps_text(rollout)}"
        return Told(text, self._flipped_at - self._published_at, f"{self.watch.agent} (Bundles)")

    def bake(self) -> Told:
        def baking() -> dict[str, Any] | None:
            rollout = (self.watch.status().get("bundles") or {}).get("rollout") or {}
            return rollout.get("bake")

        bake = until(self.stage, 20.0, f"{SLOW} to bake", baking)
        gates = ", ".join(gate["name"] for gate in bake["gates"])
        left = bake["ends_at"] - time.time()
        return Told(f"watched for {left:.0f} s by the gates: {gates}", None, self.watch.agent)

    def pending(self) -> Told:
        """The trader's simulated latency follows the bundle: p99 rises as the window fills."""
        self._tell.waiting("the trader fills v2's long window; its simulated p99 climbs")

        def holds() -> dict[str, Any] | None:
            return self.watch.alert(LATENCY)

        alert = until(self.stage, 45.0, f"{LATENCY} to be pending", holds)
        self._active_at = float(alert["active_at"])
        text = f"{LATENCY}: p99 {alert['value'] * 1e6:.1f} µs > 25 µs, since the flip"
        return Told(text, self._active_at - self._flipped_at, f"{self.watch.agent} (Alerts)")

    def page(self) -> Told:
        self._tell.waiting(f"the rule must hold for {HOLD:.0f} s before anyone is woken")

        def paged() -> dict[str, Any] | None:
            return self.watch.page(LATENCY, "trigger", self._active_at)

        event = until(self.stage, HOLD + 20.0, f"a page for {LATENCY}", paged)
        named = SLOW in json.dumps(event["body"])
        text = "PagerDuty's stand-in has it" + (f"; it names {SLOW}" if named else "")
        late = float(event["received_at"]) - self._active_at - HOLD
        return Told(f"{text}; after the rule held", late, self.watch.receiver)

    def rolled_back(self) -> Told:
        def ended() -> dict[str, Any] | None:
            return self.watch.rollout(SLOW, "ROLLED_BACK")

        rollout = until(self.stage, 20.0, f"{SLOW} to be rolled back", ended)
        if link(self.stage.models / "current") != GOOD:
            raise NotHappenedError(f"current is not {GOOD} after the rollback")
        self._rolled_back_at = os.lstat(self.stage.models / "current").st_mtime
        self._await_trader(GOOD, 15.0)
        seconds = self._rolled_back_at - self._active_at - HOLD
        text = f"current is {GOOD} again ({rollout['reason']}); after the rule held"
        return Told(text, seconds, f"jules-agent bundle history --config {self.stage.config}")

    # -- while the latency window drains ------------------------------------------------------

    def damaged(self) -> Told:
        """A third version whose bytes changed between its publisher and here. Its policy.pt is v2's
        byte for byte: the agent would link the good one it has and never read the store's."""
        source = self.stage.work / "v3"
        shutil.copytree(BUNDLES / SLOW, source)
        metadata = json.loads((source / "metadata.json").read_bytes())
        (source / "metadata.json").write_text(json.dumps({**metadata, "version": DAMAGED}))
        self._publish(source, DAMAGED, "parked")
        stored = self.stage.store / "bundles" / DAMAGED / "metadata.json"
        stored.chmod(0o600)
        data = bytearray(stored.read_bytes())
        data[len(data) // 2] ^= 0xFF
        stored.write_bytes(data)
        channels = self.stage.store / "channels"
        began = time.time()
        os.replace(channels / "parked.json", channels / f"{CHANNEL}.json")

        def refused() -> dict[str, Any] | None:
            return self.watch.rollout(DAMAGED, "FAILED")

        rollout = until(self.stage, 30.0, f"{DAMAGED} to be refused", refused)
        if link(self.stage.models / "current") != GOOD:
            raise NotHappenedError(f"current moved to {link(self.stage.models / 'current')}")
        seconds = float(rollout["ended_at"]) - began
        text = f"one byte flipped in the store: {rollout['reason']}; current stays {GOOD}"
        return Told(text, seconds, f"{self.watch.agent} (Bundles)")

    def breaker(self) -> Told:
        """The counter is born at 1: `increase()` alone would never see it."""
        tripped = post(f"{self.watch.trader}/control/trip-breaker")["at"]

        def paged() -> dict[str, Any] | None:
            return self.watch.page(BREAKER, "trigger", tripped)

        event = until(self.stage, 15.0, f"a page for {BREAKER}", paged, 0.05)
        text = "circuit breaker tripped once, its counter born at 1: paged; trip to receipt"
        return Told(text, float(event["received_at"]) - tripped, self.watch.receiver)

    def resolved(self) -> Told:
        self._tell.waiting("the slow minute must leave the rule's window of [1m]")

        def received() -> dict[str, Any] | None:
            return self.watch.page(LATENCY, "resolve", self._active_at)

        event = until(self.stage, 90.0, f"a resolve for {LATENCY}", received)
        seconds = float(event["received_at"]) - self._rolled_back_at
        return Told(f"{LATENCY} resolved, after the rollback", seconds, self.watch.receiver)

    def weigh(self) -> Told:
        began, used = self._weighed
        resident, cpu = weight(self.stage.pid("agent"))
        share = (cpu - used) / (time.monotonic() - began) * 100
        counts = ", ".join(f"{n} to {service}" for service, n in self.watch.received().items())
        text = f"the agent: {resident:.0f} MiB resident, {share:.1f} % of a core; {counts}"
        return Told(f"{text}; over {took(time.monotonic() - began)}")
