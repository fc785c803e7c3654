"""Blocks for which this node has no driver: each answers what Dapr answers when the thing is not configured.

Without these rows the paths would fall through to service invocation and fail there with a misleading text. A body is
read first where Dapr reads it first, so that a malformed request is told from a missing driver.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from edge_runtime.api.http.routes import Call, Route, malformed
from edge_runtime.api.unconfigured import (
    NO_CRYPTO,
    NO_LOCK,
    NO_PLACEMENT,
    NO_SCHEDULER,
    NO_SUBTLE,
    no_conversation,
    no_expiry,
)
from edge_runtime.model.errors import EdgeError, Kind
from edge_runtime.model.http import Response

Handler = Callable[[Call], Awaitable[Response]]


def _refuse(kind: Kind, text: str) -> Handler:
    """A handler that always fails with `kind`; `{0}` and `{1}` in the text are the path parameters."""

    async def handler(call: Call) -> Response:
        raise EdgeError(kind, text.format(*call.params), metadata=_info(kind, call))

    return handler


def _after_message(handler: Handler) -> Handler:
    """The same, once the body was a message in JSON."""

    async def checked(call: Call) -> Response:
        await call.message()
        return await handler(call)

    return checked


def _after_body(handler: Handler) -> Handler:
    """The same, once the body was read, whatever it is."""

    async def checked(call: Call) -> Response:
        await call.body()
        return await handler(call)

    return checked


def _info(kind: Kind, call: Call) -> dict[str, str] | None:
    if kind in (Kind.JOB_SCHEDULE, Kind.JOB_GET, Kind.JOB_DELETE):
        return {"appID": call.blocks.metadata.app_id, "namespace": call.blocks.namespace}
    return None


async def try_lock(call: Call) -> Response:
    """The expiry is looked at before it is known whether there is any store."""
    message = await call.message()
    if _whole_number(message.get("expiryInSeconds", message.get("expiry_in_seconds"))) <= 0:
        raise EdgeError(Kind.MALFORMED_REQUEST, no_expiry(call.params[0]))
    return await _LOCK(call)


def _whole_number(value: Any) -> int:
    """A number as a message in JSON has it: a numeral, or one in quotes."""
    if value is None:
        return 0
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = 0.5
        if number.is_integer() and abs(number) < 2**31:
            return int(number)
    raise malformed("expiryInSeconds: expected a whole number")


_ACTORS = _refuse(Kind.ACTOR_NO_PLACEMENT, NO_PLACEMENT)
_LOCK = _refuse(Kind.LOCK_STORE_NOT_CONFIGURED, NO_LOCK)
_CRYPTO = _refuse(Kind.CRYPTO_PROVIDERS_NOT_CONFIGURED, NO_CRYPTO)
_SUBTLE = _after_message(_refuse(Kind.API_UNIMPLEMENTED, NO_SUBTLE))
_CONVERSATION = _after_message(_refuse(Kind.CONVERSATION_NOT_FOUND, no_conversation("{0}")))
_WORKFLOW_VERB = _after_message(_ACTORS)
_WORKFLOW_INPUT = _after_body(_ACTORS)


def _rows(
    methods: tuple[str, ...], versions: tuple[str, ...], tail: str, group: str, name: str, handler: Handler
) -> list[Route]:
    group_version = {"v1.0": "v1", "v1.0-alpha1": "v1alpha1", "v1.0-alpha2": "v1alpha2", "v1.0-beta1": "v1beta1"}
    return [Route(methods, f"{v}/{tail}", group, group_version[v], name, handler) for v in versions]


_STABLE_ALPHA = ("v1.0", "v1.0-alpha1")
_WORKFLOW = ("v1.0", "v1.0-beta1", "v1.0-alpha1")
_WRITE = ("POST", "PUT")

ROUTES: tuple[Route, ...] = (
    *_rows(("POST",), ("v1.0-alpha1",), "lock/{store}", "lock", "TryLockAlpha1", try_lock),
    *_rows(("POST",), ("v1.0-alpha1",), "unlock/{store}", "unlock", "UnlockAlpha1", _after_message(_LOCK)),
    *_rows(
        ("GET", "POST", "PUT", "DELETE"), ("v1.0",), "actors/{type}/{id}/method/{method}", "actors", "InvokeActor",
        _ACTORS,
    ),
    *_rows(_WRITE, ("v1.0",), "actors/{type}/{id}/state", "actors", "ExecuteActorStateTransaction", _ACTORS),
    *_rows(("GET",), ("v1.0",), "actors/{type}/{id}/state/{key}", "actors", "GetActorState", _ACTORS),
    *_rows(
        ("GET", "POST", "PUT", "DELETE"), ("v1.0",), "actors/{type}/{id}/reminders/{name}", "actors",
        "ActorReminder", _ACTORS,
    ),
    *_rows(
        ("POST", "PUT", "DELETE"), ("v1.0",), "actors/{type}/{id}/timers/{name}", "actors", "ActorTimer", _ACTORS
    ),
    *_rows(("POST",), _WORKFLOW, "workflows/{component}/{name}/start", "workflows", "StartWorkflow", _WORKFLOW_INPUT),
    *_rows(("GET",), _WORKFLOW, "workflows/{component}/{id}", "workflows", "GetWorkflow", _WORKFLOW_VERB),
    *_rows(
        ("POST",), _WORKFLOW, "workflows/{component}/{id}/raiseEvent/{event}", "workflows", "RaiseEventWorkflow",
        _WORKFLOW_INPUT,
    ),
    *(
        row
        for verb in ("Pause", "Resume", "Terminate", "Purge")
        for row in _rows(
            ("POST",), _WORKFLOW, f"workflows/{{component}}/{{id}}/{verb.lower()}", "workflows", f"{verb}Workflow",
            _WORKFLOW_VERB,
        )
    ),
    *_rows(("PUT",), ("v1.0-alpha1",), "crypto/{component}/encrypt", "crypto", "Encrypt", _CRYPTO),
    *_rows(("PUT",), ("v1.0-alpha1",), "crypto/{component}/decrypt", "crypto", "Decrypt", _CRYPTO),
    *(
        row
        for verb in ("getkey", "encrypt", "decrypt", "wrapkey", "unwrapkey", "sign", "verify")
        for row in _rows(
            ("POST",), ("v1.0-alpha1",), f"subtlecrypto/{{component}}/{verb}", "subtlecrypto", f"Subtle{verb}", _SUBTLE
        )
    ),
    *_rows(
        ("POST",), _STABLE_ALPHA, "jobs/{name}", "jobs", "ScheduleJob",
        _after_message(_refuse(Kind.JOB_SCHEDULE, f"failed to schedule job due to: {NO_SCHEDULER}")),
    ),
    *_rows(
        ("GET",), _STABLE_ALPHA, "jobs/{name}", "jobs", "GetJob",
        _refuse(Kind.JOB_GET, f"failed to get job due to: {NO_SCHEDULER}"),
    ),
    *_rows(
        ("DELETE",), _STABLE_ALPHA, "jobs/{name}", "jobs", "DeleteJob",
        _refuse(Kind.JOB_DELETE, f"failed to delete job due to: {NO_SCHEDULER}"),
    ),
    *_rows(
        ("POST",), ("v1.0-alpha1", "v1.0-alpha2"), "conversation/{name}/converse", "conversation", "Converse",
        _CONVERSATION,
    ),
)  # fmt: skip
