# shellcheck shell=bash
# Sourced by the steps: where things lie, and what the host needs. Everything is in one folder, kept between runs:
#   EDGE_RUNTIME_QEMU         the folder; .cache/qemu in the clone when not set. About 3 GB.
#   EDGE_RUNTIME_QEMU_SUITE   Debian's release on the device: bookworm
#   EDGE_RUNTIME_QEMU_MIRROR  where its packages come from; else from where apt has this machine's
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

work=${EDGE_RUNTIME_QEMU:-$root/.cache/qemu}
suite=${EDGE_RUNTIME_QEMU_SUITE:-bookworm}
mkdir -p "$work"

mirror() {
    # shellcheck disable=SC2016 # apt puts in its own value
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null \
        | grep -m1 '/debian/$' | sed 's,/$,,' \
        || { say "no Debian mirror in apt's sources; set EDGE_RUNTIME_QEMU_MIRROR"; return 1; }
}

# Not so: nothing can be said about the device here, and a test that calls it passes by.
can_emulate() {
    if ! command -v apt-get >/dev/null; then
        say "SKIPPED: the emulated device needs a Debian host (apt-get, dpkg)"
        return 1
    fi
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        say "SKIPPED: making the emulated device's disk needs root, and there is no sudo"
        return 1
    fi
    if [ ! -e "$work/rootfs-$suite.tar.zst" ] && ! can_binfmt; then
        say "SKIPPED: this kernel does not run ARM programs by binfmt_misc, which making the root file system needs." \
            "Make it elsewhere with tools/qemu/rootfs and copy $work"
        return 1
    fi
}

# qemu-user runs the maintainer scripts of ARM packages while the root file system is made.
can_binfmt() {
    [ "$(uname -m)" = aarch64 ] && return
    need_apt qemu-user-static binfmt-support
    [ -e /proc/sys/fs/binfmt_misc/register ] || as_root mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc || return
    [ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ] || as_root update-binfmts --enable qemu-aarch64 || true
    [ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]
}

need_emulator() { need_apt qemu-system-arm qemu-utils ipxe-qemu; }
