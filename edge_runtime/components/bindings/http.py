"""bindings.http: requests to one HTTP server, an operation a method."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from edge_runtime.components.metadata import Fields
from edge_runtime.config.values import truthy
from edge_runtime.model.errors import BindingFailed, ConfigError, DriverError
from edge_runtime.model.http import EMPTY, Body, Header, Request, Response
from edge_runtime.model.ports import BindingResponse
from edge_runtime.net.client_tls import client_tls
from edge_runtime.net.http_client import ClientLimits, HttpClient, open_http_client
from edge_runtime.net.redirects import PRIVATE, follow
from edge_runtime.net.urls import Url, parse_url
from edge_runtime.wire.headers import metadata_headers
from edge_runtime.wire.http1.writer import REASONS

if TYPE_CHECKING:
    from edge_runtime.components.registry import ComponentContext

logger: Final = logging.getLogger("dapr.contrib")

_FIELDS: Final = (
    "url",
    "responseTimeout",
    "maxResponseBodySize",
    "MTLSRootCA",
    "MTLSClientCert",
    "MTLSClientKey",
    "MTLSRenegotiation",
    "securityToken",
    "securityTokenHeader",
    "errorIfNot2XX",
)
_METHODS: Final = {
    "create": "POST",
    "get": "GET",
    "head": "HEAD",
    "post": "POST",
    "put": "PUT",
    "patch": "PATCH",
    "delete": "DELETE",
    "options": "OPTIONS",
    "trace": "TRACE",
}
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_TRACE: Final = ("traceparent", "tracestate", "baggage")
_JSON: Final = b"application/json; charset=utf-8"
_CONNECT_TIMEOUT_S: Final = 15.0
_HEAD_BYTES_MAX: Final = 65536
_BODY_BYTES_MAX: Final = 100 * 2**20
_FILE_BYTES_MAX: Final = 2**20
_NAME_SHOWN_MAX: Final = 100
_RENEGOTIATION: Final = ("RenegotiateNever", "RenegotiateOnceAsClient", "RenegotiateFreelyAsClient")


class _Settings(NamedTuple):
    url: str
    timeout_s: float  # 0 is none
    body_bytes_max: int  # 0 or less is no limit
    token: tuple[Header, ...]
    error_if_not_2xx: bool


class HttpBinding:
    """Keeps `model.ports.OutputBinding`."""

    operations = tuple(_METHODS)

    def __init__(self, client: HttpClient, settings: _Settings) -> None:
        self._client = client
        self._settings = settings
        self._private = PRIVATE.union(name for name, _ in settings.token)

    async def invoke(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> BindingResponse:
        """What the server answered; an answer other than 2xx is a failure unless the settings say otherwise."""
        url = self._url(metadata)
        request = _request(_METHODS[operation], url, data, metadata, self._settings.token)
        timeout_s = self._settings.timeout_s or float("inf")
        with trio.move_on_after(timeout_s):
            response = await follow(self._client.send, url, request, self._private)
            answer = BindingResponse(await self._body(response), _shown(response))
            return self._checked(response.status, answer, metadata)
        raise DriverError(f"no answer within {timeout_s:g} s (responseTimeout)")

    def _url(self, metadata: Mapping[str, str]) -> Url:
        base = self._settings.url
        if not base:
            raise DriverError("metadata 'url' is missing; add it to spec.metadata of the component")
        path = metadata.get("path")
        try:
            return parse_url(base if path is None else f"{base.rstrip('/')}/{path.lstrip('/')}")
        except ValueError as error:
            raise DriverError(f"the URL cannot be used: {error}") from None

    async def _body(self, response: Response) -> bytes:
        """What is longer than the limit is cut off."""
        limit = self._settings.body_bytes_max
        kept, size = [], 0
        try:
            async for piece in response.body.chunks():
                kept.append(piece)
                size += len(piece)
                if 0 < limit <= size:
                    break
        finally:
            await response.body.aclose()
        body = b"".join(kept)
        return body[:limit] if limit > 0 else body

    def _checked(self, status: int, answer: BindingResponse, metadata: Mapping[str, str]) -> BindingResponse:
        said = metadata.get("errorIfNot2XX")
        strict = self._settings.error_if_not_2xx if not said else truthy(said)
        if strict and not 200 <= status < 300:
            raise BindingFailed(f"received status code {status}", code=status, metadata=answer.metadata)
        return answer


def _request(method: str, url: Url, data: bytes, metadata: Mapping[str, str], token: tuple[Header, ...]) -> Request:
    """Metadata whose names begin with a capital letter are headers."""
    named = {key: value for key, value in metadata.items() if key[:1].isupper()}
    headers = metadata_headers(named)
    present = {name for name, _ in headers}
    content_type = next((value for key, value in named.items() if key.lower() == "content-type"), "")
    if method in _WITH_BODY:
        headers.append((b"content-type", _value(content_type) or _JSON))
    if b"accept" not in present:
        headers.append((b"accept", _JSON))
    headers += [(name.encode(), _value(metadata[name])) for name in _TRACE if metadata.get(name)]
    headers += token
    body = Body(data) if method in _WITH_BODY else EMPTY
    return Request(method, (url.path or b"/") + url.query, headers, body)


def _value(text: str) -> bytes:
    return " ".join(text.split()).encode("utf-8", "replace")


def _shown(response: Response) -> dict[str, str]:
    """The answer's status and headers; values of a repeated header are joined."""
    shown: dict[str, str] = {}
    for raw, value in response.headers:
        name = "-".join(part.capitalize() for part in raw.decode("latin-1").split("-"))
        text = value.decode("utf-8", "replace")
        shown[name] = f"{shown[name]}, {text}" if name in shown else text
    reason = REASONS.get(response.status, "")
    return {**shown, "statusCode": str(response.status), "status": f"{response.status} {reason}".rstrip()}


