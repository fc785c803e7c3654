"""Service invocation of a running sidecar, statement by statement: every form of target, what arrives, what returns."""

from __future__ import annotations

import base64
import http.client
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.support.app import App, Received
from tests.support.raw import NO_APP_ID, Headers, Prefix, ask, check, exchange, parsed, plain, request_bytes
from tests.support.sidecar import Sidecar

pytestmark = pytest.mark.slow

METHOD = "/v1.0/invoke/me/method"
TRACE = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
OWN = (
    ("dapr-caller-app-id", "me"),
    ("dapr-caller-namespace", "default"),
    ("dapr-callee-app-id", "me"),
)

ENDPOINTS = """
apiVersion: dapr.io/v1alpha1
kind: HTTPEndpoint
metadata: {name: outside}
spec:
  baseUrl: http://127.0.0.1:PORT/base/
  headers: [{name: X-Own, value: endpoint}]
---
apiVersion: dapr.io/v1alpha1
kind: HTTPEndpoint
metadata: {name: dotted.name}
spec: {baseUrl: "http://127.0.0.1:PORT"}
"""


class Setting(NamedTuple):
    port: int
    app: App

    def arrives(self, method: str, target: str | bytes, body: bytes | None = None, headers: Headers = ()) -> Received:
        """What the app got for a call that it answered 200."""
        reply = ask(self.port, method, target, body, headers)
        assert reply.status == 200, reply
        return self.app.next()


def _answer(came: Received) -> tuple[int, Any]:
    return 200, b""


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    place = tmp_path_factory.mktemp("invoke")
    resources = place / "resources"
    resources.mkdir()
    paths = ("/", "/m", "/a/b", "/a%20b", "/a+b", "/%C3%A9", "/a%25b", "/v1.0/metadata", "/v1.0/invoke/x/method/m")
    more = ("/base/", "/base/m", "/v1.0/state/s/k", "/v1.0/invoke/me/method/m", "/a:b@c", "/%F0%9F%8D%8B", "/base")
    routes: dict[str, Any] = dict.fromkeys((*paths, *more), _answer)
    for status in (201, 204, 301, 304, 400, 404, 418, 500, 503):
        routes[f"/status/{status}"] = lambda _, status=status: (status, b"" if status in (204, 304) else b"told")
    routes["/typed"] = lambda _: (404, b"told", {"Content-Type": "text/x"})
    routes["/headers"] = lambda _: (
        200,
        b"told",
        {"X-Kept": "1", "Key-Bin": "AA==", "Connection": "X-Hop", "X-Hop": "1", "Upgrade": "x", "Trailer": "y"},
    )
    routes["/base/away"] = lambda _: (302, b"", {"Location": "/base/m"})
    routes["/away"] = lambda _: (302, b"", {"Location": "/m"})
    routes["/events"] = lambda _: (200, b"data: 1\n\n", {"Content-Type": "text/event-stream", "X-Kept": "1"})
    with App(routes) as app:
        (resources / "all.yaml").write_text(ENDPOINTS.replace("PORT", str(app.port)))
        with Sidecar(
            place / "node",
            *("--resources-path", str(resources), "--dapr-graceful-shutdown-seconds", "1"),
            app_id="me",
            app_port=app.port,
            environment={"APP_API_TOKEN": "app-token"},
        ) as sidecar:
            yield Setting(sidecar.port, app)


# --- targets ----------------------------------------------------------------------------------------------------------


def named(target: str) -> Headers:
    return (("dapr-app-id", target),)


def basic(text: str, scheme: str = "Basic") -> Headers:
    return (("Authorization", f"{scheme} {base64.b64encode(text.encode()).decode()}"),)


