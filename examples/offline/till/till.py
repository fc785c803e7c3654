"""The till: an ordinary Dapr app. It publishes sales and keeps its book, and knows nothing of links and outages.

It sells while the state `closed` is not true. A sale that was published, but not yet in the book when the node was
killed, is published again with the same number.
"""

from __future__ import annotations

import json
import time

from dapr.clients import DaprClient

PAUSE_S = 0.5

with DaprClient() as dapr:
    while True:
        time.sleep(PAUSE_S)
        if dapr.get_state("statestore", "closed").data == b"true":
            continue
        book = json.loads(dapr.get_state("statestore", "book").data or '{"sales": 0, "cents": 0}')
        number = book["sales"] + 1
        sale = {"number": number, "cents": 250 + number * 70 % 400}
        dapr.publish_event("pubsub", "sales", json.dumps(sale), data_content_type="application/json")
        book = {"sales": number, "cents": book["cents"] + sale["cents"]}
        dapr.save_state("statestore", "book", json.dumps(book))
        print(f"sold: {book['sales']} sales, {book['cents']} cents", flush=True)
