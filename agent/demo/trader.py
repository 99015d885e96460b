"""The demo's trading process: reads its secrets and its model as a real one would, and trades.

    python -m agent.demo.trader --secrets DIR --models ROOT --listen 127.0.0.1:9912

A program of its own: standard library, prometheus_client, PyYAML (for a bundle's config.yaml) and
`agent.reader`. It opens the secrets' `..data` once by descriptor, loads the bundle that `current`
names, loads again within a quarter of a second of a flip, and serves `/health` and `/metrics`.

What is real: the secrets, the bundle's weights, one forward pass of the policy and the value
function an order, the position, and the VaR over the last `var_lookback` made-up returns. What is
simulated, and labelled so wherever it is told: the market, and the recorded latencies. Python on a
shared machine cannot show microseconds, so each is drawn from a seeded log-normal whose 99th
percentile follows the bundle: its number of parameters and how much of its lookback is filled. A
longer lookback therefore gets slower over the first seconds after a load, as its window fills.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import threading
import time
from collections import deque
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from agent import reader
from agent.demo.httpd import Handler, Server, parse_listen, serve
from agent.demo.model import Model, ModelError, load

ORDERS_PER_SECOND = 60.0
WATCH_EVERY = 0.25
BARS_PER_SECOND = 40.0
SIGMA = 0.25
_Z99 = 2.3263478740408408
_BUCKETS = (5e-6, 1e-5, 1.5e-5, 2e-5, 2.5e-5, 3e-5, 4e-5, 5e-5, 7.5e-5, 1e-4, 2.5e-4, 1e-3)
_FILES = (
    "policy.pt",
    "value_function.pt",
    "feature_scaler.pkl",
    "config.yaml",
    "metadata.json",
)
_DATABASE_FIELDS = ("username", "password", "host", "port", "database")


def p99_latency(parameters: int, filled: float) -> float:
    """The simulated 99th percentile of risk enforcement, in seconds: 7 µs, and 1.2 ns a parameter,
    and 110 ns a bar of lookback that is filled."""
    return (7.0 + 0.0012 * parameters + 0.11 * filled) * 1e-6


class Metrics:
    """The system's own metric names. Labelled children are born at their first event, as the
    system does it: a rule must page for a counter that is born at 1."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self.enforcement = Histogram(
            "risk_enforcement_duration_seconds",
            "Time to enforce the risk limits on one order (simulated).",
            buckets=_BUCKETS,
            registry=registry,
        )
        self.var_calculation = Histogram(
            "var_calculation_duration_seconds",
            "Time to calculate the value at risk (simulated).",
            buckets=_BUCKETS,
            registry=registry,
        )
        self.audit_errors = Counter(
            "audit_log_write_errors_total", "Failed audit log writes.", registry=registry
        )
        self.trips = Counter(
            "circuit_breaker_trips_total",
            "Circuit breaker trips.",
            ["breaker_name"],
            registry=registry,
        )
        self.breaches = Counter(
            "risk_limit_breach_total", "Risk limit breaches.", ["limit_type"], registry=registry
        )
        self.var = Gauge("var_current_value", "Value at risk, in currency.", registry=registry)
        self.trades = Counter("trades_executed_total", "Trades executed.", registry=registry)
        self.reloads = Counter(
            "config_reload_success_total", "Model loads that worked.", registry=registry
        )
        self.reload_failures = Counter(
            "config_reload_failures_total", "Model loads that failed.", registry=registry
        )
        self.position = Gauge("position_current_units", "Units held now.", registry=registry)
        self.started = Counter("system_startup_total", "Starts.", registry=registry)
        self.started.inc()


@dataclass(frozen=True, slots=True)
class SecretsSeen:
    """What one look at the secrets directory found; no value."""

    database: bool
    generation: str | None


