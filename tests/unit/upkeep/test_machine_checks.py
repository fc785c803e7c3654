"""Checks of the machine, each against a /proc and a /sys of the test's own."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from edge_runtime.upkeep import machine_checks
from edge_runtime.upkeep.checks import Check, System
from edge_runtime.upkeep.disk_checks import Medium, check_disk, disk_of, flush_s, judge_flush, mount_of
from edge_runtime.upkeep.machine_checks import (
    check_clock,
    check_mdns,
    check_memory,
    check_ports,
    check_service,
    check_versions,
)

LATER = 1_800_000_000.0


class Fake:
    """Files of a machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.system = System(str(root))

    def put(self, name: str, text: str) -> None:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def mounted(self, place: str, kind: str = "ext4", options: str = "rw", source: str = "/dev/mmcblk0p2") -> None:
        self.put(
            "/proc/self/mountinfo",
            "22 1 0:1 / / rw - ext4 /dev/root rw\n"
            f"30 22 179:2 / {place} rw,relatime shared:1 - {kind} {source} {options}\n",
        )
        disk = self.root / "sys/block/mmcblk0"
        (disk / "queue").mkdir(parents=True, exist_ok=True)
        (disk / "mmcblk0p2").mkdir(exist_ok=True)
        link = self.root / "sys/dev/block/179:2"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to("../../block/mmcblk0/mmcblk0p2")


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path / "root")


def named(checks: list[Check], name: str) -> Check:
    (check,) = (check for check in checks if check.name == name)
    return check


# --- disk


def test_the_disk_behind_a_directory_is_found(fake: Fake) -> None:
    fake.mounted("/data")
    mount = mount_of("/data/state", fake.system)
    assert mount is not None
    assert (mount.place, mount.kind) == ("/data", "ext4")
    assert disk_of(mount, fake.system) == "/sys/block/mmcblk0"
    elsewhere = mount_of("/database", fake.system)
    assert elsewhere is not None
    assert elsewhere.place == "/"


@pytest.mark.parametrize(
    ("life", "pre_eol", "verdict"),
    [
        ("0x01 0x02", "0x01", "ok"),
        ("0x01 0x09", "0x01", "warn"),
        ("0x0b 0x01", "0x01", "fail"),
        ("0x01 0x01", "0x02", "warn"),
        ("0x01 0x01", "0x03", "fail"),
        ("", "", "skipped"),
        ("odd", "odd", "ok"),
    ],
)
def test_wear_is_told_as_the_medium_tells_it(life: str, pre_eol: str, verdict: str, fake: Fake, tmp_path: Path) -> None:
    fake.mounted(str(tmp_path))
    if life:
        fake.put("/sys/block/mmcblk0/device/life_time", life + "\n")
        fake.put("/sys/block/mmcblk0/device/pre_eol_info", pre_eol + "\n")
    assert named(list(check_disk(str(tmp_path), 0, fake.system)), "wear").verdict == verdict


@pytest.mark.parametrize(
    ("kind", "options", "verdict", "text"),
    [
        ("ext4", "rw", "ok", "mounted at"),
        ("ext4", "ro", "fail", "for reading only"),
        ("tmpfs", "rw", "fail", "gone at the next start"),
        ("overlay", "rw", "warn", "thrown away"),
        ("nfs4", "rw", "warn", "over a network"),
        ("vfat", "rw", "warn", "no journal"),
    ],
)
def test_the_file_system_is_judged(
    kind: str, options: str, verdict: str, text: str, fake: Fake, tmp_path: Path
) -> None:
    fake.mounted(str(tmp_path), kind, options)
    check = named(list(check_disk(str(tmp_path), 0, fake.system)), "medium")
    assert check.verdict == verdict
    assert text in check.seen
    assert bool(check.mend) == (verdict != "ok")


def test_mounts_without_barriers_lose_what_was_saved(fake: Fake, tmp_path: Path) -> None:
    fake.mounted(str(tmp_path), "ext4", "rw,nobarrier")
    check = named(list(check_disk(str(tmp_path), 0, fake.system)), "flush")
    assert check.verdict == "fail"
    assert "/etc/fstab" in check.mend


@pytest.mark.parametrize(
    ("seconds", "medium", "verdict"),
    [
        (5e-6, Medium(), "warn"),
        (30e-6, Medium("nvme0n1"), "ok"),
        (30e-6, Medium("mmcblk0", slow=True), "warn"),
        (5e-3, Medium("mmcblk0", slow=True, write_back=True), "ok"),
        (0.5, Medium("mmcblk0", slow=True), "warn"),
    ],
)
def test_flushes_too_fast_to_be_true_are_told(seconds: float, medium: Medium, verdict: str) -> None:
    check = judge_flush(seconds, medium)
    assert check.verdict == verdict
    assert bool(check.mend) == (verdict != "ok")


