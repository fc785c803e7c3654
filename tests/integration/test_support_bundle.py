"""Secrets are put wherever a node can have them, and a support bundle of it has none of them, in any form."""

from __future__ import annotations

import base64
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from tests.integration.cli import Run, ask
from tests.support.resources import component, document, write
from tests.support.sidecar import free_port, request

pytestmark = pytest.mark.slow

UP = "You're up and running!"
PLACES = (
    "metadata",
    "brokeruser",
    "brokerpass",
    "secretfile",
    "apitoken",
    "variable",
    "linktoken",
    "proxyuser",
    "proxypass",
    "header",
    "statekey",
    "statevalue",
    "payload",
    "logline",
    "apptoken",
    "sealkey",
    "resiliency",
    "brokenfile",
    "credential",
)
# Letters and digits mixed, with letters that URLs and base64 treat in their own way.
CANARIES = {name: f"cnry7{name}9/x+{number:02}zq" for number, name in enumerate(PLACES)}


def forms(secret: str) -> Iterator[str]:
    yield secret
    yield quote(secret)
    yield quote(secret, safe="")
    yield quote_plus(secret)
    yield secret.encode().hex()
    for before in range(3):
        encoded = base64.b64encode(b"x" * before + secret.encode()).decode()
        yield encoded[4:-4]
        yield encoded[4:-4].replace("+", "-").replace("/", "_")
    # What is left when a part was taken out is a leak too.
    yield secret.partition("/")[0]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    resources = tmp_path / "etc" / "components"
    secret = CANARIES
    broker = (
        f"mqtt://{quote(secret['brokeruser'], safe='')}:{quote(secret['brokerpass'], safe='')}@127.0.0.1:{free_port()}"
    )
    write(resources, "broker.yaml", component("broker", "pubsub.mqtt3", {"url": broker, "consumerID": "shop"}))
    write(
        resources,
        "state.yaml",
        component(
            "statestore",
            "state.sqlite",
            {"connectionString": str(tmp_path / "state" / "s.db"), "odd": secret["metadata"]},
        ),
    )
    (tmp_path / "secrets.json").write_text(json.dumps({"a": {"b": secret["secretfile"]}}))
    write(
        resources,
        "secrets.yaml",
        component("local", "secretstores.local.file", {"secretsFile": str(tmp_path / "secrets.json")}),
    )
    proxy = (
        f"http://{quote(secret['proxyuser'], safe='')}:{quote(secret['proxypass'], safe='')}@127.0.0.1:{free_port()}"
    )
    spec = {
        "endpoint": {"http": f"http://127.0.0.1:{free_port()}"},
        "token": {"value": secret["linktoken"]},
        "proxy": {"value": proxy},
        "routes": {"topicsUp": [{"pubsub": "broker", "topic": "up"}]},
    }
    write(resources, "link.yaml", document("CloudLink", "cloud", spec, version="edge-runtime.io/v1alpha1"))
    headers = [{"name": "x", "value": secret["header"]}]
    write(
        resources, "http.yaml", document("HTTPEndpoint", "far", {"baseUrl": "http://127.0.0.1:1", "headers": headers})
    )
    policies = {"timeouts": {secret["resiliency"]: secret["resiliency"]}}
    write(resources, "res.yaml", document("Resiliency", "res", {"policies": policies}))
    (resources / "broken.yaml").write_text(f"kind: Component\nvalue: [{secret['brokenfile']}\n  x: : y")
    apps = tmp_path / "etc" / "apps"
    apps.mkdir()
    (apps / "shop.conf").write_text(
        f"APP_API_TOKEN={secret['apptoken']}\nEDGE_APP_FLAGS=--resources-path={resources}\n"
    )
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "seal.key").write_text(secret["sealkey"])
    (tmp_path / "state" / "seal.key").chmod(0o600)
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "edge-runtime-seal-key").write_bytes(secret["credential"].encode())
    return tmp_path


def test_no_secret_is_in_a_bundle(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = CANARIES
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(place / "credentials"))
    port, log = free_port(), place / "node.log"
    log.write_text(
        f'time="2026-01-01T00:00:00.000Z" level=info msg="odd {secret["logline"]} of {secret["apitoken"]}"'
        " scope=dapr.runtime\n"
        f"== APP == {secret['payload']}\n"
    )
    words = ("run", "-a", "shop", "-H", str(port), "--resources-path", str(place / "etc" / "components"), "--no-attach")
    variables = {"DAPR_API_TOKEN": secret["apitoken"], "EDGE_SECRET_X": secret["variable"]}
    with Run(place, *words, "--log-file", str(log), variables=variables) as node:
        node.wait_line(UP)
        token = {"dapr-api-token": secret["apitoken"]}
        body = [{"key": secret["statekey"], "value": secret["statevalue"]}]
        assert request(port, "POST", "/v1.0/state/statestore", body, token).status == 204
        assert request(port, "POST", "/v1.0/publish/broker/a", secret["payload"], token).status == 204
        request(port, "GET", f"/v1.0/invoke/nobody/method/{quote(secret['payload'], safe='')}", headers=token)
        done = ask(
            place, "support-bundle", str(place / "b.tar.gz"), "--config-dir", str(place / "etc"), "--timeout", "2"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        node.stop()
    with tarfile.open(place / "b.tar.gz") as tar:
        texts = {name: (tar.extractfile(name) or open("/dev/null", "rb")).read().decode() for name in tar.getnames()}  # noqa: SIM115
    for name, text in texts.items():
        for where, canary in secret.items():
            for form in forms(canary):
                assert form not in text, (
                    f"{where} is in {name}: …{text[max(text.index(form) - 80, 0) : text.index(form) + 80]}"
                )
                assert form not in name
    assert (place / "b.tar.gz").stat().st_mode & 0o777 == 0o600

    # And it tells something.
    names = {name.removeprefix("support/") for name in texts}
    assert {"doctor.json", "node.json", "databases.json", "log.txt", "machine/about.json"} <= names
    rows = {Path(one["path"]).name: one for one in json.loads(texts["support/databases.json"])}
    assert rows["s.db"]["rows"]["state"] == 1
    assert "CREATE TABLE" in str(rows["node.db"]["schema"])
    assert "pubsub.mqtt3/shop/broker" in texts["support/apps/shop/outbox.json"]
    assert "dapr_" in texts["support/apps/shop/metrics.txt"]
    assert "Starting Dapr Runtime" in texts["support/log.txt"]
    assert '"verdict": "fail"' in texts["support/doctor.json"]
    assert "consumerID" in "".join(text for name, text in texts.items() if "/files/" in name)


def test_a_bundle_that_cannot_be_written_leaves_nothing(place: Path) -> None:
    words = ("--config-dir", str(place / "etc"), "--offline", "--no-log")
    done = ask(place, "support-bundle", str(place / "nowhere" / "b"), *words, "--json")
    assert done.returncode == 1
    assert "cannot be written: No such file or directory" in json.loads(done.stdout)["error"]
    done = ask(place, "support-bundle", str(place / "b"), *words, "--json")
    assert done.returncode == 0, done.stderr
    assert "log.txt" not in json.loads(done.stdout)["contents"]