FORMS: list[tuple[str, str, Headers, str]] = [
    ("GET", METHOD + "/m", (), "/m"),
    ("GET", METHOD + "/m?a=%2F&b=+&c", (), "/m?a=%2F&b=+&c"),
    ("GET", METHOD + "/m?", (), "/m?"),
    ("GET", METHOD + "/", (), "/"),
    ("GET", METHOD + "//", (), "/"),
    ("GET", METHOD + "/m/", (), "/m"),
    ("GET", METHOD + "/x/../a/./b", (), "/a/b"),
    ("GET", METHOD + "/a//b", (), "/a/b"),
    ("GET", METHOD + "/a%2Fb", (), "/a/b"),
    ("GET", METHOD + "/a%20b", (), "/a%20b"),
    ("GET", METHOD + "/a+b", (), "/a+b"),
    ("GET", METHOD + "/%c3%a9", (), "/%C3%A9"),
    ("GET", METHOD + "/é", (), "/%C3%A9"),
    ("GET", METHOD + "/%F0%9F%8D%8B?q=é", (), "/%F0%9F%8D%8B?q=%C3%A9"),
    ("GET", METHOD + "/a:b@c", (), "/a:b@c"),
    ("GET", "//v1.0//invoke/me/method/m", (), "/m"),
    ("GET", "/v1.0/invoke/me.default/method/m", (), "/m"),
    ("GET", "/v1.0/invoke/%6De/method/m", (), "/m"),
    ("GET", "/v1.0/invoke/me/method/v1.0/invoke/x/method/m", (), "/v1.0/invoke/x/method/m"),
    ("GET", "/m", named("me"), "/m"),
    ("GET", "/m?x=1", named("me.default"), "/m?x=1"),
    ("GET", "/", named("me"), "/"),
    ("POST", "/v1.0/metadata", named("me"), "/v1.0/metadata"),
    ("HEAD", "/v1.0/metadata", named("me"), "/v1.0/metadata"),
    ("PATCH", "/v1.0/state/s/k", named("me"), "/v1.0/state/s/k"),
    ("GET", "/v1.0/invoke/me/method/m", named("me"), "/v1.0/invoke/me/method/m"),
    ("GET", "/m", basic("dapr-app-id:me"), "/m"),
    ("GET", "/m", basic("Dapr-App-ID:me"), "/m"),
    ("GET", METHOD + "/m", basic("somebody:else"), "/m"),
    ("GET", METHOD + "/m", basic("dapr-app-id:a:b"), "/m"),
    ("GET", "/m", (*basic("dapr-app-id:nobody"), *named("me")), "/m"),
]


@pytest.mark.parametrize(("method", "target", "headers", "arrives"), FORMS)
def test_targets_are_found(setting: Setting, method: str, target: str, headers: Headers, arrives: str) -> None:
    came = setting.arrives(method, target, None, headers)
    assert (came.method, came.path) == (method, arrives)
    assert "dapr-app-id" not in came.headers
    assert came.headers.get("authorization") == dict(headers).get("Authorization")


NOBODY: list[tuple[str, str, Headers]] = [
    ("GET", "/v1.0/invoke/me/method", ()),
    ("GET", "/v1.0/invoke/me", ()),
    ("GET", "/v1.0/invoke//method/m", ()),
    ("GET", "/v1.0/invoke", ()),
    ("GET", "/", ()),
    ("DELETE", "/v1.0/metadata", ()),
    ("GET", "/m", named("")),
    ("GET", "/m", basic("dapr-app-id:me:x")),
    ("GET", "/m", basic("dapr-app-id")),
    ("GET", "/m", basic("dapr-app-id:")),
    ("GET", "/m", basic("user:me")),
    ("GET", "/m", (("Authorization", "Basic %%%"),)),
    ("GET", "/m", (("Authorization", "Bearer x"),)),
]


@pytest.mark.parametrize(("method", "target", "headers"), NOBODY)
def test_without_target_it_is_404(setting: Setting, method: str, target: str, headers: Headers) -> None:
    check(ask(setting.port, method, target, None, headers), 404, NO_APP_ID)


FAILURES: list[tuple[str, str, Headers, str, str]] = [
    ("GET", "/v1.0/invoke/nobody/method/m", (), "nobody", "couldn't find service: nobody"),
    ("GET", "/v1.0/invoke/me.other/method/m", (), "me.other", "couldn't find service: me"),
    ("GET", "/v1.0/invoke/a.b.c/method/m", (), "a.b.c", "invalid app id"),
    ("GET", "/v1.0/invoke/me./method/m", (), "me.", "invalid app id"),
    ("GET", "/v1.0/invoke/m%2Be/method/m", (), "m e", "couldn't find service: m e"),
    ("GET", "/m", named("nobody"), "nobody", "couldn't find service: nobody"),
    ("GET", METHOD + "/m", named("nobody"), "nobody", "couldn't find service: nobody"),
    ("GET", METHOD + "/a%23b", (), "me", ""),
    ("GET", METHOD + "/a%3Fb", (), "me", ""),
    ("GET", METHOD + "/a%00b", (), "me", ""),
    ("GET", METHOD + "/a%0Ab", (), "me", ""),
    ("GET", METHOD + "/a%25b", (), "me", ""),
    ("GET", METHOD + "/a%zzb", (), "me", ""),
    ("CONNECT", METHOD + "/m", (), "me", ""),
    ("GET", "/v1.0/invoke/http://127.0.0.1:1/method/m", (), "http://127.0.0.1:1", "dial tcp 127.0.0.1:1: connect: "),
]


