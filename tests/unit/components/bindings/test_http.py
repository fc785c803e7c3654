"""`bindings.http`: what is sent to the server, and what is made of its answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio

from edge_runtime.components.bindings.http import HttpBinding, open_http_binding
from edge_runtime.components.registry import ComponentContext
from edge_runtime.model.errors import BindingFailed, ConfigError, DriverError
from edge_runtime.store.database import Databases
from tests.support.app import App, Received


def echo(came: Received) -> tuple[int, Any, Mapping[str, str]]:
    return 200, b"answer", {"Content-Type": "text/plain", "X-One": "1"}


ROUTES = {
    "/base": echo,
    "/base/a b": echo,
    "/base/a%20b": echo,
    "/missing": lambda came: (404, b"not here"),
    "/long": lambda came: (200, b"x" * 300_000),
    "/moved": lambda came: (302, b"", {"Location": "/base"}),
    "/kept": lambda came: (307, b"", {"Location": "/base"}),
    "/round": lambda came: (302, b"", {"Location": "/round"}),
    "/astray": lambda came: (302, b"", {"Location": "ftp://x"}),
}


@asynccontextmanager
async def opened(url: str, **fields: str) -> AsyncIterator[HttpBinding]:
    databases = cast(Databases, None)
    metadata = {"url": url, **fields}
    context = ComponentContext("h", "bindings.http", "v1", metadata, "app", "", databases, "", "")
    async with open_http_binding(context) as binding:
        yield binding


def sent(app: App) -> dict[str, str]:
    """The headers that came, without the connection's own."""
    headers = dict(app.next().headers)
    return {name: value for name, value in headers.items() if name not in ("host", "content-length")}


