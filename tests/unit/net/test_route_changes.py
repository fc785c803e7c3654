"""What the kernel tells of the network, in a network namespace of the test's own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.namespace import Namespace, need_namespaces

pytestmark = pytest.mark.slow

WATCH = """
import select, subprocess, trio, trio.testing
from edge_runtime.net.route_changes import open_route_changes

def ip(*words):
    subprocess.run(["ip", *words], check=True)

async def main():
    ip("link", "add", "far", "type", "veth", "peer", "name", "near")
    async with open_route_changes() as changes:
        for words in (
            ("link", "set", "near", "up"), ("link", "set", "far", "up"),
            ("address", "add", "192.0.2.1/24", "dev", "near"), ("route", "add", "198.51.100.0/24", "dev", "near"),
            ("link", "set", "far", "down"),
        ):
            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(changes.wait)
                    await trio.testing.wait_all_tasks_blocked()
                    ip(*words)
            print(*words)
        for number in range(60):  # a burst is one change
            ip("address", "add", f"192.0.2.{number + 100}/24", "dev", "near")
        await changes.wait()
        print("again" if select.select([changes._socket], [], [], 0)[0] else "quiet")

trio.run(main)
"""


def test_links_addresses_and_routes_are_told() -> None:
    need_namespaces()
    with Namespace() as network:
        done = network.run(lambda: subprocess.run([sys.executable, "-c", WATCH], capture_output=True, text=True))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 6
    assert done.stdout.splitlines()[-1] == "quiet"
