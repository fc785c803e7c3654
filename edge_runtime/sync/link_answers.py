"""What the other sidecar answers, and what that means: a considered no, or something that may pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import quote

from edge_runtime.model.errors import DriverError

_SAFE: Final = "!$&'()*+,-.:;=@_~"


class Answer(NamedTuple):
    """What the other sidecar said; a status of the 200s."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Refused(DriverError):
    """The other sidecar's considered no; `answer` is what it said over HTTP."""

    permanent = True

    def __init__(self, message: str, answer: Answer | None, code: int | None = None) -> None:
        super().__init__(message, code=answer.status if answer is not None else code)
        self.answer = answer


class TooLarge(DriverError):
    """It can never cross this link as it is configured."""

    permanent = True


class Failed(DriverError):
    """The other sidecar's answer to what may succeed another time."""

    def __init__(self, message: str, answer: Answer) -> None:
        super().__init__(message, code=answer.status)
        self.answer = answer


def segment(text: str) -> str:
    """A name as one segment of a path."""
    return quote(text, safe=_SAFE.replace("+", ""))


def is_page(answer: Answer) -> bool:
    """A web page where a sidecar never has one: a captive portal, or a proxy that speaks for itself."""
    return answer.headers.get("content-type", "").lower().startswith("text/html")


def is_considered(answer: Answer) -> bool:
    """A refusal that a sidecar has thought about: in its own words, and not of a component that may come yet.

    A proxy or a firewall that refuses has other words, and what it refuses must not be given up.
    """
    code = error_code(answer)
    return bool(code) and not code.endswith(("_NOT_FOUND", "_NOT_CONFIGURED"))


def is_about_a_store(answer: Answer) -> bool:
    """Dapr answers 401 also where a secret store is not there, which says nothing of the token."""
    return error_code(answer) == "ERR_SECRET_STORE_NOT_FOUND"


def error_code(answer: Answer) -> str:
    try:
        code = json.loads(answer.body)["errorCode"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return code if isinstance(code, str) else ""


def excerpt(answer: Answer) -> str:
    text = " ".join(answer.body[:300].decode("utf-8", "replace").split())
    return f": {text}" if text else ""
