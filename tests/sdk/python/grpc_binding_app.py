"""An app with `dapr.ext.grpc` that takes the events of a binding."""

from __future__ import annotations

import os

from dapr.ext.grpc import App, BindingRequest
from lines import say

app = App()


@app.binding("commands")
def commands(request: BindingRequest) -> None:
    say("event", [request.text(), sorted(dict(request.metadata))])


say("starting")
app.run(int(os.environ["APP_PORT"]))
