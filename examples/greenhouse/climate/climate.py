"""The climate app: what the sidecar calls over gRPC, and a gRPC service of its own.

The sidecar brings it the topic `readings` (OnTopicEvent) and calls of its method `warmest` (OnInvoke). It keeps the
warmest reading (state) and says on the topic `alarms` when it is too hot. Other apps call its service Climate, defined
in climate.proto, through the sidecar.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from dapr.clients import DaprClient
from dapr.ext.grpc import App, InvokeMethodRequest, InvokeMethodResponse, SubscriptionMessage, TopicEventResponse

sys.path.append(str(Path(__file__).parent.parent))
from climate_pb2 import Reading, WarmestRequest, WatchRequest
from climate_pb2_grpc import ClimateServicer, add_ClimateServicer_to_server

TOO_HOT = 30.0

app = App()
dapr = DaprClient()
lock = threading.Lock()  # events come several at a time, each on a thread
watchers: list[queue.SimpleQueue[Reading | None]] = []  # None: the caller has left
latest: list[Reading] = []


@app.subscribe(pubsub_name="pubsub", topic="readings")
def take(event: SubscriptionMessage) -> TopicEventResponse:
    reading = Reading(**event.data())
    with lock:
        if reading.celsius > warmest().celsius:
            dapr.save_state("statestore", "warmest", reading.SerializeToString())
        latest[:] = [reading]
        for watcher in watchers:
            watcher.put(reading)
    if reading.celsius >= TOO_HOT:
        publish("alarms", {"number": reading.number, "celsius": reading.celsius})
    return TopicEventResponse("success")


@app.method(name="warmest")
def tell_warmest(request: InvokeMethodRequest) -> InvokeMethodResponse:
    """For callers without climate.proto, such as `edge-runtime invoke -a climate -m warmest`."""
    reading = warmest()
    return InvokeMethodResponse(json.dumps({"number": reading.number, "celsius": reading.celsius}), "application/json")


class Climate(ClimateServicer):  # type: ignore[misc]
    def Warmest(self, request: WarmestRequest, context: grpc.ServicerContext) -> Reading:
        reading = warmest()
        if not reading.number:
            context.abort(grpc.StatusCode.NOT_FOUND, "nothing was measured yet")
        return reading

    def Watch(self, request: WatchRequest, context: grpc.ServicerContext) -> Iterator[Reading]:
        watcher: queue.SimpleQueue[Reading | None] = queue.SimpleQueue()
        context.add_callback(lambda: watcher.put(None))
        with lock:
            for last in latest:
                watcher.put(last)
            watchers.append(watcher)
        try:
            sent = 0
            while sent < (request.readings or sys.maxsize) and (reading := watcher.get()) is not None:
                yield reading
                sent += 1
        finally:
            with lock:
                watchers.remove(watcher)


def warmest() -> Reading:
    return Reading.FromString(dapr.get_state("statestore", "warmest").data)


def publish(topic: str, value: Any) -> None:
    dapr.publish_event("pubsub", topic, json.dumps(value), data_content_type="application/json")


if __name__ == "__main__":
    app.add_external_service(add_ClimateServicer_to_server, Climate())
    app.run(int(os.environ.get("APP_PORT", "6011")), "127.0.0.1")
