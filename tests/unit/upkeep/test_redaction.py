"""Redaction: harmless values stay, everything else goes, in whatever form it stands."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
import yaml

from edge_runtime.upkeep.redaction import MARK, Redactor, flags_shown, metrics_text

COMPONENT = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: events, namespace: shop, annotations: {note: canary-note}}
scopes: [orders]
spec:
  type: pubsub.mqtt3
  version: v1
  metadata:
  - {name: url, value: "mqtts://canary-user:canary%2Fpass@broker.example:8883/canary-path?canary=query"}
  - {name: qos, value: 1}
  - {name: clientKey, value: "-----BEGIN KEY-----\\ncanarykeyline1\\n"}
  - {name: anything, value: canary-any}
  - {name: password, secretKeyRef: {name: mqtt, key: pass}}
auth: {secretStore: local}
"""
LINK = """
apiVersion: edge-runtime.io/v1alpha1
kind: CloudLink
metadata: {name: cloud}
spec:
  endpoint: {http: "https://cloud.example:443", grpc: "https://cloud.example:50001"}
  token: {value: canary-token}
  proxy: "http://canary-proxy:canary-secret@proxy.example:3128"
  tls: {ca: {value: canary-ca}}
  budget: {bytesPerDay: 10Mi}
  routes:
    topicsDown: [{remotePubsub: kafka, remoteTopic: orders, metadata: {name: canary-meta, rawPayload: canary-raw}}]
    topicsUp: [{pubsub: pubsub, topic: orders, limits: {size: 1Mi}}]
"""


def test_of_a_component_harmless_values_stay() -> None:
    redactor = Redactor()
    shown = yaml.safe_load(redactor.resource_file(COMPONENT))
    assert (shown["metadata"]["name"], shown["metadata"]["annotations"]) == ("events", MARK)
    assert shown["scopes"] == ["orders"]
    fields = {item["name"]: item for item in shown["spec"]["metadata"]}
    assert fields["url"]["value"] == f"mqtts://{MARK}@broker.example:8883"
    assert fields["qos"]["value"] == 1
    assert (fields["clientKey"]["value"], fields["anything"]["value"]) == (MARK, MARK)
    assert fields["password"]["secretKeyRef"] == {"name": "mqtt", "key": "pass"}
    assert "canary" not in str(shown)
    for secret in ("canary-user", "canary/pass", "canary%2Fpass", "canary-any", "canarykeyline1", "canary=query"):
        assert redactor.scrub(f"said {secret}!") == f"said {MARK}!"


def test_of_a_link_routes_and_budgets_stay() -> None:
    shown = yaml.safe_load(Redactor().resource_file(LINK))
    assert "canary" not in str(shown)
    assert shown["spec"]["endpoint"]["http"] == "https://cloud.example:443"
    assert shown["spec"]["budget"] == {"bytesPerDay": "10Mi"}
    assert shown["spec"]["routes"]["topicsUp"] == [{"pubsub": "pubsub", "topic": "orders", "limits": {"size": "1Mi"}}]
    assert shown["spec"]["routes"]["topicsDown"][0]["remoteTopic"] == "orders"


@pytest.mark.parametrize(
    "text",
    [
        "kind: [canary-broken",
        "a: &a canary-1\nb: *a\n",
        "canary-scalar",
        "- canary-list",
        "kind: Other\nname: canary-x",
    ],
)
def test_what_is_not_known_is_not_shown(text: str) -> None:
    redactor = Redactor()
    assert "canary" not in redactor.resource_file(text)
    for word in text.replace(":", " ").replace("[", " ").split():
        if word.startswith("canary"):
            assert "canary" not in redactor.scrub(f"an error about {word!r}")


SECRET = "s3cr3t/of the+house?"


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        quote(SECRET),
        quote(SECRET, safe=""),
        SECRET.encode().hex(),
        *(
            base64.b64encode(b"u" * before + SECRET.encode() + after).decode()
            for before in range(4)
            for after in (b"", b"xy")
        ),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
    ],
)
def test_a_secret_is_known_in_its_other_forms(form: str) -> None:
    redactor = Redactor()
    redactor.learn({"deep": [{"er": SECRET}]})
    cleaned = redactor.scrub(f"<{form}>")
    assert MARK in cleaned
    # Of base64 a letter or two at either end are its neighbours' too.
    assert len(cleaned) - len(MARK) <= 14


def test_short_words_stay_words() -> None:
    redactor = Redactor()
    redactor.learn(["true", 1883, None, False])
    assert redactor.scrub("true 1883") == "true 1883"


def test_log_lines_lose_what_looks_like_a_secret() -> None:
    redactor = Redactor()
    lines = [
        'time="2026-01-01T00:00:00.1Z" level=info msg="password=hunter2 for orders-app7-store" scope=dapr.runtime',
        'time="2026-01-01T00:00:00.1Z" level=warn msg="https://me:pw@host/ Bearer abc.def Zx81kk20Qm77" scope=dapr.x',
        "== APP == level=info my own secret words scope=dapr",
        "something else that an app has printed",
    ]
    first, second = redactor.log_lines(lines, ["orders-app7-store"])
    assert "hunter2" not in first
    assert "orders-app7-store" in first
    assert "2026-01-01T00:00:00.1Z" in first
    for word in ("me:pw", "abc.def", "Zx81kk20Qm77"):
        assert word not in second


def test_labels_and_flags_of_users_go() -> None:
    line = 'dapr_http_server_request_count{app_id="shop",path="/v1.0/state/canary",status="200"} 3'
    assert metrics_text(line) == line.replace("/v1.0/state/canary", MARK)
    flags = {"app-id": ["shop"], "dapr-http-port": ["3500"], "allowed-origins": ["canary"], "unknown": ["canary"]}
    assert flags_shown(flags) == {
        "app-id": ["shop"],
        "dapr-http-port": ["3500"],
        "allowed-origins": [MARK],
        "unknown": [MARK],
    }


def test_a_user_in_any_url_goes() -> None:
    assert (
        Redactor().scrub("see amqp://me:pw@host:1 and http://host/a@b")
        == f"see amqp://{MARK}@host:1 and http://host/a@b"
    )
