"""The service under a real systemd, with all of its confinement: its life, its apps, its sockets and its watchdog."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.container import Container, boot, why_not

pytestmark = [pytest.mark.long]

NODE = "edge-runtime"
API = "curl -sS --max-time 60 -H 'dapr-api-token: tok' http://127.0.0.1:3500/v1.0"
CONFIGURE = """
mkdir -p /etc/credstore; echo tok > /etc/credstore/edge-runtime-api-token
printf 'version: 1\\napps:\\n- {appID: gateway, appDirPath: .}\\n' > /etc/edge-runtime/dapr.yaml
printf 'EDGE_APP_COMMAND=/bin/sleep 1000\\nEDGE_APP_FLAGS=--dapr-http-port=3600\\n' > /etc/edge-runtime/apps/orders.conf
chgrp edge-runtime /etc/edge-runtime/dapr.yaml
"""


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    if problem := why_not():
        pytest.skip(problem)
    work: Path = tmp_path_factory.mktemp("systemd") / "work"
    work.mkdir()
    with boot(work) as booted:
        booted.shell(CONFIGURE)
        yield booted
        booted.shell("systemctl stop 'edge-runtime*' || true")


@pytest.fixture(autouse=True)
def stopped(container: Container) -> None:
    container.shell("systemctl stop 'edge-runtime*.socket' 'edge-runtime-app@*' edge-runtime; systemctl reset-failed")


def test_service_serves_under_its_confinement(container: Container) -> None:
    container.shell("systemctl start edge-runtime")
    container.shows(NODE, "StatusText", "1 app")
    assert (
        container.shell(f"""{API}/state/statestore -d '[{{"key":"a","value":1}}]' && {API}/state/statestore/a""") == "1"
    )
    assert "401" in container.shell("curl -sS -o /dev/null -w '%{http_code}' http://127.0.0.1:3500/v1.0/metadata")
    container.shell("systemctl reload edge-runtime")
    container.shows(NODE, "ActiveState", "active")
    assert "initialized" in container.shell("journalctl --no-pager -o cat APP_ID=gateway SCOPE=dapr.runtime PRIORITY=6")
    assert container.shell("stat -c '%U %a' /var/lib/edge-runtime /var/lib/edge-runtime/node.db").split() == [
        *("edge-runtime", "700"),
        *("edge-runtime", "600"),
    ]


def test_app_of_another_user_joins_and_comes_back(container: Container) -> None:
    container.shell("systemctl start edge-runtime-app@orders")
    container.shows(NODE, "StatusText", "2 apps")
    container.shell("systemctl restart edge-runtime")
    container.shows(NODE, "StatusText", "2 apps")
    container.shell("systemctl kill -s KILL edge-runtime")
    container.shows(NODE, "NRestarts", "1")
    container.shows(NODE, "StatusText", "2 apps")


def test_app_outlasts_a_node_that_cannot_start(container: Container) -> None:
    container.shell("echo 'version: 0' > /etc/edge-runtime/dapr.yaml; systemctl start edge-runtime-app@orders || true")
    container.shell(
        "until [ $(systemctl show edge-runtime-app@orders -p NRestarts --value) -ge 1 ]; do sleep 0.2; done"
    )
    container.shell(CONFIGURE)
    container.shows(NODE, "StatusText", "2 apps")


def test_first_connection_starts_the_node(container: Container) -> None:
    container.shell("systemctl start edge-runtime.socket edge-runtime-http.socket edge-runtime-grpc.socket")
    assert '"gateway"' in container.shell(f"{API}/metadata")
    container.shell("systemctl restart edge-runtime & sleep 0.1; " + f"{API}/healthz/outbound -f; wait")
    container.shows(NODE, "StatusText", "1 app")
    assert container.shell("stat -c '%G %a' /run/edge-runtime/control.sock").split() == ["edge-runtime-apps", "660"]


def test_stuck_node_is_started_again(container: Container) -> None:
    container.shell(
        "mkdir -p /run/systemd/system/edge-runtime.service.d;"
        "printf '[Service]\\nWatchdogSec=3\\n' > /run/systemd/system/edge-runtime.service.d/short.conf;"
        "systemctl daemon-reload; systemctl start edge-runtime"
    )
    container.shell("systemctl kill -s STOP edge-runtime")
    container.shows(NODE, "NRestarts", "1")
    container.shows(NODE, "StatusText", "1 app")
    assert "Fatal Python error: Aborted" in container.shell("journalctl --no-pager -u edge-runtime -o cat")
    container.shell("rm -r /run/systemd/system/edge-runtime.service.d; systemctl daemon-reload")