def look_at_secrets(directory: Path) -> SecretsSeen:
    """Open `..data` once, read the database secret below that descriptor, check its fields."""
    link = directory / "..data"
    try:
        generation = os.readlink(link)
        data = os.open(link, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return SecretsSeen(database=False, generation=None)
    try:
        fd = os.open("database/main.json", os.O_RDONLY | os.O_CLOEXEC, dir_fd=data)
        with open(fd, "rb") as file:
            tree = json.loads(file.read())
    except (OSError, ValueError):
        return SecretsSeen(database=False, generation=generation)
    finally:
        os.close(data)
    good = isinstance(tree, dict) and all(tree.get(field) for field in _DATABASE_FIELDS)
    return SecretsSeen(database=good, generation=generation)


class Trader:
    """The trading loop and what it has loaded. One thread runs it; others only read."""

    def __init__(self, secrets: Path, models: Path, seed: int = 7) -> None:
        self.metrics = Metrics()
        self.model: Model | None = None
        self.error: str | None = None
        self._secrets = secrets
        self._models = models
        self._random = random.Random(seed)
        self._seen_link: str | None = None
        self._loaded_at = 0.0
        self._ticked = time.monotonic()
        self._returns: deque[float] = deque(maxlen=1)
        self._position = 0

    def run(self, stop: threading.Event) -> None:
        """Trade until `stop`: orders at a steady pace, VaR once a second, a look at `current`."""
        next_watch = next_var = time.monotonic()
        while not stop.is_set():
            now = time.monotonic()
            if now >= next_watch:
                self.watch()
                next_watch = now + WATCH_EVERY
            if self.model is not None:
                self._order(self.model, now)
                if now >= next_var:
                    self._value_at_risk(self.model)
                    next_var = now + 1.0
            self._ticked = time.monotonic()
            stop.wait(1.0 / ORDERS_PER_SECOND)

    def watch(self) -> None:
        """Load the bundle that `current` names, when it names another than the one loaded. A
        bundle that cannot be loaded leaves the old one trading."""
        try:
            link = os.readlink(self._models / "current")
        except OSError:
            return
        if link == self._seen_link:
            return
        try:
            with reader.open_bundle(self._models) as bundle:
                model = load({name: bundle.read(name) for name in _FILES})
        except (OSError, ModelError) as error:
            if str(error) != self.error:
                self.metrics.reload_failures.inc()
            self.error = str(error)
            return
        self._seen_link, self.error = link, None
        self._returns = deque(maxlen=model.lookback)
        self._loaded_at = time.monotonic()
        self.model = model
        self.metrics.reloads.inc()

    def _order(self, model: Model, now: float) -> None:
        observation = [
            self._random.gauss(mean, scale)
            for mean, scale in zip(model.mean, model.scale, strict=True)
        ]
        action, _worth = model.decide(observation)
        wanted = self._position + (action - 2) * 10
        limited = max(-model.max_position, min(model.max_position, wanted))
        if limited != self._position:
            self.metrics.trades.inc()
            self._position = limited
            self.metrics.position.set(limited)
        self._returns.append(observation[0])
        filled = min(model.lookback, (now - self._loaded_at) * BARS_PER_SECOND)
        p99 = p99_latency(model.parameters, filled)
        self.metrics.enforcement.observe(self._drawn(p99))
        self.metrics.var_calculation.observe(self._drawn(0.6 * p99))

    def _drawn(self, p99: float) -> float:
        return exp(self._random.gauss(log(p99) - _Z99 * SIGMA, SIGMA))

    def _value_at_risk(self, model: Model) -> None:
        """Historical VaR of a position of 1,000,000 over the returns in the window."""
        losses = sorted(-value for value in self._returns)
        if losses:
            worst = losses[min(len(losses) - 1, int(len(losses) * model.var_confidence))]
            self.metrics.var.set(max(0.0, worst) * 1e6)

    def health(self) -> dict[str, Any]:
        """The system's health indicators."""
        secrets = look_at_secrets(self._secrets)
        model = self.model
        told: dict[str, Any] = {
            "model_loaded": model is not None,
            "risk_system_active": model is not None and time.monotonic() - self._ticked < 2.0,
            "database_connected": secrets.database,
        }
        good = all(told.values())
        told["model_version"] = model.version if model else None
        told["secrets_generation"] = secrets.generation
        told["error"] = self.error
        told["status"] = "healthy" if good else "unhealthy"
        return told


class TraderHandler(Handler):
    """Routes of the trading process."""

    trader: Trader
    controls: bool

    def do_GET(self) -> None:  # noqa: N802 - the base names it so
        url = urlsplit(self.path)
        if url.path == "/metrics":
            self._metrics(parse_qs(url.query).get("name[]", []))
        elif url.path == "/health":
            told = self.trader.health()
            self.answer_json(200 if told["status"] == "healthy" else 503, told)
        else:
            self.answer(404, b"not found\n")

    def _metrics(self, names: list[str]) -> None:
        encode, kind = choose_encoder(self.headers.get("Accept", ""))
        registry = self.trader.metrics.registry
        chosen = registry.restricted_registry(names) if names else registry
        self.answer(200, encode(chosen), kind)

    def do_POST(self) -> None:  # noqa: N802 - the base names it so
        """The story's levers; only with --demo-controls, which refuses any listener that another
        machine could reach."""
        metrics = self.trader.metrics
        if self.controls and self.path == "/control/trip-breaker":
            metrics.trips.labels(breaker_name="daily_loss").inc()
        elif self.controls and self.path == "/control/audit-error":
            metrics.audit_errors.inc()
        elif self.controls and self.path == "/control/breach-limit":
            metrics.breaches.labels(limit_type="var").inc()
        else:
            self.close_connection = True
            self.answer(404, b"not found\n")
            return
        if self.body() is not None:
            self.answer_json(200, {"done": True, "at": time.time()})


def main(argv: list[str] | None = None) -> int:
    """Trade until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m agent.demo.trader")
    parser.add_argument("--secrets", type=Path, required=True, metavar="DIR")
    parser.add_argument("--models", type=Path, required=True, metavar="ROOT")
    parser.add_argument("--listen", default="127.0.0.1:9912", metavar="HOST:PORT")
    parser.add_argument(
        "--demo-controls",
        action="store_true",
        help="serve POST /control/…, by which a story makes things go wrong; loopback only",
    )
    arguments = parser.parse_args(argv)
    host, port = parse_listen(arguments.listen)
    if arguments.demo_controls and host not in ("127.0.0.1", "localhost"):
        parser.error("--demo-controls needs a listener on 127.0.0.1")
    trader = Trader(arguments.secrets, arguments.models)
    bound = {"trader": trader, "controls": arguments.demo_controls}
    server = Server((host, port), type("BoundTraderHandler", (TraderHandler,), bound))
    return serve(server, "trader", trader.run)


if __name__ == "__main__":
    raise SystemExit(main())