def test_a_flush_is_measured_and_leaves_nothing(tmp_path: Path) -> None:
    times = iter(range(1000))
    assert flush_s(str(tmp_path), lambda: float(next(times))) == 1.0
    assert list(tmp_path.iterdir()) == []


def test_room_is_compared_with_what_may_wait(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = os.statvfs(tmp_path)

    class Facts:
        f_frsize, f_blocks, f_files = 4096, 100_000, 1000

        def __init__(self, free: int, inodes: int) -> None:
            self.f_bavail, self.f_favail = free, inodes

    assert facts.f_blocks
    for free, inodes, verdicts in (
        (50_000, 5000, ("ok", "ok")),
        (20_000, 10, ("warn", "fail")),
        (100, 10, ("fail", "fail")),
    ):
        monkeypatch.setattr("edge_runtime.upkeep.disk_checks.os.statvfs", lambda _, f=free, i=inodes: Facts(f, i))
        checks = list(check_disk(str(tmp_path), 150 * 2**20, fake.system))
        assert (named(checks, "disk space").verdict, named(checks, "inodes").verdict) == verdicts


def test_errors_that_the_file_system_noted_are_told(fake: Fake, tmp_path: Path) -> None:
    fake.mounted(str(tmp_path))
    fake.put("/sys/fs/ext4/mmcblk0p2/errors_count", "3\n")
    assert "3 errors" in named(list(check_disk(str(tmp_path), 0, fake.system)), "file system errors").seen


# --- clock, memory


@pytest.mark.parametrize(
    ("now", "synchronized", "verdict"), [(0.0, True, "fail"), (LATER, False, "warn"), (LATER, True, "ok")]
)
def test_a_clock_that_nobody_keeps_is_told(now: float, synchronized: bool, verdict: str, fake: Fake) -> None:
    checks = list(check_clock(fake.system, lambda: now, lambda: synchronized))
    assert named(checks, "clock").verdict == verdict
    assert named(checks, "clock battery").verdict == "skipped"
    fake.put("/sys/class/rtc/rtc0/name", "rtc")
    assert named(list(check_clock(fake.system, lambda: now)), "clock battery").verdict == "ok"


def test_a_kernel_without_memory_limits_is_told(fake: Fake) -> None:
    fake.put("/proc/meminfo", "MemTotal: 500000 kB\nMemAvailable: 300000 kB\n")
    assert named(list(check_memory(fake.system, None)), "memory limit").verdict == "skipped"
    fake.put("/sys/fs/cgroup/cgroup.controllers", "cpu io pids\n")
    fake.put("/proc/cmdline", "console=tty1 cgroup_disable=memory root=/dev/mmcblk0p2\n")
    check = named(list(check_memory(fake.system, None)), "memory limit")
    assert check.verdict == "warn"
    assert "cgroup_disable=memory" in check.seen
    assert "cmdline.txt" in check.mend
    fake.put("/sys/fs/cgroup/cgroup.controllers", "cpu io memory pids\n")
    assert named(list(check_memory(fake.system, None)), "memory limit").verdict == "ok"


@pytest.mark.parametrize(
    ("most", "used", "kills", "verdict"),
    [
        ("268435456", "50000000", 0, "ok"),
        ("max", "50000000", 0, "ok"),
        ("60000000", "59000000", 0, "warn"),
        ("268435456", "50000000", 2, "warn"),
    ],
)
def test_the_limit_of_the_node_is_watched(most: str, used: str, kills: int, verdict: str, fake: Fake) -> None:
    fake.put("/sys/fs/cgroup/cgroup.controllers", "memory\n")
    fake.put("/proc/77/cgroup", "0::/system.slice/edge-runtime.service\n")
    folder = "/sys/fs/cgroup/system.slice/edge-runtime.service"
    fake.put(f"{folder}/memory.max", most)
    fake.put(f"{folder}/memory.current", used)
    fake.put(f"{folder}/memory.events", f"low 0\noom 1\noom_kill {kills}\n")
    assert named(list(check_memory(fake.system, 77)), "memory limit").verdict == verdict


def test_little_memory_is_told(fake: Fake) -> None:
    fake.put("/proc/meminfo", "MemTotal: 500000 kB\nMemAvailable: 30000 kB\n")
    assert named(list(check_memory(fake.system, None)), "memory").verdict == "warn"


# --- ports, network


def listening(fake: Fake, port: int, inode: int, pid: int, name: str, table: str = "tcp", state: str = "0A") -> None:
    row = f"   0: 0100007F:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0  0 {inode} 1\n"
    old = fake.system.text(f"/proc/net/{table}") or "  sl  local_address rem_address   st"
    fake.put(f"/proc/net/{table}", f"{old}\n{row}")
    fake.put(f"/proc/{pid}/comm", f"{name}\n")
    folder = fake.root / "proc" / str(pid) / "fd"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(inode)).symlink_to(f"socket:[{inode}]")


