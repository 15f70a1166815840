"""A meter that knows what became of each of its readings; with aiomqtt 2.

    python device_aiomqtt.py METER-001 localhost 1883 3

measures three times and sends each reading, always the same bytes, until its receipt has come. A real device keeps what
has no receipt where it outlives a loss of power. docs/devices.md says what a receipt promises.
"""

import asyncio
import json
import random
import sys
from datetime import UTC, datetime

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

RECEIPT_SECONDS = 5  # no receipt by then: send again, which is harmless
RECONNECT_SECONDS = 1


def measure(device_id: str) -> bytes:
    """A reading as it is sent, and sent again."""
    reading = {
        "meterId": device_id,
        "kwhConsumedAc": round(random.uniform(0, 0.5), 4),
        "voltage": 230.0,
        "timestamp": datetime.now(UTC).isoformat(),
    }
    return json.dumps(reading).encode()


async def receipt_of(mark: bytes, client: aiomqtt.Client) -> dict:
    """The receipt with this mark; others are of readings that were told before."""
    async for message in client.messages:
        if message.properties.CorrelationData == mark:
            return json.loads(message.payload)
    raise aiomqtt.MqttError("the connection has ended")


async def send(waiting: list[tuple[bytes, bytes]], device_id: str, host: str, port: int) -> None:
    """Send what waits, each reading until its receipt has come; raises MqttError with the connection."""
    receipt_topic = f"v1/receipts/{device_id}/readings"
    async with aiomqtt.Client(host, port, identifier=device_id, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe(receipt_topic, qos=1)
        while waiting:
            mark, payload = waiting[0]
            asked = Properties(PacketTypes.PUBLISH)
            asked.ResponseTopic = receipt_topic
            asked.CorrelationData = mark  # comes back with the receipt
            await client.publish(f"v1/telemetry/meter/{device_id}", payload, qos=1, properties=asked)
            try:
                receipt = await asyncio.wait_for(receipt_of(mark, client), RECEIPT_SECONDS)
            except TimeoutError:
                print(f"no receipt of reading {mark.decode()} yet, sending it again", flush=True)
                continue
            # Stored now or before: done. In conflict or refused: sending it again will not help, somebody should look.
            print(f"reading {mark.decode()}: {json.dumps(receipt)}", flush=True)
            waiting.pop(0)


async def main() -> None:
    device_id, host, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    for number in range(count):
        waiting = [(f"{number}".encode(), measure(device_id))]
        while waiting:
            try:
                await send(waiting, device_id, host, port)
            except aiomqtt.MqttError as error:
                print(f"{error}; connecting again", flush=True)
                await asyncio.sleep(RECONNECT_SECONDS)


if __name__ == "__main__":
    asyncio.run(main())
