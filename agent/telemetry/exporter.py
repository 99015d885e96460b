"""The metrics table made real with prometheus_client, and its exposition."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import choose_encoder

from agent.telemetry.metrics import METRICS, PREFIX, check


class PrometheusRecorder:
    """A recorder whose metrics `expose` can write. One per process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._metrics: dict[str, Counter | Gauge | Histogram] = {}
        for name, spec in METRICS.items():
            full = PREFIX + name
            if spec.kind == "histogram":
                self._metrics[name] = Histogram(
                    full, spec.help, spec.labels, buckets=spec.buckets, registry=self.registry
                )
            elif spec.kind == "counter":
                self._metrics[name] = Counter(full, spec.help, spec.labels, registry=self.registry)
            else:
                self._metrics[name] = Gauge(full, spec.help, spec.labels, registry=self.registry)

    def inc(self, name: str, amount: float = 1.0, **labels: str) -> None:
        metric = self._child(name, "counter", labels)
        assert isinstance(metric, Counter)
        metric.inc(amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        metric = self._child(name, "gauge", labels)
        assert isinstance(metric, Gauge)
        metric.set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        metric = self._child(name, "histogram", labels)
        assert isinstance(metric, Histogram)
        metric.observe(value)

    def forget(self, name: str, **labels: str) -> None:
        spec = METRICS[name]
        try:
            self._metrics[name].remove(*(labels[label] for label in spec.labels))
        except KeyError:
            return  # never recorded, so nothing to drop

    def expose(self, accept: str) -> tuple[str, bytes]:
        """Content type and body in the format that the `Accept` header asks for."""
        encoder, content_type = choose_encoder(accept)
        return content_type, encoder(self.registry)

    def text(self, names: Iterable[str] | None = None) -> bytes:
        """The plain text format; of the samples of these names only, if some are given."""
        if names is None:
            return generate_latest(self.registry)
        return generate_latest(self.registry.restricted_registry(names))

    def _child(self, name: str, kind: str, labels: dict[str, str]) -> Counter | Gauge | Histogram:
        check(name, kind, labels)  # type: ignore[arg-type]
        metric = self._metrics[name]
        return metric.labels(**labels) if labels else metric
