"""The metrics of all workers as one: each sample as its worker gave it, with a label `worker` that says which.

Nothing is added up: a counter that starts again with a new process would take the others' counts back with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


class GroupMetrics:
    """What the group itself counts, and how all of it is written."""

    def __init__(self, workers: int) -> None:
        self._own = CollectorRegistry()
        self._up = Gauge("wattline_worker_up", "1 while this worker answers", ["worker"], registry=self._own)
        self._restarts = Counter(
            "wattline_worker_restarts", "Times this worker was started again", ["worker"], registry=self._own
        )
        for number in range(1, workers + 1):
            self._restarts.labels(str(number))

    def restarted(self, number: int) -> None:
        """A worker has ended, and is started again."""
        self._restarts.labels(str(number)).inc()

    def exposition(self, texts: Mapping[int, str | None]) -> bytes:
        """All in Prometheus's text format; `texts` are the workers' own, None where one does not answer."""
        self._up.clear()  # one that has left is neither up nor down
        for number, text in texts.items():
            self._up.labels(str(number)).set(text is not None)
        registry = CollectorRegistry()
        registry.register(_Together({number: text for number, text in texts.items() if text is not None}))
        return generate_latest(self._own) + generate_latest(registry)


class _Together(Collector):
    """Several expositions as one, each metric's samples side by side."""

    def __init__(self, texts: Mapping[int, str]) -> None:
        self._texts = texts

    def collect(self) -> Iterator[Metric]:
        """Part of prometheus_client's Collector."""
        metrics: dict[str, Metric] = {}
        for number, text in self._texts.items():
            for family in text_string_to_metric_families(text):
                metric = metrics.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    labels = {"worker": str(number)} | sample.labels
                    metric.add_sample(sample.name, labels, sample.value)
        yield from metrics.values()