@pytest.mark.parametrize(("method", "target", "headers", "name", "reason"), FAILURES)
def test_failures_name_the_target(
    setting: Setting, method: str, target: str, headers: Headers, name: str, reason: str
) -> None:
    message = Prefix(f"failed to invoke, id: {name}, err: {reason}")
    check(ask(setting.port, method, target, None, headers), 500, plain("ERR_DIRECT_INVOKE", message))


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "x"]
)
def test_verbs_are_kept(setting: Setting, method: str) -> None:
    """An unknown one becomes POST."""
    came = setting.arrives(method, METHOD + "/m")
    assert came.method == (method if method not in ("PROPFIND", "x") else "POST")


# --- what arrives -----------------------------------------------------------------------------------------------------


def test_headers_are_forwarded(setting: Setting) -> None:
    sent = [
        *(("X-Many", "1"), ("X-Many", "2"), ("Content-Type", "text/x"), ("User-Agent", "me"), ("Cookie", "a=b")),
        *(("Accept-Encoding", "br"), ("Accept", "*/*"), ("Connection", "X-Hop, keep-alive"), ("X-Hop", "1")),
        *(("Keep-Alive", "1"), ("Proxy-Connection", "x"), ("Upgrade", "x"), ("HTTP2-Settings", "x"), ("TE", "x")),
        *(("Trailer", "x"), ("Proxy-Authorization", "x"), ("Proxy-Authenticate", "x"), ("Dapr-Api-Token", "mine")),
        *(("dapr-caller-app-id", "evil"), ("dapr-callee-app-id", "evil"), ("Key-Bin", "AA==")),
    ]
    came = setting.arrives("POST", METHOD + "/m", b"body", sent)
    assert came.body == b"body"
    assert sorted(came.lines) == sorted(
        [
            *(("x-many", "1"), ("x-many", "2"), ("content-type", "text/x"), ("user-agent", "me"), ("cookie", "a=b")),
            *(("accept-encoding", "br"), ("accept", "*/*"), ("content-length", "4")),
            *(("host", f"127.0.0.1:{setting.app.port}"), ("dapr-api-token", "app-token"), *OWN),
        ]
    )


def test_a_bare_call_gets_little(setting: Setting) -> None:
    came = setting.arrives("GET", METHOD + "/m")
    assert sorted(came.lines) == sorted(
        [
            *(("host", f"127.0.0.1:{setting.app.port}"), ("dapr-api-token", "app-token"), *OWN),
            *(("user-agent", "Go-http-client/1.1"), ("accept-encoding", "gzip")),
        ]
    )


def test_the_trace_goes_through(setting: Setting) -> None:
    headers = (("traceparent", TRACE), ("tracestate", "a=b"), ("baggage", "a=1"), ("baggage", "b=2"))
    reply = ask(setting.port, "GET", METHOD + "/m", None, headers)
    came = setting.app.next()
    for seen in (came.headers, reply.headers):
        assert (seen["traceparent"], seen["tracestate"]) == (TRACE, "a=b")
    assert reply.headers["baggage"] == "a=1,b=2"
    assert [value for name, value in came.lines if name == "baggage"] == ["a=1"]


