"""`edge-runtime invoke`: call a method of an app, through the app's own sidecar."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Final

from edge_runtime.cli.arguments import Option, Parsed, help_text, parse, require
from edge_runtime.cli.calling import DATA_OPTIONS, address_of, data_of
from edge_runtime.cli.http import Answer, Unreachable, request
from edge_runtime.cli.output import Messages, as_json
from edge_runtime.model.errors import ConfigError

USAGE: Final = "edge-runtime invoke --app-id <id> --method <name> [flags]"
OPTIONS: Final = (
    *DATA_OPTIONS,
    Option(("app-id",), short="a", help="The app to call."),
    Option(("method",), short="m", help="The method to call."),
    Option(("verb",), short="v", help="The HTTP verb.", default="POST"),
)


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help"):
        print(help_text(USAGE, "Call a method of an app.", OPTIONS), end="")
        return 0
    require(parsed, "app-id", "method")
    messages = Messages(parsed.flag("log-as-json"))
    app_id = parsed.text("app-id")
    try:
        address = address_of(app_id, parsed)
        if address is None:
            raise ConfigError(f"error invoking app {app_id}: app ID {app_id} not found")
        answer = request(
            parsed.text("verb").upper(),
            address,
            f"/v1.0/invoke/{app_id}/method/{parsed.text('method')}",
            data_of(parsed),
            (*token(), (b"content-type", b"application/json")),
        )
    except (ConfigError, Unreachable) as error:
        text = str(error) if isinstance(error, ConfigError) else f"error invoking app {app_id}: {error}"
        return _failed(parsed, messages, text)
    return _show(parsed, messages, app_id, answer)


def token() -> tuple[tuple[bytes, bytes], ...]:
    """The API token of this environment, for sidecars that ask for one."""
    value = os.environ.get("DAPR_API_TOKEN", "")
    return ((b"dapr-api-token", os.fsencode(value)),) if value else ()


def reason(answer: Answer) -> str:
    """What the sidecar says about a call that it refused, in its own words, and the mend where there is one."""
    try:
        message = json.loads(answer.body)["message"]
    except (ValueError, KeyError, TypeError):
        message = ""
    return f"{f' ({message})' if message else ''}{token_hint(answer)}"


def said(answer: Answer) -> str:
    """What a sidecar said to something that it did not do."""
    try:
        return str(json.loads(answer.body)["message"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.line}{token_hint(answer)}"


def token_hint(answer: Answer) -> str:
    """The mend, when the sidecar asks for a token that was not sent or is another."""
    asked = answer.status == 401 and b"api token" in answer.body
    return " (set DAPR_API_TOKEN to the token of the sidecar)" if asked else ""


def _show(parsed: Parsed, messages: Messages, app_id: str, answer: Answer) -> int:
    if not 200 <= answer.status < 400:
        return _failed(parsed, messages, f"error invoking app {app_id}: {answer.line}{reason(answer)}", answer)
    if parsed.flag("json"):
        print(as_json({"appId": app_id, "status": answer.status, "body": _text(answer)}))
        return 0
    if answer.body:
        sys.stdout.flush()
        sys.stdout.buffer.write(answer.body + b"\n")
        sys.stdout.buffer.flush()
    messages.success("App invoked successfully")
    return 0


def _failed(parsed: Parsed, messages: Messages, text: str, answer: Answer | None = None) -> int:
    if parsed.flag("json"):
        facts = {"status": answer.status, "body": _text(answer)} if answer is not None else {}
        print(as_json({"appId": parsed.text("app-id"), "error": text, **facts}))
    else:
        messages.failure(text)
    return 1


def _text(answer: Answer) -> str:
    return answer.body.decode("utf-8", "replace")
