"""The office: an ordinary Dapr app on the other side of the link. It counts every sale once, whatever comes twice."""

from __future__ import annotations

import json
import os
import threading

from dapr.clients import DaprClient
from dapr.clients.grpc._request import TransactionalStateOperation
from dapr.ext.grpc import App, SubscriptionMessage, TopicEventResponse

app = App()
dapr = DaprClient()
lock = threading.Lock()  # events come several at a time, each on a thread


@app.subscribe(pubsub_name="pubsub", topic="sales")
def count(event: SubscriptionMessage) -> TopicEventResponse:
    sale = event.data()
    seen = f"sale-{sale['number']}"
    with lock:
        if dapr.get_state("statestore", seen).data:
            return TopicEventResponse("success")
        book = json.loads(dapr.get_state("statestore", "book").data or '{"sales": 0, "cents": 0}')
        book = {"sales": book["sales"] + 1, "cents": book["cents"] + sale["cents"]}
        notes = {"book": json.dumps(book), seen: "1"}
        dapr.execute_state_transaction(
            "statestore", [TransactionalStateOperation(key=key, data=data) for key, data in notes.items()]
        )
        print(f"counted: {book['sales']} sales, {book['cents']} cents", flush=True)
    return TopicEventResponse("success")


if __name__ == "__main__":
    app.run(int(os.environ.get("APP_PORT", "6022")), "127.0.0.1")