async def test_an_operation_is_a_method() -> None:
    with App(ROUTES) as app:
        async with opened(f"http://127.0.0.1:{app.port}/base") as binding:
            for operation in binding.operations:
                await binding.invoke(operation, b"data", {"path": "/a b", "errorIfNot2XX": "false"})
    came = [app.next() for _ in HttpBinding.operations]
    methods = ["POST", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
    assert [item.method for item in came] == methods
    assert {item.path for item in came} == {"/base/a%20b"}
    assert {item.method for item in came if item.body} == {"POST", "PUT", "PATCH"}


async def test_an_answer_has_status_and_headers() -> None:
    with App(ROUTES) as app:
        async with opened(f"http://127.0.0.1:{app.port}/base") as binding:
            answer = await binding.invoke("get", b"", {})
    assert answer.data == b"answer"
    shown = dict(answer.metadata)
    assert (shown["statusCode"], shown["status"]) == ("200", "200 OK")
    assert (shown["Content-Type"], shown["X-One"]) == ("text/plain", "1")


async def test_metadata_with_a_capital_are_headers() -> None:
    metadata = {"Authorization": "me", "X-Line": "a\r\nb", "lower": "no", "traceparent": "t", "baggage": "b"}
    with App(ROUTES) as app:
        async with opened(f"http://127.0.0.1:{app.port}/base") as binding:
            await binding.invoke("post", b"{}", metadata)
            await binding.invoke("post", b"{}", {"Content-Type": "text/plain", "Accept": "text/html"})
            await binding.invoke("get", b"{}", {})
        json = "application/json; charset=utf-8"
        usual = {"content-type": json, "accept": json}
        assert sent(app) == {**usual, "authorization": "me", "x-line": "a  b", "traceparent": "t", "baggage": "b"}
        assert sent(app) == {"content-type": "text/plain", "accept": "text/html"}
        assert sent(app) == {"accept": json}


async def test_a_token_needs_its_header() -> None:
    with App(ROUTES) as app:
        url = f"http://127.0.0.1:{app.port}/base"
        async with opened(url, securityToken="s", securityTokenHeader="X-Token") as binding:
            await binding.invoke("get", b"", {})
        async with opened(url, securityToken="s") as binding:
            await binding.invoke("get", b"", {})
        assert sent(app)["x-token"] == "s"
        assert "x-token" not in sent(app)


async def test_other_statuses_are_failures_unless_told() -> None:
    with App(ROUTES) as app:
        url = f"http://127.0.0.1:{app.port}/missing"
        async with opened(url) as binding:
            with pytest.raises(BindingFailed, match="received status code 404") as raised:
                await binding.invoke("get", b"", {})
            assert raised.value.code == 404
            assert raised.value.metadata["status"] == "404 Not Found"
            assert (await binding.invoke("get", b"", {"errorIfNot2XX": "false"})).data == b"not here"
        async with opened(url, errorIfNot2XX="false") as binding:
            assert (await binding.invoke("get", b"", {})).metadata["statusCode"] == "404"
            with pytest.raises(BindingFailed):
                await binding.invoke("get", b"", {"errorIfNot2XX": "true"})


@pytest.mark.parametrize(("size", "kept"), [("1000", 1000), ("0", 300_000), ("-1", 300_000), ("1Mi", 300_000)])
async def test_a_long_answer_is_cut_off(size: str, kept: int) -> None:
    with App(ROUTES) as app:
        async with opened(f"http://127.0.0.1:{app.port}/long", maxResponseBodySize=size) as binding:
            assert len((await binding.invoke("get", b"", {})).data or b"") == kept


@pytest.mark.parametrize(("path", "method"), [("moved", "GET"), ("kept", "POST")])
async def test_redirects_are_followed(path: str, method: str) -> None:
    with App(ROUTES) as app:
        async with opened(f"http://127.0.0.1:{app.port}", securityToken="s", securityTokenHeader="T") as binding:
            assert (await binding.invoke("post", b"data", {"path": path})).data == b"answer"
        app.next()
        followed = app.next()
    assert (followed.method, followed.path, followed.headers["t"]) == (method, "/base", "s")


@pytest.mark.parametrize(
    ("path", "text"), [("round", "stopped after 10 redirects"), ("astray", "a place that cannot be used")]
)
async def test_some_redirects_are_not(path: str, text: str) -> None:
    with App(ROUTES) as app:
        async with opened(f"http://127.0.0.1:{app.port}") as binding:
            with pytest.raises(DriverError, match=text):
                await binding.invoke("get", b"", {"path": path})


async def test_another_host_does_not_see_the_token() -> None:
    with App(ROUTES) as other:
        away = {"/go": lambda came: (302, b"", {"Location": f"http://localhost:{other.port}/base"})}
        with App(away) as app:
            url = f"http://127.0.0.1:{app.port}/go"
            async with opened(url, securityToken="s", securityTokenHeader="T") as binding:
                await binding.invoke("get", b"", {"Authorization": "me", "X-Own": "1"})
            headers = sent(other)
    assert "t" not in headers
    assert "authorization" not in headers
    assert headers["x-own"] == "1"


async def test_a_url_is_needed_with_the_call() -> None:
    async with opened("") as binding:
        with pytest.raises(DriverError, match="'url' is missing"):
            await binding.invoke("get", b"", {})
    async with opened("ftp://x") as binding:
        with pytest.raises(DriverError, match="the URL cannot be used"):
            await binding.invoke("get", b"", {})


async def test_a_server_that_does_not_answer_is_given_up() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with opened(f"http://127.0.0.1:{port}", responseTimeout="20ms") as binding:
        with pytest.raises(DriverError, match=r"no answer within 0.02 s \(responseTimeout\)"):
            await binding.invoke("get", b"", {})
    await listeners[0].aclose()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"MTLSRenegotiation": "Sometimes"}, "expected one of RenegotiateNever"),
        ({"MTLSClientCert": "-----BEGIN x"}, "only one of certificate and private key"),
        ({"MTLSRootCA": "-----BEGIN x"}, "expected PEM texts"),
        ({"MTLSRootCA": "/nowhere/ca.pem"}, "a PEM text or a file that holds one"),
        ({"maxResponseBodySize": "big"}, "expected a size"),
    ],
)
async def test_mistakes_are_named(fields: dict[str, str], text: str) -> None:
    async def open_it() -> None:
        async with opened("http://x", **fields):
            pass

    with pytest.raises(ConfigError, match=text):
        await open_it()


async def test_a_key_is_not_shown() -> None:
    """One that was pasted without its first line is taken for the name of a file."""
    key = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC" * 50
    with pytest.raises(ConfigError, match="a PEM text or a file") as caught:
        async with opened("http://x", MTLSClientKey=key):
            pass
    assert "MIIE" not in str(caught.value)
