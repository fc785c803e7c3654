"""What `invoke` and `publish` share: where the data comes from, and where the sidecar is."""

from __future__ import annotations

import os
import sys
from typing import Final

from edge_runtime.cli.arguments import FLAG, HELP, Option, Parsed, UsageError
from edge_runtime.cli.http import Address
from edge_runtime.cli.instances import find_instance, socket_path
from edge_runtime.model.errors import ConfigError

DATA_OPTIONS: Final = (
    HELP,
    Option(("data",), short="d", help="What to send."),
    Option(("data-file",), short="f", help="The file with what to send; - reads standard input."),
    Option(("unix-domain-socket",), short="u", help="The directory with the sidecar's sockets."),
    Option(("json",), FLAG, help="Print the outcome as JSON."),
    Option(("log-as-json",), FLAG, hidden=True),
    Option(("runtime-path",), hidden=True),
)


def data_of(parsed: Parsed) -> bytes:
    """The data to send. Raises UsageError, ConfigError."""
    if parsed.given("data") and parsed.given("data-file"):
        raise UsageError("Only one of --data and --data-file allowed in the same command")
    if not parsed.given("data-file"):
        return os.fsencode(parsed.text("data"))
    path = parsed.text("data-file")
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"Error reading payload from '{path}'. Error: {error.strerror}") from None


def address_of(app_id: str, parsed: Parsed) -> Address | None:
    """Where the app's own sidecar answers; None when it does not run."""
    if parsed.given("unix-domain-socket"):
        return Address(path=socket_path(parsed.text("unix-domain-socket"), app_id))
    instance = find_instance(app_id, os.environ)
    return instance.address if instance is not None else None
