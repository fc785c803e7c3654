"""The face alone: routing, token, CORS, traces and the API log, around handlers of the test's own."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from edge_runtime.api.http.face import Face, FaceSettings, Router, allowed_routes, clean_path
from edge_runtime.api.http.routes import Call, Route, text_response
from edge_runtime.model.errors import EdgeError, Kind
from edge_runtime.model.http import Body, Header, Request, Response
from edge_runtime.observability.http_metrics import HttpMetricsSettings, HttpServerMetrics
from edge_runtime.observability.metrics import Metrics, render
from edge_runtime.observability.trace import Tracer

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def echo(call: Call) -> Response:
    return text_response(json.dumps([call.params, call.rest, call.query, call.trace.traceparent]))


async def headers(call: Call) -> Response:
    return text_response(",".join(name.decode() for name, _ in call.request.headers))


async def fail(call: Call) -> Response:
    raise EdgeError(Kind.SECRET_DENIED, "no")


async def read(call: Call) -> Response:
    return text_response(str(len(await call.body(Kind.BODY_READ))))


async def fallback(call: Call) -> Response:
    return text_response(f"fallback {call.rest}", 404)


def route(methods: str, path: str, handler: Any = echo, **more: Any) -> Route:
    return Route(tuple(methods.split()), path, path.split("/")[1], "v1", path, handler, **more)


ROUTES = (
    route("GET", "v1.0/state/{store}/{key}"),
    route("POST PUT", "v1.0/state/{store}"),
    route("POST PUT", "v1.0/state/{store}/bulk"),
    route("GET", "v1.0/secrets/{store}/{key}"),
    route("GET", "v1.0/secrets/{store}/bulk"),
    route("POST PUT", "v1.0/publish/{pubsub}/*"),
    route("POST PUT", "v1.0/publish/bulk/{pubsub}/*"),
    route("GET", "v1.0/metadata", headers),
    route("GET", "v1.0/fail", fail),
    route("POST", "v1.0/read", read),
    route("GET", "v1.0/healthz", always=True),
    route("GET POST", "v1.0/invoke/*"),
)


DEFAULTS = FaceSettings()


def face(settings: FaceSettings = DEFAULTS, sampling: float | None = None, **more: Any) -> Face:
    return Face(
        more.pop("blocks", None),
        ROUTES,
        settings,
        Tracer(sampling),
        more.pop("metrics", None),
        more.pop("back", fallback),
    )


async def ask(
    to: Face, target: str, method: str = "GET", headers: Sequence[Header] = (), body: bytes = b""
) -> Response:
    return await to.handle(Request(method, target.encode(), headers, Body(body)))


async def answer(target: str, method: str = "GET") -> Any:
    response = await ask(face(), target, method)
    text = response.body.data.decode()
    return json.loads(text) if response.status == 200 else text


@pytest.mark.parametrize(
    ("target", "method", "params"),
    [
        ("/v1.0/state/s/k", "GET", ["s", "k"]),
        ("/v1.0/state/s/bulk", "GET", ["s", "bulk"]),
        ("/v1.0/state/s/bulk", "POST", ["s"]),
        ("/v1.0/secrets/s/bulk", "GET", ["s"]),
        ("/v1.0/state/s/a%2Fb%7C+c", "GET", ["s", "a/b| c"]),
        ("//v1.0//state/./s/x/../k/", "GET", ["s", "k"]),
        ("http://localhost:3500/v1.0/state/s/k", "GET", ["s", "k"]),
        ("/v1.0/state/s", "PUT", ["s"]),
    ],
)
async def test_paths_find_their_route(target: str, method: str, params: list[str]) -> None:
    assert (await answer(target, method))[0] == params


@pytest.mark.parametrize(
    ("target", "params", "rest"),
    [
        ("/v1.0/publish/p/t", ["p"], "t"),
        ("/v1.0/publish/p/a/b%2Fc", ["p"], "a/b%2Fc"),
        ("/v1.0/publish/bulk/p/t", ["p"], "t"),
        ("/v1.0/publish/bulk/t", ["bulk"], "t"),
    ],
)
async def test_a_star_takes_the_rest(target: str, params: list[str], rest: str) -> None:
    assert (await answer(target, "POST"))[:2] == [params, rest]


@pytest.mark.parametrize(
    ("target", "rest"),
    [
        ("/v1.0/invoke/a/method/", "a/method/"),
        ("/v1.0/invoke/http://h:1/method/x", "http://h:1/method/x"),
        ("//v1.0/./invoke/a/method//x", "a/method//x"),
    ],
)
async def test_an_invocation_keeps_its_slashes(target: str, rest: str) -> None:
    assert (await answer(target))[1] == rest


@pytest.mark.parametrize(
    ("target", "method"), [("/nothing", "GET"), ("/v1.0/state/s/k", "HEAD"), ("/v1.0/publish/p", "POST"), ("/", "GET")]
)
async def test_what_fits_no_route_falls_back(target: str, method: str) -> None:
    assert await answer(target, method) == f"fallback {target[1:]}"


async def test_without_fallback_the_router_answers() -> None:
    lonely = face(back=None)
    missing = await ask(lonely, "/nothing")
    assert (missing.status, missing.body.data) == (404, b"404 page not found\n")
    assert (await ask(lonely, "/v1.0/metadata", "DELETE")).status == 405


async def test_query_comes_undecoded() -> None:
    assert (await answer("/v1.0/state/s/k?a=%20&b"))[2] == "a=%20&b"


async def test_errors_become_their_answer() -> None:
    response = await ask(face(), "/v1.0/fail")
    assert response.status == 403
    assert json.loads(response.body.data)["errorCode"] == "ERR_PERMISSION_DENIED"


async def test_a_body_over_the_limit_is_refused() -> None:
    small = face(FaceSettings(body_limit_bytes=3))
    assert (await ask(small, "/v1.0/read", "POST", body=b"abc")).status == 200
    response = await ask(small, "/v1.0/read", "POST", body=b"abcd")
    assert json.loads(response.body.data) == {
        "errorCode": "ERR_BODY_READ",
        "message": "failed to read request body: stream too large",
    }


class TestToken:
    guarded = FaceSettings(token="t")

    async def test_a_wrong_token_is_refused(self) -> None:
        for given in ((), ((b"dapr-api-token", b"x"),)):
            response = await ask(face(self.guarded), "/v1.0/metadata", headers=given)
            assert (response.status, response.body.data) == (401, b"invalid api token\n")

    async def test_the_right_token_is_taken_off(self) -> None:
        given = ((b"dapr-api-token", b"t"), (b"x-a", b"1"))
        response = await ask(face(self.guarded), "/v1.0/metadata", headers=given)
        assert (response.status, response.body.data) == (200, b"x-a")

    @pytest.mark.parametrize(
        ("target", "method", "status"),
        [("/v1.0/healthz?appid=a", "GET", 200), ("/v1.0/healthz/", "GET", 200), ("/v1.0/healthz", "POST", 401)],
    )
    async def test_only_health_is_exempt(self, target: str, method: str, status: int) -> None:
        assert (await ask(face(self.guarded), target, method)).status == status

    async def test_without_one_the_header_stays(self) -> None:
        response = await ask(face(), "/v1.0/metadata", headers=((b"dapr-api-token", b"t"),))
        assert response.body.data == b"dapr-api-token"


class TestCors:
    async def test_preflight_needs_no_token(self) -> None:
        given = ((b"origin", b"http://a"), (b"access-control-request-method", b"PUT"))
        for origins, expected in ((("*",), b"*"), (("http://a",), b"http://a")):
            to = face(FaceSettings(token="t", allowed_origins=origins))
            response = await ask(to, "/v1.0/metadata", "OPTIONS", given)
            assert response.status == 200
            assert response.header(b"access-control-allow-origin") == expected
            assert b"PUT" in (response.header(b"access-control-allow-methods") or b"")

    async def test_a_strange_origin_gets_no_permission(self) -> None:
        response = await ask(
            face(FaceSettings(allowed_origins=("http://a",))), "/v1.0/metadata", headers=((b"origin", b"http://b"),)
        )
        assert response.header(b"access-control-allow-origin") is None

    async def test_it_is_off_by_default(self) -> None:
        response = await ask(face(), "/v1.0/metadata", headers=((b"origin", b"http://a"),))
        assert response.header(b"access-control-allow-origin") is None


class TestTrace:
    async def test_without_tracer_it_is_echoed(self) -> None:
        response = await ask(face(), "/v1.0/metadata", headers=((b"traceparent", PARENT.encode()),))
        assert response.header(b"traceparent") == PARENT.encode()
        assert (await ask(face(), "/v1.0/metadata")).header(b"traceparent") is None

    async def test_a_malformed_parent_is_ignored(self) -> None:
        for bad in (b"nonsense", PARENT.upper().encode(), PARENT.replace("b7ad6b7169203331", "0" * 16).encode()):
            response = await ask(face(), "/v1.0/metadata", headers=((b"traceparent", bad),))
            assert response.header(b"traceparent") is None

    async def test_a_tracer_mints_a_child(self) -> None:
        response = await ask(face(sampling=1.0), "/v1.0/metadata", headers=((b"traceparent", PARENT.encode()),))
        minted = (response.header(b"traceparent") or b"").decode()
        assert minted[:36] == PARENT[:36]
        assert minted != PARENT
        assert minted.endswith("-01")

    async def test_a_tracer_begins_a_root(self) -> None:
        root = (await ask(face(sampling=0.0), "/v1.0/metadata")).header(b"traceparent")
        assert root is not None
        assert root.endswith(b"-00")

    async def test_long_tracestate_is_not_echoed(self) -> None:
        for size, shown in ((512, True), (513, False)):
            given = ((b"traceparent", PARENT.encode()), (b"tracestate", b"a=" + b"x" * (size - 2)))
            response = await ask(face(), "/v1.0/metadata", headers=given)
            assert (response.header(b"tracestate") is not None) is shown

    async def test_baggage_is_checked_and_echoed(self) -> None:
        response = await ask(face(), "/v1.0/metadata", headers=((b"baggage", b"a=1"), (b"baggage", b"b=2;p")))
        assert response.header(b"baggage") == b"a=1,b=2;p"
        for bad in (b"a", b"a=\x7f", b"=1", b"a=1,,"):
            assert (await ask(face(), "/v1.0/metadata", headers=((b"baggage", bad),))).status == 400

    async def test_health_is_never_traced(self) -> None:
        response = await ask(face(sampling=1.0), "/v1.0/healthz", headers=((b"baggage", b"bad"),))
        assert response.status == 200
        assert response.header(b"traceparent") is None


async def test_requests_are_counted_by_path() -> None:
    metrics = Metrics("a")
    counted = face(metrics=HttpServerMetrics(metrics, HttpMetricsSettings()))
    for key in ("k1", "k2"):
        await ask(counted, f"/v1.0/state/s/{key}")
    page = render([metrics])
    row = '{app_id="a",method="GET",path="/v1.0/state/s",status="200"} 2'
    assert f"dapr_http_server_request_count{row}" in page
    assert f"dapr_http_server_response_count{row}" in page
    assert f"dapr_http_server_latency_count{row}" in page
    assert 'dapr_http_server_request_bytes_count{app_id="a"} 2' in page


async def test_the_api_log_names_the_call(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="dapr.runtime.http-info")
    await ask(face(FaceSettings(api_log=(False, True))), "/v1.0/state/s/k", headers=((b"user-agent", b"x"),))
    await ask(face(FaceSettings(api_log=(False, True))), "/v1.0/healthz")
    await ask(face(FaceSettings(api_log=(True, False))), "/v1.0/state/s/k")
    fields = [record.fields for record in caplog.records]  # type: ignore[attr-defined]
    assert [row["method"] for row in fields] == ["GET /v1.0/state/s/k", "v1.0/state/{store}/{key}"]
    assert fields[0]["code"] == 200
    assert fields[0]["useragent"] == "x"


def test_denied_routes_are_not_there() -> None:
    left = allowed_routes(ROUTES, lambda row: row.group == "state")
    assert {row.group for row in left} == {"state", "healthz"}
    assert Router(left).find("GET", "/v1.0/metadata") is None


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        ("/a/b", "/a/b"),
        ("/a//b/", "/a/b"),
        ("/a/./b/../c", "/a/c"),
        ("/../a", "/a"),
        ("/", "/"),
        ("///", "/"),
        ("a", "/a"),
        ("*", "/*"),
        ("/v1.0/invoke/a/method/", "/v1.0/invoke/a/method/"),
    ],
)
def test_paths_are_cleaned_lexically(path: str, cleaned: str) -> None:
    assert clean_path(path) == cleaned