def test_who_holds_a_port_is_named(fake: Fake) -> None:
    listening(fake, 3500, 1001, 500, "daprd")
    listening(fake, 50001, 1002, 600, "nginx")
    listening(fake, 9090, 1003, 700, "client", state="01")
    checks = list(check_ports({3500: "the HTTP API", 50001: "the gRPC API", 9090: "the metrics"}, [500], fake.system))
    assert [(check.name, check.verdict) for check in checks] == [
        ("port 3500", "ok"),
        ("port 9090", "ok"),
        ("port 50001", "fail"),
    ]
    assert "nginx (process 600)" in checks[2].seen


def test_a_port_of_somebody_unseen_is_told(fake: Fake) -> None:
    listening(fake, 3500, 1001, 500, "other")
    (fake.root / "proc/500/fd/1001").unlink()
    (check,) = check_ports({3500: "the HTTP API"}, [], fake.system)
    assert "may not see (ask as root)" in check.seen


@pytest.mark.parametrize(
    ("flags", "state", "address", "verdict", "text"),
    [
        ("0x1003", "up", "10.0.0.2", "ok", "eth0 (10.0.0.2)"),
        ("0x1003", "up", "", "warn", "eth0 has no address"),
        ("0x1002", "down", "", "warn", "eth0 is down"),
        ("0x3", "up", "10.0.0.2", "warn", "eth0 has no multicast"),
    ],
)
def test_interfaces_for_mdns_are_found(
    flags: str, state: str, address: str, verdict: str, text: str, fake: Fake
) -> None:
    fake.put("/sys/class/net/lo/flags", "0x9")
    fake.put("/sys/class/net/eth0/flags", flags)
    fake.put("/sys/class/net/eth0/operstate", state)
    listening(fake, 5353, 1001, 500, "avahi-daemon", "udp", "07")
    checks = list(check_mdns(fake.system, lambda name: address))
    assert named(checks, "mDNS interfaces").verdict == verdict
    assert text in named(checks, "mDNS interfaces").seen
    assert "avahi-daemon (process 500)" in named(checks, "port 5353/udp").seen


def test_an_address_of_ipv6_will_do(fake: Fake) -> None:
    fake.put("/sys/class/net/wlan0/flags", "0x1003")
    fake.put("/sys/class/net/wlan0/operstate", "up")
    fake.put("/proc/net/if_inet6", "fe800000000000000000000000000001 02 40 20 80 wlan0\n")
    assert "fe80::1" in named(list(check_mdns(fake.system, lambda name: "")), "mDNS interfaces").seen


def test_the_real_machine_has_an_address() -> None:
    assert machine_checks.interface_address("lo") == "127.0.0.1"
    assert machine_checks.interface_address("nothing") == ""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (check,) = check_ports({port: "this test"}, [os.getpid()], System())
    assert (check.verdict, check.seen) == ("ok", "the node listens there for this test")


# --- program


def test_versions_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = list(check_versions())
    assert {check.verdict for check in checks} == {"ok"}
    assert "SQLite 3." in checks[0].seen
    monkeypatch.setattr(machine_checks, "_version", lambda name: "" if name in ("jh2", "trio") else "1")
    checks = list(check_versions("aarch64"))
    assert [check.verdict for check in checks] == ["fail", "warn"]
    assert "jh2" in checks[1].seen


@pytest.mark.parametrize(
    ("answer", "verdict", "text"),
    [
        (
            "ActiveState=active\nSubState=running\nUnitFileState=enabled\nNRestarts=2\nWatchdogUSec=1min\n",
            "ok",
            "2 times",
        ),
        ("ActiveState=active\nUnitFileState=disabled\nWatchdogUSec=1min\n", "warn", "disabled"),
        ("ActiveState=active\nUnitFileState=enabled\nWatchdogUSec=0\n", "warn", "nobody watches"),
        ("ActiveState=failed\nResult=watchdog\nUnitFileState=enabled\n", "fail", "watchdog"),
        ("", "fail", "unknown"),
    ],
)
def test_the_service_is_asked_for(answer: str, verdict: str, text: str, fake: Fake) -> None:
    assert named(list(check_service(fake.system, lambda unit: answer)), "service").verdict == "skipped"
    fake.put("/usr/lib/systemd/system/edge-runtime.service", "")
    assert "systemd does not run" in named(list(check_service(fake.system, lambda unit: answer)), "service").seen
    fake.put("/run/systemd/system/x", "")
    check = named(list(check_service(fake.system, lambda unit: answer)), "service")
    assert check.verdict == verdict
    assert text in check.seen
