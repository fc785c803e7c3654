"""The display: an app without a port, which nobody can call and which still learns everything.

Alarms come on a streaming subscription. Readings come by calling the service Climate of the climate app: the call goes
to the sidecar, which passes it on to the app that the metadata `dapr-app-id` names.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import grpc
from dapr.clients import DaprClient
from dapr.clients.grpc.client import TopicEventResponse
from dapr.common.pubsub.subscription import SubscriptionMessage

sys.path.append(str(Path(__file__).parent.parent))
from climate_pb2 import WarmestRequest, WatchRequest
from climate_pb2_grpc import ClimateStub

SIDECAR = f"127.0.0.1:{os.environ.get('DAPR_GRPC_PORT', '50001')}"
TO_CLIMATE = (("dapr-app-id", "climate"),)


def alarm(event: SubscriptionMessage) -> TopicEventResponse:
    print(f"too hot: {event.data()['celsius']} °C", flush=True)
    return TopicEventResponse("success")


def follow(climate: ClimateStub) -> None:
    for reading in climate.Watch(WatchRequest(), metadata=TO_CLIMATE):
        print(f"it is {reading.celsius} °C", flush=True)
        if reading.number % 3 == 0:
            warmest = climate.Warmest(WarmestRequest(), metadata=TO_CLIMATE, timeout=5)
            print(f"the warmest was reading {warmest.number} with {warmest.celsius} °C", flush=True)


with DaprClient() as dapr, grpc.insecure_channel(SIDECAR) as channel:
    close = dapr.subscribe_with_handler("pubsub", "alarms", alarm)
    while True:
        try:
            follow(ClimateStub(channel))
        except grpc.RpcError as error:
            print(f"the climate app has to wait: {error.details()}", flush=True)
            time.sleep(1)
