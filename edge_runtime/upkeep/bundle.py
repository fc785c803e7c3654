"""A support bundle: one compressed tar archive of texts that tell how a node is, each without secrets.

What apps keep and send is not read: of databases only tables, their rows' number and the statements that make them.
"""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from edge_runtime.model.errors import ConfigError, DriverError
from edge_runtime.security.secret_box import KEY_FILE
from edge_runtime.store.copies import look_at, schema_of
from edge_runtime.upkeep.checks import System
from edge_runtime.upkeep.file_checks import databases_in
from edge_runtime.upkeep.files import Found, yaml_files
from edge_runtime.upkeep.redaction import Redactor

_LOG_BYTES_MAX: Final = 2**20
_LOG_LINES_MAX: Final = 2000
_FILES_MAX: Final = 500
_KERNEL: Final = ("/proc/self/mountinfo", "/proc/meminfo", "/proc/loadavg", "/proc/uptime", "/proc/version")


def learn_all(redactor: Redactor, found: Found, state_dir: str, environments: Iterable[Mapping[str, str]]) -> None:
    """Every secret that lies beside the files, so that it is known again wherever it stands."""
    for variables in environments:
        redactor.learn_variables(variables)
        credentials = variables.get("CREDENTIALS_DIRECTORY", "")
        for name in os.listdir(credentials) if os.path.isdir(credentials) else ():
            redactor.learn_file(os.path.join(credentials, name))
    redactor.learn_file(os.path.join(state_dir, KEY_FILE))
    for component in found.components:
        for item in component.metadata:
            if item.name.lower() == "secretsfile" and item.value:
                redactor.learn_file(item.value)


def resource_texts(redactor: Redactor, directories: Sequence[str], configs: Sequence[str]) -> dict[str, str]:
    """The files by their place in the bundle."""
    texts = {}
    for number, path in enumerate([*configs, *yaml_files(directories)][:_FILES_MAX]):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read(2**24)
        except OSError as error:
            texts[f"files/{number}-{os.path.basename(path)}"] = f"# {path}: {error.strerror}\n"
            continue
        texts[f"files/{number}-{os.path.basename(path)}"] = f"# {path}\n{redactor.resource_file(text)}"
    return texts


def machine_texts(system: System) -> dict[str, str]:
    about = {
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "user": os.geteuid(),
    }
    texts = {f"machine/{name.strip('/').replace('/', '-')}.txt": system.text(name) + "\n" for name in _KERNEL}
    return {"machine/about.json": as_text(about), **texts}


def database_text(state_dir: str, elsewhere: Sequence[str]) -> str:
    rows = []
    for path in databases_in(state_dir, elsewhere):
        look = look_at(path, pages=False, count=True)
        try:
            schema = schema_of(path)
        except DriverError as error:
            schema = [str(error)]
        wal = os.path.getsize(path + "-wal") if os.path.exists(path + "-wal") else 0
        rows.append(
            {
                "path": path,
                "bytes": look.bytes,
                "walBytes": wal,
                "problem": look.problem,
                "lastStep": look.step,
                "rows": look.tables,
                "schema": schema,
            }
        )
    return as_text(rows)


def log_text(redactor: Redactor, log_files: Sequence[str], known: Iterable[str]) -> str:
    """The last lines of the service's journal, where there is one, and of the files that nodes log into."""
    lines = journal_lines()
    for path in log_files:
        lines += _tail(path)
    return "".join(f"{line}\n" for line in redactor.log_lines(lines[-_LOG_LINES_MAX:], known))


def journal_lines(unit: str = "edge-runtime.service") -> list[str]:
    command = ["journalctl", "-u", unit, "-n", str(_LOG_LINES_MAX), "-o", "cat", "--no-pager", "-q"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.decode("utf-8", "replace").splitlines()


def _tail(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            file.seek(max(os.path.getsize(path) - _LOG_BYTES_MAX, 0))
            return file.read(_LOG_BYTES_MAX).decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def as_text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def write_bundle(path: str, texts: Mapping[str, str], redactor: Redactor) -> list[str]:
    """Each text is scrubbed once more, when all secrets are known. Raises ConfigError; no half file is left."""
    part = f"{path}.{os.getpid()}.part"
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz") as tar:
                for name, text in texts.items():
                    data = redactor.scrub(text).encode()
                    info = tarfile.TarInfo(f"support/{redactor.scrub(name)}")
                    info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
                    tar.addfile(info, io.BytesIO(data))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise ConfigError(f"support-bundle {path}: cannot be written: {error.strerror}") from None
    finally:
        if os.path.exists(part):
            os.unlink(part)
    return list(texts)
