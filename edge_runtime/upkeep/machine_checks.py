"""The machine beside its disk: clock, memory, ports, the network for mDNS, versions, and what systemd says."""

from __future__ import annotations

import fcntl
import platform
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from edge_runtime import RUNTIME_VERSION, __version__
from edge_runtime.store.copies import sqlite_version
from edge_runtime.store.kernel_clock import is_synchronized
from edge_runtime.upkeep.checks import Check, System, shown_bytes
from edge_runtime.upkeep.holders import Holder, holders_of_sockets

_SET_S: Final = 1_704_067_200  # 2024: a clock before it is not set
_AVAILABLE_LEAST_BYTES: Final = 48 * 2**20
_UP, _LOOPBACK, _MULTICAST = 0x1, 0x8, 0x1000
_SIOCGIFADDR: Final = 0x8915
_LISTENING: Final = "0A"
MDNS_PORT: Final = 5353
_UNIT: Final = "edge-runtime.service"
_UNIT_PLACES: Final = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_ASKED: Final = "ActiveState,SubState,UnitFileState,Result,NRestarts,WatchdogUSec"
_FAST: Final = ("httptools", "jh2")
_PACKAGES: Final = ("trio", "h11", "msgspec", "PyYAML", "cbor2", "protobuf", "paho-mqtt", "PyNaCl", "cryptography")


# --- clock ------------------------------------------------------------------------------------------------------------


def check_clock(
    system: System, wall: Callable[[], float] = time.time, synchronized: Callable[[], bool] = is_synchronized
) -> Iterator[Check]:
    now = wall()
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    mend = "let a time server set it (`timedatectl set-ntp true`); what goes wrong until then is in docs/clock.md"
    if now < _SET_S:
        yield Check("clock", "fail", f"it is {shown}: it was not set", mend)
    elif not synchronized():
        yield Check("clock", "warn", f"it is {shown}; nobody keeps it by a time server", mend)
    else:
        yield Check("clock", "ok", f"it is {shown}, kept by a time server")
    if any(name.startswith("rtc") for name in system.names("/sys/class/rtc")):
        yield Check("clock battery", "ok", "there is a clock that runs while the machine is off, if its battery does")
    else:
        seen = "there is no clock that runs while the machine is off: it starts in the past, and jumps"
        yield Check("clock battery", "skipped", seen, "nothing has to be done; a real-time clock module mends it")


# --- memory -----------------------------------------------------------------------------------------------------------


def check_memory(system: System, node_pid: int | None) -> Iterator[Check]:
    """`node_pid` is the node's process when it runs."""
    sizes = _meminfo(system)
    free, total = sizes.get("MemAvailable", 0), sizes.get("MemTotal", 0)
    seen = f"{shown_bytes(free)} of {shown_bytes(total)} can be had"
    short = bool(total) and free < _AVAILABLE_LEAST_BYTES
    yield Check("memory", "warn" if short else "ok", seen, "stop what nobody needs" if short else "")
    if "memory" in system.text("/sys/fs/cgroup/cgroup.controllers").split():
        yield from _check_limit(system, node_pid)
        return
    if not system.exists("/sys/fs/cgroup/cgroup.controllers"):
        yield Check("memory limit", "skipped", "control groups of version 2 are not there")
        return
    switched_off = "cgroup_disable=memory" in system.text("/proc/cmdline").split()
    why = "the kernel was started with cgroup_disable=memory" if switched_off else "the kernel has no memory controller"
    mend = "on a Raspberry Pi add `cgroup_enable=memory` to the line in /boot/firmware/cmdline.txt, and restart it"
    yield Check("memory limit", "warn", f"MemoryMax= of units has no effect: {why}", mend)


