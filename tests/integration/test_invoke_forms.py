"""Every way to name a target, over real sockets."""

from __future__ import annotations

import base64
import json

import pytest

from edge_runtime.api.http.face import FaceSettings
from edge_runtime.channel.endpoints import EndpointSettings
from tests.loopback import always, loopback_app
from tests.support.invocation import open_sidecar

BASIC = base64.b64encode(b"dapr-app-id:cart")


@pytest.mark.parametrize(
    ("target", "headers", "arrives"),
    [
        (b"/v1.0/invoke/cart/method/orders/1", [], b"/orders/1"),
        (b"/v1.0/invoke/cart.default/method/orders", [], b"/orders"),
        (b"/v1.0/invoke/cart/method/", [], b"/"),
        (b"/v1.0/invoke/cart/method/orders/", [], b"/orders"),
        (b"/v1.0/invoke/cart/method//a/../b", [], b"/b"),
        (b"/v1.0/invoke/cart/method/a%2Fb%20c?q=%2F&r=+", [], b"/a/b%20c?q=%2F&r=+"),
        (b"/v1.0/invoke/cart/method/x?", [], b"/x?"),
        (b"/orders/1?x=1", [(b"dapr-app-id", b"cart")], b"/orders/1?x=1"),
        (b"/", [(b"dapr-app-id", b"cart")], b"/"),
        (b"/v1.0/metadata", [(b"dapr-app-id", b"cart")], b"/v1.0/metadata"),
        (b"/orders", [(b"authorization", b"Basic " + BASIC)], b"/orders"),
    ],
)
@pytest.mark.parametrize("verb", ["GET", "POST", "DELETE", "PATCH", "OPTIONS"])
async def test_apps_are_found(verb: str, target: bytes, headers: list[tuple[bytes, bytes]], arrives: bytes) -> None:
    async with loopback_app() as me, loopback_app() as cart, open_sidecar({"me": me, "cart": cart}) as sidecar:
        response = await sidecar.call(verb, target, b"data", headers)
        assert (response.status, response.body.data) == (200, b"data")
        assert (cart.last.method, cart.last.target, cart.last.body) == (verb, arrives, b"data")
        assert cart.last.values(b"dapr-app-id") == []
        assert cart.last.values(b"host") == [f"127.0.0.1:{cart.origin.port}".encode()]
        assert cart.last.values(b"authorization") == [value for name, value in headers if name == b"authorization"]


async def test_urls_and_endpoints_are_found() -> None:
    async with loopback_app() as me, loopback_app() as outside:
        base = f"http://127.0.0.1:{outside.origin.port}"
        endpoint = EndpointSettings("api", f"{base}/v2", (("X-Key", "k"),))
        async with open_sidecar({"me": me}, endpoints=[endpoint]) as sidecar:
            for target, arrives in (
                (f"/v1.0/invoke/{base}/method/a?x", b"/a?x"),
                (f"/v1.0/invoke/{base}/base/method/a/b", b"/base/a/b"),
                (f"/v1.0/invoke/{base.replace(':', '%3A').replace('/', '%2F')}/method/a", b"/a"),
                ("/v1.0/invoke/api/method/a", b"/v2/a"),
            ):
                assert (await sidecar.call("PUT", target.encode(), b"data")).body.data == b"data"
                assert (outside.last.method, outside.last.target) == ("PUT", arrives)
                assert outside.last.values(b"dapr-caller-app-id") == []
            assert outside.last.values(b"x-key") == [b"k"]


@pytest.mark.parametrize(
    ("target", "status", "message"),
    [
        (b"/nothing", 404, "failed getting app id either from the URL path or the header dapr-app-id"),
        (b"/v1.0/invoke/me/method", 404, "failed getting app id either from the URL path or the header dapr-app-id"),
        (b"/v1.0/invoke/nobody/method/x", 500, "failed to invoke, id: nobody, err: couldn't find service: nobody"),
        (b"/v1.0/invoke/a.b.c/method/x", 500, "failed to invoke, id: a.b.c, err: invalid app id a.b.c"),
        (b"/v1.0/invoke/me/method/100%25", 500, "failed to invoke, id: me, err: invalid URL escape '%'"),
        (b"/v1.0/invoke/me/method/a%23", 500, "failed to invoke, id: me, err: the method holds '#'"),
    ],
)
async def test_failures_have_documented_body(target: bytes, status: int, message: str) -> None:
    async with loopback_app() as me, open_sidecar({"me": me}) as sidecar:
        response = await sidecar.call("POST", target)
        assert response.status == status
        assert response.header(b"content-type") == b"application/json"
        assert json.loads(response.body.data) == {"errorCode": "ERR_DIRECT_INVOKE", "message": message}
        assert me.seen == []


async def test_absent_app_is_500() -> None:
    async with loopback_app() as me:
        pass
    async with open_sidecar({"me": me}) as sidecar:
        response = await sidecar.call("GET", b"/v1.0/invoke/me/method/x")
        assert response.status == 500
        message = f"failed to invoke, id: me, err: dial tcp 127.0.0.1:{me.origin.port}: connect: connection refused"
        assert json.loads(response.body.data)["message"] == message


async def test_unhealthy_app_is_500() -> None:
    async with loopback_app() as me, open_sidecar({"me": me}) as sidecar:
        sidecar.channels["me"].healthy = False
        response = await sidecar.call("GET", b"/v1.0/invoke/me/method/x")
        assert response.status == 500
        message = "failed to invoke, id: me, err: app is not in a healthy state"
        assert json.loads(response.body.data)["message"] == message


async def test_answers_pass_with_headers() -> None:
    headers = [(b"x-a", b"1"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"trace-bin", b"x")]
    answer = always(b'{"no":1}', 418, headers)
    async with loopback_app(answer) as me, open_sidecar({"me": me}) as sidecar:
        response = await sidecar.call("GET", b"/v1.0/invoke/me/method/x")
        assert (response.status, response.body.data) == (418, b'{"no":1}')
        kept = [header for header in response.headers if header[0] != b"date"]
        assert kept == [*headers[:3], (b"content-type", b"application/json")]


async def test_tokens_stay_where_they_belong() -> None:
    sent = [(b"dapr-api-token", b"mine")]
    async with loopback_app() as me:
        async with open_sidecar({"me": me}) as sidecar:
            await sidecar.call("GET", b"/v1.0/invoke/me/method/x", headers=sent)
            assert me.last.values(b"dapr-api-token") == [b"mine"]
        async with open_sidecar({"me": me}, settings=FaceSettings(token="mine")) as sidecar:
            await sidecar.call("GET", b"/v1.0/invoke/me/method/x", headers=sent)
            assert me.last.values(b"dapr-api-token") == []
        async with open_sidecar({"me": me}, app_token="app") as sidecar:
            await sidecar.call("GET", b"/v1.0/invoke/me/method/x", headers=sent)
            assert me.last.values(b"dapr-api-token") == [b"app"]
