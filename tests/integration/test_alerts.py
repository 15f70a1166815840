"""The alert rules, held against Prometheus: each rings for what it is for, and none on a quiet night or at a start."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from tests.api_process import running_api
from tests.backends import Broker
from tests.devices import device, meter_reading
from tests.processes import WattlineProcess
from tests.prometheus import promtool, running_prometheus
from tests.waiting import wait_until

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "config" / "prometheus"
RULES = FOLDER / "alerts.yml"
RUNBOOK = PROJECT / "docs" / "runbook.md"
NAMES = re.findall(r"- alert: (\w+)", RULES.read_text(encoding="utf-8"))
# Of the rules' functions and labels, none begins like this.
METRICS = set(re.findall(r"\b(?:wattline|process)_\w+", RULES.read_text(encoding="utf-8")))
# Only with `--workers`.
OF_WORKERS = {"wattline_worker_up", "wattline_worker_restarts_total"}

Series = Mapping[str, str]

INGESTOR = 'job="wattline-ingest",instance="one"'
API = 'job="wattline-api",instance="two"'
# Promtool's clock begins at 0 s; a value a minute, for three hours and a half: "a+bx210" grows by b each minute.
MINUTES = 210


def of(name: str, labels: str = "", *, job: str = INGESTOR) -> str:
    return f"{name}{{{job}{',' if labels else ''}{labels}}}"


def histogram(fast: str, slow: str) -> Series:
    """wattline_commit_lag_seconds with so many readings within a second, and so many of 10 s and more."""
    name = "wattline_commit_lag_seconds_bucket"
    total = f"{fast}" if slow == "0" else slow
    return {
        of(name, 'le="1"'): fast,
        of(name, 'le="10"'): fast,
        of(name, 'le="60"'): total,
        of(name, 'le="+Inf"'): total,
    }


ONCE = "0x100 1x110"
"""A counter whose one event is in the middle."""
STEADY = "0+100x210"
# Nobody publishes: counters stand still, all there is to do is done. Right after the start, and for hours.
QUIET: Series = {
    of("up"): "1x210",
    of("up", job=API): "1x210",
    of("process_start_time_seconds"): "0x210",
    of("wattline_mqtt_connected"): "1x210",
    of("wattline_readings_pending"): "0x210",
    of("wattline_last_commit_timestamp_seconds"): "0x210",
    of("wattline_readings_received_total", 'kind="meter"'): "0x210",
    of("wattline_readings_committed_total", 'kind="meter"'): "0x210",
    of("wattline_readings_duplicate_total", 'kind="meter"'): "0x210",
    of("wattline_readings_rejected_total", 'reason="conflict"'): "0x210",
    of("wattline_readings_rejected_total", 'reason="database_refused"'): "0x210",
    of("wattline_readings_rejected_total", 'reason="invalid_value"'): "0x210",
    **histogram("0x210", "0"),
    of("wattline_inflight_messages"): "0x210",
    of("wattline_mqtt_window_messages"): "65535x210",
    of("wattline_flush_failures_total", 'error="fault"'): "0x210",
    of("wattline_clock_offset_seconds"): "0.01x210",
    of("wattline_broker_dropped_total"): "7x210",
    of("wattline_broker_queued_messages"): "0x210",
    of("wattline_mqtt_sessions_lost_total"): "0x210",
    of("wattline_mqtt_reconnects_total"): "0x210",
    of("wattline_rejected_spooled_total"): "0x210",
    of("wattline_rejected_not_kept_total"): "0x210",
    of("wattline_rejected_oldest_deleted_total"): "0x210",
    of("wattline_devices_silent", 'kind="meter"'): "3x210",
    of("wattline_receipts_total", 'outcome="refused"'): "0x210",
    of("wattline_chore_failures_total", 'chore="hourly"'): "0x210",
    of("wattline_chore_last_success_timestamp_seconds", 'chore="hourly"'): "0x100 6000+60x110",
    of("wattline_retention_held_days"): "0x210",
    of("wattline_worker_up", 'worker="1"'): "1x210",
    of("wattline_worker_restarts_total", 'worker="1"'): "0x210",
    of("wattline_api_broker_connected", job=API): "1x210",
    of("wattline_http_requests_total", 'route="/v1/status",method="GET",status="200"', job=API): STEADY,
    of("wattline_http_requests_total", 'route="/v1/status",method="GET",status="503"', job=API): "0x210",
    of("wattline_http_requests_total", 'route="/v1/x",method="PUT",status="401"', job=API): "0x210",
    of("wattline_http_connections", job=API): "10x210",
    of("wattline_http_connections_max", job=API): "100x210",
    of("wattline_http_connections_refused_total", job=API): "0x210",
}
LATE = {of("wattline_readings_received_total", 'kind="meter"'): STEADY}
# What each is for, and the minute in which it rings.
RINGS: dict[str, tuple[int, Series]] = {
    "WattlineDown": (10, {of("up", job=API): "0x210"}),
    "WattlineBrokerAway": (10, {of("wattline_mqtt_connected"): "0x210"}),
    "WattlineNothingCommitted": (
        10,
        {
            of("wattline_readings_pending"): "500x210",
            of("wattline_readings_received_total", 'kind="meter"'): "500x210",
        },
    ),
    "WattlineBooksDoNotBalance": (10, {of("wattline_readings_committed_total", 'kind="meter"'): "1x210"}),
    "WattlineWorkerDown": (10, {of("wattline_worker_up", 'worker="1"'): "0x210"}),
    "WattlineApiBrokerAway": (10, {of("wattline_api_broker_connected", job=API): "0x210"}),
    "WattlineCommitLag": (20, histogram("0+10x210", "0+100x210")),
    "WattlineWindowFull": (10, {of("wattline_inflight_messages"): "65535x210"}),
    "WattlineWindowSmall": (10, {of("wattline_mqtt_window_messages"): "20x210"}),
    "WattlineFlushesFail": (102, {of("wattline_flush_failures_total", 'error="fault"'): ONCE}),
    "WattlineClocksDisagree": (10, {of("wattline_clock_offset_seconds"): "-3600x210"}),
    "WattlineBrokerDrops": (102, {of("wattline_broker_dropped_total"): "7x100 9x110"}),
    "WattlineBrokerQueueFills": (50, {of("wattline_broker_queued_messages"): "0+100000x210"}),
    "WattlineSessionLost": (102, {of("wattline_mqtt_sessions_lost_total"): ONCE}),
    "WattlineReconnects": (20, {of("wattline_mqtt_reconnects_total"): "0+1x210"}),
    "WattlineRefusals": (
        40,
        {**LATE, of("wattline_readings_rejected_total", 'reason="invalid_value"'): STEADY},
    ),
    "WattlineConflicts": (
        102,
        {
            of("wattline_readings_received_total", 'kind="meter"'): "0+100x100 10001x110",
            of("wattline_readings_committed_total", 'kind="meter"'): "0+100x100 10000x110",
            of("wattline_readings_rejected_total", 'reason="conflict"'): ONCE,
        },
    ),
    "WattlineDatabaseRefuses": (
        102,
        {
            of("wattline_readings_received_total", 'kind="meter"'): "0+100x100 10001x110",
            of("wattline_readings_committed_total", 'kind="meter"'): "0+100x100 10000x110",
            of("wattline_readings_rejected_total", 'reason="database_refused"'): ONCE,
        },
    ),
    "WattlineReadingsInFileOnly": (102, {of("wattline_rejected_spooled_total"): ONCE}),
    "WattlineRejectedNotKept": (20, {of("wattline_rejected_not_kept_total"): STEADY}),
    "WattlineQuarantineFull": (102, {of("wattline_rejected_oldest_deleted_total"): ONCE}),
    "WattlineDevicesSilent": (105, {of("wattline_devices_silent", 'kind="meter"'): "3x100 300x110"}),
    "WattlineReceiptsFail": (102, {of("wattline_receipts_total", 'outcome="refused"'): ONCE}),
    "WattlineChoreFails": (30, {of("wattline_chore_failures_total", 'chore="hourly"'): "0+1x210"}),
    "WattlineChoreLate": (200, {of("wattline_chore_last_success_timestamp_seconds", 'chore="hourly"'): "0x210"}),
    "WattlineRetentionHeld": (100, {of("wattline_retention_held_days"): "3x210"}),
    "WattlineApiErrors": (
        20,
        {of("wattline_http_requests_total", 'route="/v1/status",method="GET",status="503"', job=API): STEADY},
    ),
    "WattlineApiFull": (20, {of("wattline_http_connections", job=API): "95x210"}),
    "WattlineWritesRefused": (
        40,
        {of("wattline_http_requests_total", 'route="/v1/x",method="PUT",status="401"', job=API): STEADY},
    ),
}


@pytest.fixture
def ringing(tmp_path: Path) -> Callable[[list[tuple[int, Series, list[str]]]], None]:
    """Holds the rules against promtool: (minute, series beside the quiet ones, names of the alerts that ring then)."""

    def hold(cases: list[tuple[int, Series, list[str]]]) -> None:
        tests = [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in {**QUIET, **series}.items()],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": f"{minute}m",
                        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)],
                    }
                ],
            }
            for minute, series, names in cases
        ]
        file = tmp_path / "alerts_test.json"  # JSON is YAML
        file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
        promtool("test", "rules", file)

    return hold


def test_every_alert_is_tried_and_has_its_entry_in_the_runbook() -> None:
    assert list(RINGS) == NAMES
    assert re.findall(r"^## (\w+)$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE) == NAMES
    links = re.findall(r"runbook: docs/runbook\.md#(\w+)", RULES.read_text(encoding="utf-8"))
    assert links == [name.lower() for name in NAMES]


def test_prometheus_takes_the_files() -> None:
    promtool("check", "config", FOLDER / "prometheus.yml")
    promtool("check", "rules", "--lint-fatal", RULES)


def test_each_rings_for_what_it_is_for_and_no_other(ringing: Callable[..., None]) -> None:
    ringing([(minute, series, [name]) for name, (minute, series) in RINGS.items()])


def test_a_start_and_a_quiet_night_ring_nothing(ringing: Callable[..., None]) -> None:
    ringing([(minute, {}, []) for minute in (0, 1, 2, 5, 30, 60, 120, 200)])


def test_a_real_prometheus_finds_every_metric_of_the_rules(
    database_url: str,
    broker: Broker,
    start_wattline: Callable[..., WattlineProcess],
    tmp_path: Path,
) -> None:
    ingest = start_wattline("ingest", DATABASE_URL=database_url, MQTT_URL=broker.url, FLUSH_INTERVAL_MS="50")
    ingest.wait_ready()
    with running_api(tmp_path, database_url, MQTT_URL=broker.url) as api, device(broker.port) as meter:
        meter.publish("v1/telemetry/meter/METER-001", meter_reading("METER-001", datetime.now(UTC)))
        ours = (FOLDER / "prometheus.yml").read_text(encoding="utf-8")
        for documented, port in (("127.0.0.1:9464", ingest.metrics_port), ("127.0.0.1:3000", api.http_port)):
            assert documented in ours
            ours = ours.replace(documented, f"127.0.0.1:{port}")
        configuration = tmp_path / "prometheus.yml"
        configuration.write_text(ours.replace("15s", "1s").replace("alerts.yml", str(RULES)))
        with running_prometheus(configuration, tmp_path) as prometheus:
            wait_until(lambda: _missing(prometheus) == OF_WORKERS, what="every metric of the rules")
            assert _rings(prometheus) == []


def _missing(prometheus: str) -> set[str]:
    answer = httpx.get(f"{prometheus}/api/v1/label/__name__/values").json()
    return METRICS - set(answer["data"])


def _rings(prometheus: str) -> list[str]:
    alerts = httpx.get(f"{prometheus}/api/v1/alerts").json()["data"]["alerts"]
    return [alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"]