def _check_limit(system: System, pid: int | None) -> Iterator[Check]:
    lines = system.text(f"/proc/{pid}/cgroup").splitlines() if pid is not None else []
    place = next((line[3:] for line in lines if line.startswith("0::")), "")
    if not place:
        yield Check("memory limit", "ok", "MemoryMax= of units is kept by the kernel")
        return
    folder = f"/sys/fs/cgroup{place}"
    most, used = system.text(f"{folder}/memory.max"), system.text(f"{folder}/memory.current")
    events = dict(line.split() for line in system.text(f"{folder}/memory.events").splitlines() if line.count(" ") == 1)
    seen = f"the node's group uses {shown_bytes(int(used))}" if used.isdigit() else "the node has a group"
    if int(events.get("oom_kill", "0") or 0):
        mend = "raise MemoryMax= of the unit, or find out what needs so much (docs/operating.md)"
        yield Check("memory limit", "warn", f"{seen}; the kernel has killed in it {events['oom_kill']} times", mend)
    elif most.isdigit() and used.isdigit() and int(used) > 0.9 * int(most):
        yield Check("memory limit", "warn", f"{seen} of {shown_bytes(int(most))}", "raise MemoryMax= of the unit")
    else:
        limit = f" of {shown_bytes(int(most))}" if most.isdigit() else ", without a limit"
        yield Check("memory limit", "ok", seen + limit)


def _meminfo(system: System) -> dict[str, int]:
    sizes = {}
    for line in system.text("/proc/meminfo").splitlines():
        words = line.split()
        if len(words) >= 2 and words[1].isdigit():
            sizes[words[0].rstrip(":")] = int(words[1]) * 1024
    return sizes


# --- ports ------------------------------------------------------------------------------------------------------------


def check_ports(ports: Mapping[int, str], own_pids: Sequence[int], system: System) -> Iterator[Check]:
    """`ports` are those that the node is configured with, and what for."""
    listening = _sockets(system, ("tcp", "tcp6"), _LISTENING)
    for port, use in sorted(ports.items()):
        name = f"port {port}"
        inodes = listening.get(port)
        if not inodes:
            yield Check(name, "ok", f"is free for {use}")
            continue
        found = holders_of_sockets(inodes, system.root)
        if any(one.pid in own_pids for one in found):
            yield Check(name, "ok", f"the node listens there for {use}")
        else:
            who = _named(found)
            mend = f"stop that, or give {use} another port"
            yield Check(name, "fail", f"is wanted for {use}, and held by {who}", mend)


def _named(found: Sequence[Holder]) -> str:
    return ", ".join(map(str, found)) or "a process that this user may not see (ask as root)"


def _sockets(system: System, tables: Sequence[str], state: str) -> dict[int, list[int]]:
    """Port → inodes of its sockets; an empty `state` takes all."""
    found: dict[int, list[int]] = {}
    for table in tables:
        for line in system.text(f"/proc/net/{table}").splitlines()[1:]:
            words = line.split()
            if len(words) > 9 and state in ("", words[3]):
                found.setdefault(int(words[1].rpartition(":")[2], 16), []).append(int(words[9]))
    return found


# --- mDNS -------------------------------------------------------------------------------------------------------------


