"""A meter that knows what became of each of its readings; with paho-mqtt 2.

    python device_paho.py METER-001 localhost 1883 3

measures three times and sends each reading, always the same bytes, until its receipt has come. A real device keeps what
has no receipt where it outlives a loss of power. docs/devices.md says what a receipt promises.
"""

import json
import queue
import random
import sys
from datetime import UTC, datetime

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

RECEIPT_SECONDS = 5  # no receipt by then: send again, which is harmless


def measure(device_id: str) -> bytes:
    """A reading as it is sent, and sent again."""
    reading = {
        "meterId": device_id,
        "kwhConsumedAc": round(random.uniform(0, 0.5), 4),
        "voltage": 230.0,
        "timestamp": datetime.now(UTC).isoformat(),
    }
    return json.dumps(reading).encode()


def main() -> None:
    device_id, host, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    receipt_topic = f"v1/receipts/{device_id}/readings"
    receipts: queue.Queue[tuple[bytes, dict]] = queue.Queue()

    def on_connect(client: mqtt.Client, *_: object) -> None:
        client.subscribe(receipt_topic, qos=1)  # again on every connection

    def on_message(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        receipts.put((message.properties.CorrelationData, json.loads(message.payload)))

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=device_id, protocol=mqtt.MQTTv5)
    client.on_connect, client.on_message = on_connect, on_message
    client.connect_async(host, port)
    client.loop_start()  # connects, and connects again

    for number in range(count):
        payload, mark = measure(device_id), f"{number}".encode()
        receipt = None
        while receipt is None:
            asked = Properties(PacketTypes.PUBLISH)
            asked.ResponseTopic = receipt_topic
            asked.CorrelationData = mark  # comes back with the receipt
            client.publish(f"v1/telemetry/meter/{device_id}", payload, qos=1, properties=asked)
            try:
                while receipt is None:
                    of, answer = receipts.get(timeout=RECEIPT_SECONDS)
                    receipt = answer if of == mark else None  # an earlier reading may be told twice
            except queue.Empty:
                print(f"no receipt of reading {number} yet, sending it again", flush=True)
        # Stored now or before: done. In conflict or refused: sending it again will not help, and somebody should look.
        print(f"reading {number}: {json.dumps(receipt)}", flush=True)
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main()
