"""What the commands that show and steer the offline parts have in common: whom they ask, and how a failure is said."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

from edge_runtime.cli.arguments import Parsed, UsageError
from edge_runtime.cli.control import ControlError
from edge_runtime.cli.http import Unreachable, request
from edge_runtime.cli.instances import Instance, find_instance
from edge_runtime.cli.invoke import said, token
from edge_runtime.cli.output import Messages, as_json
from edge_runtime.model.errors import ConfigError, DriverError, EdgeError

_T = TypeVar("_T")


class Failed(Exception):
    """The text is for the user."""


def outcome_of(work: Callable[[], _T], parsed: Parsed, messages: Messages) -> _T | None:
    """What `work` returns; None when it failed, which has been said then."""
    try:
        return work()
    except (Failed, ConfigError, ControlError, DriverError, EdgeError, Unreachable) as error:
        if parsed.flag("json"):
            print(as_json({"error": str(error)}))
        else:
            messages.failure(str(error))
        return None


def sidecar(parsed: Parsed) -> Instance | None:
    """The app's sidecar; None when no app was named, it does not run, or the files are to be read instead."""
    if parsed.given("state-dir") or not parsed.given("app-id"):
        return None
    return find_instance(parsed.text("app-id"), os.environ)


def own_sidecar(parsed: Parsed, does: str) -> Instance:
    """The app's sidecar, without which nothing can be changed. Raises Failed; `does` says why it is needed."""
    instance = find_instance(parsed.text("app-id"), os.environ)
    if instance is None:
        raise Failed(f"app ID {parsed.text('app-id')} not found; start it first: its own sidecar {does}")
    return instance


def ask(instance: Instance, method: str, target: str, body: bytes = b"") -> dict[str, Any]:
    """The sidecar's answer. Raises Failed with its own words when it is not 200."""
    answer = request(method, instance.address, target, body, (*token(), (b"content-type", b"application/json")))
    if answer.status != 200:
        raise Failed(said(answer))
    document: dict[str, Any] = json.loads(answer.body)
    return document


def limit_of(parsed: Parsed) -> int:
    """--limit, which has its bounds."""
    limit = parsed.integer("limit")
    if not 0 < limit <= 1000:
        raise UsageError(f"--limit {limit}: expected a number from 1 to 1000")
    return limit
