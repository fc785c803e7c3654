# shellcheck shell=bash
# Sourced by the tools: makes the virtual environment, and whatever else is asked for, when it is missing or out of date.
#   need_python [extra …]   the project with its extras in .venv (or $EDGE_RUNTIME_VENV)
#   need_apt package …      Debian packages
#   need_node dir           the npm packages of a folder
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${EDGE_RUNTIME_VENV:-$root/.venv}

say() { printf '\033[1m»\033[0m %s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else say "this needs root and there is no sudo: $*"; return 1
    fi
}

need_apt() {
    local missing=() package
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    say "installing ${missing[*]} (Debian packages)"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# The newest interpreter that is new enough and can make virtual environments; Debian's python3 where there is none.
find_python() {
    local python
    for python in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
        [ -n "$python" ] || continue
        if "$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"; return
        fi
    done
    need_apt python3 python3-venv >&2
    if /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo /usr/bin/python3
    else
        say "Python 3.11 or later is needed; this system's python3 is $(/usr/bin/python3 --version 2>&1). Set PYTHON=/path/to/python3."
        return 1
    fi
}

need_python() {
    local extras mark python
    extras=$(IFS=,; echo "$*")
    mark=$(cksum <"$root/pyproject.toml" | cut -d' ' -f1)
    mkdir -p "$venv.marks"
    [ -e "$venv.marks/$mark-${extras:-plain}" ] && [ -x "$venv/bin/python" ] && return
    if [ ! -x "$venv/bin/python" ]; then
        python=$(find_python)
        say "making $venv with $("$python" --version)"
        "$python" -m venv "$venv"
    fi
    say "installing edge-runtime${extras:+ with $extras} into $venv; this may take a few minutes"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check -e "$root${extras:+[$extras]}"
    touch "$venv.marks/$mark-${extras:-plain}"
}

need_node() {
    local dir=$1
    if ! command -v node >/dev/null || ! command -v npm >/dev/null; then need_apt nodejs npm; fi
    if [ ! -d "$dir/node_modules" ] || [ "$dir/package-lock.json" -nt "$dir/node_modules" ]; then
        say "installing the npm packages of ${dir#"$root"/}"
        (cd "$dir" && npm ci --silent --no-audit --no-fund --ignore-scripts)
        touch "$dir/node_modules"
    fi
}
