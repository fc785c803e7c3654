"""A real systemd as process 1 of namespaces of its own, over a throw-away copy of this machine's files. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
SYSTEMD = "/lib/systemd/systemd"
PYTHON = "/usr/bin/python3"
BOOT_S = 60.0
NAMESPACES = ("--mount", "--pid", "--cgroup", "--uts", "--ipc")

# All mounts are the namespace's and go with it. Nothing but basic.target and the journal is started.
BOOT = f"""
set -e
work=$1; root=$work/root
mount --make-rprivate /
mount -t tmpfs none $work; mkdir -p $work/upper $work/work $root
mount -t overlay overlay -o lowerdir=/,upperdir=$work/upper,workdir=$work/work $root
mount -t proc proc $root/proc
mount -t sysfs sysfs $root/sys
mount -t cgroup2 none $root/sys/fs/cgroup
mount -t tmpfs -o mode=755 none $root/run
mount -t tmpfs none $root/tmp
mount -t tmpfs -o mode=755 none $root/dev
for device in null zero full random urandom tty; do cp -a /dev/$device $root/dev/; done
mknod $root/dev/console c 5 1
mkdir $root/dev/shm $root/dev/pts
ln -s pts/ptmx $root/dev/ptmx
ln -s /proc/self/fd $root/dev/fd
printf '[Unit]\\nRequires=basic.target systemd-journald.service\\nAfter=basic.target\\n' \\
    > $root/etc/systemd/system/edge-test.target
for unit in systemd-udevd systemd-tmpfiles-setup-dev; do ln -sf /dev/null $root/etc/systemd/system/$unit.service; done
echo 0123456789abcdef0123456789abcdef > $root/etc/machine-id
cd $root; mkdir -p oldroot; pivot_root . oldroot; umount -l /oldroot
mount --make-rshared /
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    {SYSTEMD} --system --unit=edge-test.target --show-status=no
"""

# As the package lays things out, from the working copy. The interpreter is the system's: a home is closed to services.
INSTALL = f"""
set -e
units={ROOT}/deploy/systemd
install -m 644 $units/*.service $units/*.socket /usr/lib/systemd/system/
install -D -m 644 $units/sysusers.conf /usr/lib/sysusers.d/edge-runtime.conf
install -D -m 644 $units/tmpfiles.conf /usr/lib/tmpfiles.d/edge-runtime.conf
systemd-sysusers edge-runtime.conf
systemd-tmpfiles --create edge-runtime.conf
mkdir -p /opt/edge-runtime
cp -r {ROOT}/edge_runtime /opt/edge-runtime/
cp -r "$1" /opt/edge-runtime/site
rm -f /opt/edge-runtime/site/__editable__*
printf '#!/bin/sh\\nPYTHONPATH=/opt/edge-runtime:/opt/edge-runtime/site exec {PYTHON} -m edge_runtime "$@"\\n' \\
    > /usr/bin/edge-runtime
chmod 755 /usr/bin/edge-runtime
systemctl daemon-reload
"""


def why_not() -> str:
    """Why no systemd can be run here; empty when one can."""
    if os.geteuid() != 0:
        return "needs root"
    if not os.path.exists(SYSTEMD) or shutil.which("nsenter") is None:
        return "needs systemd and nsenter"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    asked = [PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    if not os.path.exists(PYTHON) or subprocess.run(asked, capture_output=True, text=True).stdout.strip() != version:
        return f"needs {PYTHON} to be Python {version}, as the tests"
    words = ["unshare", "--fork", *NAMESPACES, "sh", "-c", "mount --make-rprivate / && mount -t cgroup2 none /mnt"]
    return "" if subprocess.run(words, capture_output=True).returncode == 0 else "this machine allows no namespaces"


class Container:
    """`pid` is that of its systemd, seen from here."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def shell(self, script: str, *words: str) -> str:
        """Everything that the script says. Fails when it fails."""
        enter = ["nsenter", "-t", str(self.pid), "-r", "-w", "-m", "-p", "-C", "-u", "-i"]
        done = subprocess.run(
            [*enter, "bash", "-c", script, "bash", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def shows(self, unit: str, property_name: str, value: str, within_s: float = 60.0) -> None:
        """Wait until a unit's property has the value; what the journal says is in the failure."""
        deadline = time.monotonic() + within_s
        while (found := self.shell(f"systemctl show {unit} -p {property_name} --value").strip()) != value:
            if time.monotonic() > deadline:
                said = self.shell("journalctl --no-pager -n 50 -o cat || true")
                raise AssertionError(f"{unit}: {property_name} is {found!r}, not {value!r}\n{said}")
            time.sleep(0.2)


@contextmanager
def boot(work: Path) -> Iterator[Container]:
    """A systemd that runs, with the node's units installed and not started."""
    command = ["unshare", "--fork", "--kill-child", *NAMESPACES, "bash", "-c", BOOT, "bash", str(work)]
    with open(work.parent / "boot.log", "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        container = Container(_child_of(process, work.parent / "boot.log"))
        container.shell(INSTALL, next(path for path in sys.path if path.endswith("site-packages")))
        yield container
    finally:
        process.kill()
        process.wait()


def _child_of(process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + BOOT_S
    while time.monotonic() < deadline and process.poll() is None:
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        if found:
            enter = ["nsenter", "-t", found[0], "-r", "-m", "-p", "systemctl", "is-active", "edge-test.target"]
            if subprocess.run(enter, capture_output=True).returncode == 0:
                return int(found[0])
        time.sleep(0.2)
    raise AssertionError(f"systemd did not come up: {log.read_text(errors='replace')[-2000:]}")
