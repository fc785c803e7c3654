"""What a route is and what its handler gets: one call with its path parameters, query, headers, body and trace.

A handler parses, calls one block, renders. It raises `EdgeError` (or lets a block raise it); the face turns that into
the documented answer. Each module beside this one exports `ROUTES`, a tuple of rows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote_plus

import msgspec

from edge_runtime.model.errors import BodyTooLarge, EdgeError, Kind
from edge_runtime.model.http import Body, Header, Request, Response
from edge_runtime.model.trace import Trace

if TYPE_CHECKING:
    from edge_runtime.api.blocks import Blocks

JSON: Final[tuple[Header, ...]] = ((b"content-type", b"application/json"),)
TEXT: Final[tuple[Header, ...]] = ((b"content-type", b"text/plain; charset=utf-8"),)
NO_CONTENT: Final = Response(204)


class Route(NamedTuple):
    """`path` is `v1.0/state/{store}/{key}`; a last `*` takes the rest. `group`/`version` are what allow lists name.

    `name` is the endpoint's name in the API log when URLs are obfuscated.
    """

    methods: tuple[str, ...]
    path: str
    group: str
    version: str
    name: str
    handler: Callable[[Call], Awaitable[Response]]
    always: bool = False  # health: no allow or deny list takes it away


class Call:
    """One API call on its way through a handler."""

    __slots__ = ("blocks", "limit_bytes", "params", "query", "request", "rest", "trace")

    def __init__(
        self,
        blocks: Blocks,
        request: Request,
        params: tuple[str, ...],
        rest: str,
        query: str,
        trace: Trace,
        limit_bytes: int | None,
    ) -> None:
        self.blocks = blocks
        self.request = request
        self.params = params  # the {…} of the path in order, decoded by form rules
        self.rest = rest  # what `*` matched, cleaned, still percent-encoded
        self.query = query  # the raw query string without "?"
        self.trace = trace
        self.limit_bytes = limit_bytes

    async def body(self, kind: Kind = Kind.BODY_READ, message: str = "failed to read request body: {}") -> bytes:
        """The whole body. One that is too large is an error of `kind`; `{}` in `message` is its text."""
        body: Body = self.request.body
        try:
            return await body.read(self.limit_bytes)
        except BodyTooLarge as error:
            raise EdgeError(kind, message.format(error)) from None

    async def message(self) -> dict[str, Any]:
        """The body as a message in JSON, empty when there is none; what is there has to be one, whatever the verb."""
        data = await self.body()
        try:
            message = msgspec.json.decode(data) if data else {}
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise malformed(str(error)) from None
        if not isinstance(message, dict):
            raise malformed("expected a JSON object")
        return message

    def query_values(self, name: str) -> list[str]:
        """Every value of a query parameter."""
        return [value for key, value in self.query_pairs() if key == name]

    def query_value(self, name: str) -> str:
        """The first value of a query parameter, or an empty text."""
        if not self.query:
            return ""
        return next(iter(self.query_values(name)), "")

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """A number of the query. Raises EdgeError."""
        text = self.query_value(name)
        if not text:
            return default
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
            raise EdgeError(Kind.BAD_REQUEST, f"{name} {text!r}: expected a number from {least} to {most}")
        return int(text)

    def flag(self, name: str) -> bool:
        """`true` or `false` of the query; false when it is not there. Raises EdgeError."""
        text = self.query_value(name).lower()
        if text not in ("", "true", "false"):
            raise EdgeError(Kind.BAD_REQUEST, f"{name} {text!r}: expected true or false")
        return text == "true"

    def query_pairs(self) -> list[tuple[str, str]]:
        if not self.query:
            return []
        return parse_qsl(self.query, keep_blank_values=True)

    def metadata(self) -> dict[str, str]:
        """`metadata.<k>=<v>` of the query: prefix case-sensitive, first value only (Dapr: getMetadataFromRequest)."""
        found: dict[str, str] = {}
        if "metadata." in self.query:
            for key, value in self.query_pairs():
                if key.startswith("metadata."):
                    found.setdefault(key[9:], value)
        return found


def decode(segment: str) -> str:
    """A path parameter by form rules: %XX decoded and `+` is a space."""
    return unquote_plus(segment) if "%" in segment or "+" in segment else segment


def malformed(reason: str) -> EdgeError:
    """The body cannot be read as what this call takes."""
    return EdgeError(Kind.MALFORMED_REQUEST, f"failed deserializing HTTP body: {reason}")


def json_response(data: bytes, status: int = 200, headers: tuple[Header, ...] = ()) -> Response:
    return Response(status, (*JSON, *headers), Body(data))


def text_response(text: str, status: int = 200) -> Response:
    return Response(status, TEXT, Body(text.encode()))


def metadata_headers(metadata: dict[str, Any]) -> tuple[Header, ...]:
    """Response metadata as Dapr returns it: one header `metadata.<k>` each."""
    return tuple((f"metadata.{key}".encode(), str(value).encode()) for key, value in metadata.items())