@asynccontextmanager
async def open_http_binding(context: ComponentContext) -> AsyncIterator[HttpBinding]:
    """The binding with its pool of connections; nothing is connected before the first call."""
    fields = Fields(context.metadata, _FIELDS, context.name)
    for line in fields.warnings():
        logger.warning("%s", line)
    renegotiation = fields.choice("MTLSRenegotiation", _RENEGOTIATION[0], _RENEGOTIATION)
    try:
        tls = client_tls(
            _pem(fields, "MTLSRootCA", context.directory),
            _pem(fields, "MTLSClientCert", context.directory),
            _pem(fields, "MTLSClientKey", context.directory),
            renegotiates=renegotiation != _RENEGOTIATION[0],
        )
    except ValueError as error:
        raise ConfigError(f"component {context.name!r}: its MTLS fields cannot be used: {error}") from None
    limits = ClientLimits(head_bytes_max=_HEAD_BYTES_MAX, connect_timeout_s=_CONNECT_TIMEOUT_S)
    async with open_http_client(limits, tls) as client:
        yield HttpBinding(client, _settings(fields))


def _settings(fields: Fields) -> _Settings:
    header, token = fields.text("securityTokenHeader", ""), fields.text("securityToken", "")
    size = fields.text("maxResponseBodySize", "")
    return _Settings(
        fields.text("url", ""),
        max(fields.duration_s("responseTimeout", 0.0), 0.0),
        0 if size.startswith("-") else fields.size_bytes("maxResponseBodySize", _BODY_BYTES_MAX),
        tuple(metadata_headers({header: token})) if header and token else (),
        fields.flag("errorIfNot2XX", True),
    )


def _pem(fields: Fields, name: str, directory: str) -> str:
    """A field's text when that is PEM, else what the file of that name holds."""
    text = fields.text(name, "")
    if not text or "-----BEGIN" in text:
        return text
    path = os.path.join(directory, text)
    try:
        with open(path, encoding="ascii") as file:
            return file.read(_FILE_BYTES_MAX)
    except (OSError, UnicodeDecodeError) as error:
        # A key without its first line would be shown as a whole.
        shown = text if len(text) <= _NAME_SHOWN_MAX else f"{len(text)} characters"
        why = error.strerror if isinstance(error, OSError) else "it is no ASCII text"
        raise fields.error(name, shown, f"a PEM text or a file that holds one ({why})") from None