def interface_address(name: str) -> str:
    """Its IPv4 address; empty when it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        except OSError:
            return ""
    return socket.inet_ntoa(answer[20:24])


def check_mdns(system: System, address: Callable[[str], str] = interface_address) -> Iterator[Check]:
    usable, others = [], []
    for name in system.names("/sys/class/net"):
        text = system.text(f"/sys/class/net/{name}/flags", "0x0")
        flags = int(text, 16)
        if flags & _LOOPBACK:
            continue
        found = address(name) or _ipv6(name, system)
        carries = system.text(f"/sys/class/net/{name}/operstate") in ("up", "unknown")
        if flags & _UP and flags & _MULTICAST and carries and found:
            usable.append(f"{name} ({found})")
        else:
            why = "is down" if not (flags & _UP and carries) else "has no address" if not found else "has no multicast"
            others.append(f"{name} {why}")
    if usable:
        yield Check("mDNS interfaces", "ok", ", ".join(usable))
    else:
        mend = "bring an interface up (`ip link`, `nmcli`); until then neighbours on the network are not found"
        yield Check("mDNS interfaces", "warn", "none: " + (", ".join(others) or "there is only loopback"), mend)
    inodes = [inode for found in [_sockets(system, ("udp", "udp6"), "").get(MDNS_PORT, [])] for inode in found]
    who = f"is shared with {_named(holders_of_sockets(inodes, system.root))}" if inodes else "nobody answers there yet"
    yield Check(f"port {MDNS_PORT}/udp", "ok", f"mDNS: {who}")


def _ipv6(name: str, system: System) -> str:
    for line in system.text("/proc/net/if_inet6").splitlines():
        words = line.split()
        if len(words) == 6 and words[5] == name:
            return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[0]))
    return ""


# --- program ----------------------------------------------------------------------------------------------------------


def check_versions(machine: str = platform.machine()) -> Iterator[Check]:
    found = {name: _version(name) for name in (*_PACKAGES, *_FAST)}
    listed = ", ".join(f"{name} {text}" for name, text in found.items() if text)
    seen = (
        f"edge-runtime {__version__} (as Dapr {RUNTIME_VERSION}), Python {platform.python_version()},"
        f" SQLite {sqlite_version()}, {listed}"
    )
    missing = [name for name in _PACKAGES if not found[name]]
    if missing:
        yield Check("versions", "fail", f"{', '.join(missing)} is missing; {seen}", "install the package again, whole")
    else:
        yield Check("versions", "ok", seen)
    slow = [name for name in _FAST if not found[name]] if machine in ("x86_64", "aarch64") else []
    if found["protobuf"] and _protobuf() != "upb":
        slow.append("the C part of protobuf")
    if slow:
        mend = "install the wheels for this machine; without them requests cost about twice the CPU"
        yield Check("fast modules", "warn", f"missing: {', '.join(slow)}", mend)
    else:
        yield Check(
            "fast modules", "ok", "httptools, jh2 and protobuf with its C part, or what this machine has of them"
        )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _protobuf() -> str:
    from google.protobuf.internal import api_implementation

    return str(api_implementation.Type())


def ask_systemctl(unit: str) -> str:
    """The unit's facts, a `Name=value` a line; empty when nobody answers."""
    try:
        done = subprocess.run(
            ["systemctl", "show", unit, "-p", _ASKED], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def check_service(system: System, ask: Callable[[str], str] = ask_systemctl) -> Iterator[Check]:
    if not any(system.exists(f"{place}/{_UNIT}") for place in _UNIT_PLACES):
        yield Check("service", "skipped", f"{_UNIT} is not installed")
        return
    if not system.exists("/run/systemd/system"):
        yield Check("service", "skipped", "systemd does not run here")
        return
    facts = dict(line.partition("=")[::2] for line in ask(_UNIT).splitlines())
    active = facts.get("ActiveState", "unknown")
    seen = f"{_UNIT} is {active} ({facts.get('SubState', '')}), {facts.get('UnitFileState', '')}"
    if active != "active":
        mend = f"`systemctl start {_UNIT}`; why it ended: `journalctl -u {_UNIT} -e`"
        yield Check("service", "fail", f"{seen}; its last result: {facts.get('Result', 'unknown')}", mend)
    elif facts.get("UnitFileState") == "disabled":
        yield Check("service", "warn", seen, f"`systemctl enable {_UNIT}`, else it does not start with the machine")
    elif facts.get("WatchdogUSec", "0") in ("0", "", "infinity"):
        yield Check("service", "warn", f"{seen}, and nobody watches it", "keep WatchdogSec= in the unit")
    else:
        restarts = facts.get("NRestarts", "0")
        again = f", started again {restarts} times" if restarts not in ("", "0") else ""
        yield Check("service", "ok", f"{seen}, watched every {facts['WatchdogUSec']}{again}")
