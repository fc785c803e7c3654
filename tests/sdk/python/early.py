"""An app that makes its client before it listens, and calls itself through the sidecar."""

from __future__ import annotations

import os
from typing import Any

import uvicorn
from dapr.clients import DaprClient
from fastapi import FastAPI
from lines import say

client = DaprClient()
say("client is ready")
app = FastAPI()


@app.get("/self")
def itself() -> Any:
    return client.invoke_method("py", "asked", http_verb="GET").json()


@app.get("/asked")
def asked() -> dict[str, str]:
    return {"asked": "myself"}


uvicorn.run(app, host="127.0.0.1", port=int(os.environ["APP_PORT"]), log_level="critical")
