"""The MQTT client stands alone: whoever uses it needs neither PostgreSQL's driver nor the rest of wattline."""

import subprocess
import sys

MODULES = ("mqtt.connection", "mqtt.link", "mqtt.options", "mqtt.outbox", "mqtt.packets")


def test_it_imports_neither_postgresql_nor_another_room() -> None:
    program = f"import sys, {', '.join(MODULES)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    rooms = {name.partition(".")[0] for name in loaded.stdout.split()}
    assert not rooms & {"psycopg", "telemetry", "ingestor", "analytics_api", "loadgen", "embedded"}
