"""What the checks on the emulated device are made of, as far as it can be tried without one."""

from __future__ import annotations

import http.client
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.sidecar import free_port

GUEST = Path(__file__).parents[2] / "tools" / "qemu" / "guest"


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, which imports its neighbours by their bare names as on the device; its app's port is a free one."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(GUEST)
    module = importlib.import_module("ledger")
    monkeypatch.setattr(module.node, "APP_PORT", free_port())
    yield module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == GUEST:
            del sys.modules[name]


def _post(connection: http.client.HTTPConnection, n: int) -> int:
    connection.request("POST", "/orders", json.dumps({"data": {"n": n}}))
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_a_receiver_that_is_over_takes_no_event_on_a_connection_that_was_kept(ledger: Any) -> None:
    with ledger.Receiver() as receiver:
        connection = http.client.HTTPConnection("127.0.0.1", ledger.node.APP_PORT, timeout=10)
        assert _post(connection, 1) == 200
        kept = connection.sock
    assert connection.sock is kept
    try:
        with pytest.raises(ConnectionError):
            _post(connection, 2)
    finally:
        connection.close()
    assert receiver.seen["/orders"] == {1}
