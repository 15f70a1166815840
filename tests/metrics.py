"""Reading a command's /metrics, as a Prometheus would."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.processes import WattlineProcess


def metric(process: WattlineProcess, name: str, **labels: str) -> float:
    """The value of a metric, summed over the labels that are not given; 0 when it has none."""
    with urllib.request.urlopen(f"{process.metrics_url}/metrics", timeout=5) as response:
        text = response.read().decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def books(process: WattlineProcess) -> tuple[float, float]:
    """Readings (received, accounted for), out of one look at /metrics."""
    with urllib.request.urlopen(f"{process.metrics_url}/metrics", timeout=5) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    totals = {sample.name: 0.0 for family in families for sample in family.samples}
    for family in families:
        for sample in family.samples:
            totals[sample.name] += sample.value
    settled = (
        totals.get("wattline_readings_committed_total", 0)
        + totals.get("wattline_readings_duplicate_total", 0)
        + totals.get("wattline_readings_rejected_total", 0)
        + totals["wattline_readings_pending"]
    )
    return totals["wattline_readings_received_total"], settled
