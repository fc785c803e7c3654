"""The table of services: every rpc there is, each in the form that its cardinality asks for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from grpclib.const import Cardinality

from edge_runtime.api.grpc.dapr import services_of


def test_every_rpc_is_served() -> None:
    blocks: Any = SimpleNamespace()
    table = {path: handler for service in services_of(blocks) for path, handler in service.__mapping__().items()}
    assert len([path for path in table if path.startswith("/dapr.proto.runtime.v1.Dapr/")]) == 72
    assert "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo" in table
    assert "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" in table
    for path, handler in table.items():
        plain = hasattr(handler.func, "unary")
        assert plain == (handler.cardinality is Cardinality.UNARY_UNARY), path
        assert not getattr(handler.func, "__isabstractmethod__", False), path
