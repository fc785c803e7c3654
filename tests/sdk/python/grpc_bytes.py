"""State as an app keeps it that never thinks of JSON: saves SAVE, waits until READ is there, and tells it."""

from __future__ import annotations

import json
import os
import time

from dapr.clients import DaprClient
from lines import say

STORE = "statestore"
WAIT_S = 30.0

with DaprClient() as client:
    for key, value in json.loads(os.environ.get("SAVE", "{}")).items():
        client.save_state(STORE, key, bytes.fromhex(value["bytes"]) if isinstance(value, dict) else value)
    wanted = json.loads(os.environ.get("READ", "[]"))
    until = time.monotonic() + WAIT_S
    found = {}
    while time.monotonic() < until and len(found) < len(wanted):
        time.sleep(0.1)
        answers = ((key, client.get_state(STORE, key)) for key in wanted)
        found = {key: answer.data.hex() for key, answer in answers if answer.etag}
    say("read", found)
