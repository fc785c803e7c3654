"""Every rpc of the SDK's own stubs, called with an empty request: what each says when nothing is asked of it."""

from __future__ import annotations

import os

import grpc
from clients import refusal
from dapr.proto.runtime.v1 import dapr_pb2
from google.protobuf.message_factory import GetMessageClass
from lines import say

SERVICE = dapr_pb2.DESCRIPTOR.services_by_name["Dapr"]

with grpc.insecure_channel(f"127.0.0.1:{os.environ['DAPR_GRPC_PORT']}") as channel:
    for method in SERVICE.methods:
        if method.name == "Shutdown":
            continue
        request, reply = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        kind = channel.stream_stream if method.client_streaming else channel.unary_stream
        call = kind(
            f"/{SERVICE.full_name}/{method.name}",
            request_serializer=request.SerializeToString,
            response_deserializer=reply.FromString,
        )
        try:
            sent = iter([request()]) if method.client_streaming else request()
            answers = [str(answer) != "" for answer in call(sent, timeout=20)]
            say(method.name, {"code": "OK", "answers": len(answers)})
        except grpc.RpcError as error:
            say(method.name, refusal(error))