@pytest.mark.parametrize("size", [0, 1, 100_000, 4 * 2**20])
def test_bodies_arrive_whole(setting: Setting, size: int) -> None:
    body = b"ab" * (size // 2)
    came = setting.arrives("POST", METHOD + "/m", body)
    assert (came.body, came.headers["content-length"]) == (body, str(len(body)))


def test_chunks_arrive(setting: Setting) -> None:
    chunked = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
    head = request_bytes("POST", METHOD + "/m", None, (("Transfer-Encoding", "chunked"),))
    assert parsed(exchange(setting.port, head + chunked)).status == 200
    assert setting.app.next().body == b"abcde"


def test_an_announced_body_is_asked_for(setting: Setting) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", setting.port, timeout=30)
    connection.putrequest("POST", METHOD + "/m")
    connection.putheader("Expect", "100-continue")
    connection.putheader("Content-Length", "3")
    connection.endheaders()
    assert connection.sock is not None
    first = connection.sock.recv(100)
    assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sock.sendall(b"abc")
    assert connection.getresponse().status == 200
    connection.close()
    came = setting.app.next()
    assert (came.body, "expect" in came.headers) == (b"abc", False)


# --- what returns -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [201, 204, 301, 304, 400, 404, 418, 500, 503])
def test_every_status_returns(setting: Setting, status: int) -> None:
    reply = ask(setting.port, "POST", f"{METHOD}/status/{status}", b"x")
    setting.app.next()
    assert (reply.status, reply.body) == (status, b"" if status in (204, 304) else b"told")
    assert reply.headers.get("content-type") == (None if status < 400 else "application/json")


def test_a_failures_type_is_kept(setting: Setting) -> None:
    reply = ask(setting.port, "GET", METHOD + "/typed")
    setting.app.next()
    assert (reply.status, reply.headers["content-type"], reply.body) == (404, "text/x", b"told")


def test_headers_return(setting: Setting) -> None:
    reply = ask(setting.port, "GET", METHOD + "/headers")
    setting.app.next()
    assert reply.headers["x-kept"] == "1"
    assert not {"key-bin", "x-hop", "upgrade", "trailer"} & set(reply.headers)


def test_redirects_return(setting: Setting) -> None:
    reply = ask(setting.port, "GET", METHOD + "/away")
    setting.app.next()
    assert (reply.status, reply.headers["location"]) == (302, "/m")


def test_event_streams_are_relayed(setting: Setting) -> None:
    reply = ask(setting.port, "GET", METHOD + "/events", None, (("Accept", "text/event-stream"),))
    setting.app.next()
    assert b"data: 1\n\n" in reply.body
    shown = {name: reply.headers.get(name) for name in ("content-type", "cache-control", "content-length")}
    assert shown == {"content-type": "text/event-stream", "cache-control": "no-cache", "content-length": None}


# --- places outside ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "arrives"),
    [
        ("http://HOST/method/m?q=1", "/m?q=1"),
        ("http%3A%2F%2FHOST/method/m", "/m"),
        ("http%253A%252F%252FHOST/method/m", "/m"),
        ("http://HOST/a/method/b", "/a/b"),
        ("http://HOST/method/", "/"),
    ],
)
def test_direct_urls_are_called(setting: Setting, target: str, arrives: str) -> None:
    host = f"127.0.0.1:{setting.app.port}"
    came = setting.arrives("GET", "/v1.0/invoke/" + target.replace("HOST", host))
    assert came.path == arrives
    assert {name for name, _ in came.lines if name.startswith(("dapr-", "x-forwarded", "forwarded"))} == {
        "dapr-api-token"
    }
    assert came.headers["dapr-api-token"] == "app-token"


def test_a_header_may_hold_a_url(setting: Setting) -> None:
    assert setting.arrives("GET", "/m", None, named(f"http://127.0.0.1:{setting.app.port}/base")).path == "/base/m"


@pytest.mark.parametrize(("target", "headers"), [("/v1.0/invoke/outside/method/m", ()), ("/m", named("outside"))])
def test_endpoints_are_called(setting: Setting, target: str, headers: Headers) -> None:
    came = setting.arrives("GET", target, None, (*headers, ("X-Own", "caller"), ("X-Other", "caller")))
    assert came.path == "/base/m"
    assert [value for name, value in came.lines if name == "x-own"] == ["endpoint"]
    assert came.headers["x-other"] == "caller"
    assert not [name for name in came.headers if name.startswith(("dapr-", "x-forwarded", "forwarded"))]


def test_endpoints_follow_redirects(setting: Setting) -> None:
    assert ask(setting.port, "GET", "/v1.0/invoke/outside/method/away").status == 200
    assert [setting.app.next().path for _ in range(2)] == ["/base/away", "/base/m"]


def test_an_endpoint_may_have_a_dot(setting: Setting) -> None:
    assert setting.arrives("GET", "/v1.0/invoke/dotted.name/method/m").path == "/m"


def test_endpoints_are_in_the_metadata(setting: Setting) -> None:
    document = ask(setting.port, "GET", "/v1.0/metadata", None, named("me")).json()
    assert sorted(item["name"] for item in document["httpEndpoints"]) == ["dotted.name", "outside"]
    assert document["appConnectionProperties"] == {
        "port": setting.app.port,
        "protocol": "http",
        "channelAddress": "127.0.0.1",
    }
