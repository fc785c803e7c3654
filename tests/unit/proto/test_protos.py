"""The messages and services against those of the official SDK, which cannot be loaded into the same process."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FileDescriptor

from edge_runtime.proto.dapr.proto.runtime.v1 import appcallback_pb2, dapr_pb2
from tests.unit.proto import describe

ROOT = Path(__file__).parents[3]
SDK = (
    "from dapr.proto.runtime.v1 import appcallback_pb2, dapr_pb2\n"
    "from tests.unit.proto.describe import described\n"
    "import json; print(json.dumps(described([dapr_pb2.DESCRIPTOR, appcallback_pb2.DESCRIPTOR])))"
)
OURS: list[FileDescriptor] = [dapr_pb2.DESCRIPTOR, appcallback_pb2.DESCRIPTOR]
# Generated modules with services, by what they are generated from.
SERVICES = [
    "dapr.proto.runtime.v1.dapr_grpc:DaprBase",
    "dapr.proto.runtime.v1.appcallback_grpc:AppCallbackBase",
    "dapr.proto.runtime.v1.appcallback_grpc:AppCallbackHealthCheckBase",
    "dapr.proto.runtime.v1.appcallback_grpc:AppCallbackAlphaBase",
    "grpc.reflection.v1.reflection_grpc:ServerReflectionBase",
    "grpc.reflection.v1alpha.reflection_grpc:ServerReflectionBase",
]


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.fixture(scope="module")
def theirs() -> Any:
    return json.loads(python(SDK))


@pytest.mark.slow
def test_every_message_is_the_sdks(theirs: Any) -> None:
    ours = describe.described(OURS)["messages"]
    assert len(ours) > 200
    for name, row in ours.items():
        known = theirs["messages"][name]
        # The SDK has fields, messages and rpcs beyond ours: previews that are newer than what is served here.
        numbers = {field[0] for field in row["fields"]}
        assert {**known, "fields": [field for field in known["fields"] if field[0] in numbers]} == row, name


@pytest.mark.slow
def test_every_enum_is_the_sdks(theirs: Any) -> None:
    ours = describe.described(OURS)["enums"]
    assert len(ours) == 9
    assert {name: theirs["enums"].get(name) for name in ours} == ours


@pytest.mark.slow
def test_every_rpc_is_the_sdks(theirs: Any) -> None:
    ours = describe.described(OURS)["rpcs"]
    assert len(ours) == 72 + 7 + 1 + 2
    assert {name: theirs["rpcs"].get(name) for name in ours} == ours


@pytest.mark.parametrize("place", SERVICES)
def test_a_base_maps_every_rpc(place: str) -> None:
    module_name, _, name = place.partition(":")
    module = importlib.import_module(f"edge_runtime.proto.{module_name}")
    base = getattr(module, name)
    service = type(name, (base,), dict.fromkeys(base.__abstractmethods__))()
    rows = service.__mapping__()
    assert len(rows) == len(base.__abstractmethods__)
    for path, handler in rows.items():
        assert handler.request_type.DESCRIPTOR.file.serialized_pb
        assert handler.reply_type.__module__.startswith(("edge_runtime.proto.", "google.protobuf."))
        assert path.startswith(("/dapr.proto.runtime.v1.", "/grpc.reflection.v1"))


LOADED = """
import sys
{imports}
print(*sys.modules)
"""


@pytest.mark.slow
def test_nothing_that_waits_or_dials_is_loaded() -> None:
    imports = "\n".join(f"import edge_runtime.proto.{place.partition(':')[0]}" for place in SERVICES)
    loaded = set(python(LOADED.format(imports=imports)).split())
    assert "edge_runtime.proto.dapr.proto.runtime.v1.dapr_pb2" in loaded
    unwanted = {"asyncio", "trio", "socket", "ssl", "h2", "grpc", "grpclib.client", "grpclib.server", "grpclib.utils"}
    assert not unwanted & loaded


@pytest.mark.slow
def test_errors_bring_no_asyncio_either() -> None:
    imports = "import edge_runtime.api.grpc.errors, edge_runtime.api.grpc.reflection, edge_runtime.api.grpc.groups"
    assert not {"asyncio", "trio", "grpc", "grpclib.client"} & set(python(LOADED.format(imports=imports)).split())
