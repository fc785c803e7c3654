"""Reflection, as gRPC's own client uses it: messages built from what the sidecar tells, and a call made with them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sidecar import Sidecar

# In a process of its own: it knows no message but those that it is told of.
CLIENT = """
import json, sys
import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel(sys.argv[1])
database = ProtoReflectionDescriptorDatabase(channel)
pool = descriptor_pool.DescriptorPool(database)
service = pool.FindServiceByName("dapr.proto.runtime.v1.Dapr")
method = service.FindMethodByName("GetState")
request = message_factory.GetMessageClass(method.input_type)(store_name="statestore", key="none")
reply = message_factory.GetMessageClass(method.output_type)
call = channel.unary_unary(f"/{service.full_name}/{method.name}", type(request).SerializeToString, reply.FromString)
print(json.dumps({
    "services": list(database.get_services()),
    "rpcs": len(service.methods),
    "data": len(call(request, timeout=20).data),
}))
"""


@pytest.mark.slow
def test_a_client_learns_the_api_from_the_sidecar(tmp_path: Path) -> None:
    with Sidecar(tmp_path) as sidecar:
        command = [sys.executable, "-c", CLIENT, f"127.0.0.1:{sidecar.grpc_port}"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {
        "services": [
            "dapr.proto.runtime.v1.Dapr",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ],
        "rpcs": 72,
        "data": 0,
    }
