"""The kitchen: an ordinary Dapr app with the official Python SDK over HTTP.

It tells prices (invocation), cooks what comes in on the topic `orders`, counts what it has cooked (state) and says on
the topic `ready` when an order is done. Now and then it asks the shop how many orders were served (invocation the other
way).
"""

from __future__ import annotations

import json
import os
import urllib.request
from typing import Any

import uvicorn
from dapr.clients import DaprClient
from dapr.ext.fastapi import DaprApp
from fastapi import FastAPI

PRICES = {"pizza": 950, "soup": 480, "pancakes": 620}
SIDECAR = f"http://127.0.0.1:{os.environ.get('DAPR_HTTP_PORT', '3500')}/v1.0"

app = FastAPI()
dapr_app = DaprApp(app)


@app.get("/price/{dish}")
def price(dish: str) -> dict[str, int]:
    return {"price": PRICES.get(dish, 1000)}


@dapr_app.subscribe(pubsub="pubsub", topic="orders")
def cook(event: dict[str, Any]) -> dict[str, str]:
    order = event["data"]
    cooked = 1 + int(call("GET", "/state/statestore/cooked") or 0)
    call("POST", "/state/statestore", [{"key": "cooked", "value": cooked}])
    call("POST", "/publish/pubsub/ready", {"id": order["id"]})
    print(f"cooked {order['dish']}; {cooked} dishes so far", flush=True)
    if cooked % 5 == 0:
        with DaprClient() as client:
            answer = client.invoke_method("shop", "served", http_verb="GET")
            print(f"the shop has served {json.loads(answer.data)['served']} orders", flush=True)
    return {"status": "SUCCESS"}


def call(verb: str, path: str, value: Any = None) -> Any:
    """The sidecar's HTTP API: what the Python SDK does over gRPC only."""
    body = None if value is None else json.dumps(value).encode()
    request = urllib.request.Request(SIDECAR + path, body, {"content-type": "application/json"}, method=verb)
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = answer.read()
    return json.loads(text) if text else None


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("APP_PORT", "6002")), log_level="warning")
