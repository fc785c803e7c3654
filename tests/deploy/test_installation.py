"""The package through dpkg itself: installed, updated by a bundle, removed and purged, in a copy of this system."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.cli.main import dispatch
from tests.deploy.test_package import build

# Everything that the script changes is in an overlay, in a mount namespace that ends with it.
SCRIPT = """
set -e
mount -t tmpfs none {work}
cd {work}
mkdir upper inner merged
cp {first} package.deb
mount -t overlay overlay -o lowerdir=/,upperdir={work}/upper,workdir={work}/inner merged
mount -t proc proc merged/proc
mount -t tmpfs none merged/run
mount -t tmpfs none merged/tmp
cp package.deb {sender}/update.bundle {sender}/older.bundle {sender}/fleet.pub merged/tmp/
chroot merged /bin/sh -e <<'END'
dpkg -i --force-depends /tmp/package.deb
edge-runtime version
version=$(cat /usr/lib/edge-runtime/payload/VERSION)
test "$(readlink -f /usr/bin/edge-runtime)" = "/opt/edge-runtime/slots/$version/bin/edge-runtime"
getent passwd edge-runtime
test "$(stat -c %a:%U:%G /etc/edge-runtime)" = 750:root:edge-runtime
test "$(stat -c %a:%U /var/lib/edge-runtime)" = 700:edge-runtime
echo kept > /etc/edge-runtime/components/mine.yaml
echo kept > /var/lib/edge-runtime/node.db
dpkg -i --force-depends /tmp/package.deb
edge-runtime version
dpkg --verify edge-runtime
! edge-runtime bundle install /tmp/update.bundle
cp /tmp/fleet.pub /etc/edge-runtime/update-keys.d/
edge-runtime bundle install /tmp/update.bundle
test "$(ls /opt/edge-runtime/slots | wc -l)" = 2
test "$(readlink /opt/edge-runtime/current)" = "slots/$(cat /usr/lib/edge-runtime/payload/VERSION)"
test "$(cat /opt/edge-runtime/current/VERSION)" != "$version"
edge-runtime version
/opt/edge-runtime/slots/$version/bin/edge-runtime version
! edge-runtime bundle install /tmp/older.bundle
dpkg -r edge-runtime
test ! -e /opt/edge-runtime
test "$(cat /etc/edge-runtime/components/mine.yaml /var/lib/edge-runtime/node.db | sort -u)" = kept
dpkg -i --force-depends /tmp/package.deb
edge-runtime version
dpkg -P edge-runtime
for left in /opt/edge-runtime /etc/edge-runtime /var/lib/edge-runtime /var/lib/edge-runtime-update /usr/lib/edge-runtime
do
    test ! -e $left
done
! getent passwd edge-runtime
END
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.skipif(not Path("/usr/bin/python3.11").exists(), reason="this system has no python3.11 of its own"),
    pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed"),
    pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the package's byte code is for Python 3.11"),
]


def can_overlay(work: Path) -> bool:
    words = f"mount -t tmpfs none {work} && cd {work} && mkdir u w m"
    words += " && mount -t overlay o -o lowerdir=/,upperdir=u,workdir=w m"
    return subprocess.run(["unshare", "-m", "sh", "-c", words], capture_output=True).returncode == 0


def test_package_comes_and_goes(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    if not can_overlay(work):
        pytest.skip("this machine gives no overlay mounts")
    arch = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    first, second = (build(tmp_path, arch, SOURCE_DATE_EPOCH=moment) for moment in ("1800000000", "1800000001"))
    assert dispatch(["bundle", "keygen", "--out", str(tmp_path / "fleet")]) == 0
    for name, package in (("older", first), ("update", second)):
        words = ["--key", str(tmp_path / "fleet.key"), "--out", str(tmp_path / f"{name}.bundle")]
        assert dispatch(["bundle", "make", *words, str(package)]) == 0
    script = SCRIPT.format(work=work, first=first, sender=tmp_path)
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
