"""A client whose token is another than the sidecar's: health answers it, calls do not."""

from __future__ import annotations

from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprHttpError
from lines import say

with DaprClient() as client:
    try:
        client.invoke_method("py", "anything", http_verb="GET")
    except DaprHttpError as error:
        body = (error.raw_response_bytes or b"").decode()
        say("refused", [error.status_code, body])
