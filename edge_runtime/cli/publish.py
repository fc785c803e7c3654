"""`edge-runtime publish`: publish one event as an app, through that app's sidecar."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from edge_runtime.cli.arguments import Option, Parsed, UsageError, help_text, parse, require
from edge_runtime.cli.calling import DATA_OPTIONS, address_of, data_of
from edge_runtime.cli.http import Address, Unreachable, request
from edge_runtime.cli.invoke import reason, token
from edge_runtime.cli.output import Messages, as_json
from edge_runtime.model.errors import ConfigError

USAGE: Final = "edge-runtime publish --publish-app-id <id> --pubsub <name> --topic <name> [flags]"
OPTIONS: Final = (
    *DATA_OPTIONS,
    Option(("publish-app-id",), short="i", help="The app that publishes."),
    Option(("pubsub",), short="p", help="The pub/sub component."),
    Option(("topic",), short="t", help="The topic."),
    Option(("metadata",), short="m", help="Metadata of the event, as a JSON object."),
)
_ENVELOPE: Final = frozenset({"id", "source", "specversion", "type", "data"})


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help"):
        print(help_text(USAGE, "Publish an event.", OPTIONS), end="")
        return 0
    require(parsed, "publish-app-id", "pubsub", "topic")
    messages = Messages(parsed.flag("log-as-json"))
    topic = parsed.text("topic")
    try:
        problem = publish(parsed, messages)
    except (ConfigError, Unreachable) as error:
        problem = f"Error publishing topic {topic}: {error}"
    if parsed.flag("json"):
        outcome: dict[str, Any] = {"topic": topic, "pubsub": parsed.text("pubsub"), "published": not problem}
        print(as_json({**outcome, "error": problem} if problem else outcome))
    elif problem:
        messages.failure(problem)
    else:
        messages.success("Event published successfully")
    return 1 if problem else 0


def publish(parsed: Parsed, messages: Messages) -> str:
    """The problem, or nothing."""
    app_id, pubsub, topic = (parsed.text(name) for name in ("publish-app-id", "pubsub", "topic"))
    target = f"/v1.0/publish/{pubsub}/{topic}{query(parsed.text('metadata'))}"
    data = data_of(parsed)
    address = address_of(app_id, parsed)
    if address is None:
        raise ConfigError(f"app ID {app_id} not found")
    answer = request("POST", address, target, data, (*token(), (b"content-type", content_type(data))))
    if 200 <= answer.status < 300:
        return ""
    if not parsed.flag("json"):
        messages.info(f"http://{_host(address)}{target}")
    return (
        f"Error publishing topic {topic}: unexpected status code {answer.status} "
        f"on publishing to {topic} in {pubsub}{reason(answer)}"
    )


def _host(address: Address) -> str:
    return address.path or f"localhost:{address.port}"


def query(metadata: str) -> str:
    """The event's metadata as the publish API takes it. Raises UsageError."""
    if not metadata:
        return ""
    from urllib.parse import quote

    try:
        fields = json.loads(metadata)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise UsageError(f'--metadata {metadata!r}: expected a JSON object such as {{"ttlInSeconds": "60"}}')
    parts = [f"metadata.{quote(str(key))}={quote(_value(value), safe='')}" for key, value in fields.items()]
    return "?" + "&".join(parts) if parts else ""


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def content_type(data: bytes) -> bytes:
    """A CloudEvent when the data is one, else JSON."""
    try:
        value = json.loads(data)
    except ValueError:
        return b"application/json"
    return (
        b"application/cloudevents+json"
        if isinstance(value, dict) and value.keys() >= _ENVELOPE
        else b"application/json"
    )
