"""The sensor: an app without a port. It measures once a second, publishes, and counts on where it stopped (state)."""

from __future__ import annotations

import json
import os
import time

from dapr.clients import DaprClient

READINGS = int(os.environ.get("READINGS", "0"))  # how many to take; without end when it is not said

with DaprClient() as dapr:
    number = int(dapr.get_state("statestore", "number").data or 0)
    taken = 0
    while taken < READINGS or not READINGS:
        number, taken = number + 1, taken + 1
        reading = {"number": number, "celsius": 18.0 + number * 7 % 15}
        dapr.save_state("statestore", "number", str(number))
        dapr.publish_event("pubsub", "readings", json.dumps(reading), data_content_type="application/json")
        print(f"reading {number}: {reading['celsius']} °C", flush=True)
        time.sleep(1)
