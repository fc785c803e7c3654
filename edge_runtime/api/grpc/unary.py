"""How a unary rpc is written: a plain function from a request to a reply, and the call beside it.

    @unary
    async def GetState(self, call: RpcCall, request: GetStateRequest) -> GetStateResponse: ...

The mixin's method then has the form of a generated base, `(self, stream)`; the face calls the plain function, which is
kept as `.unary`, because it has the request at hand and sends the reply itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from edge_runtime.model.trace import NO_TRACE, Trace

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from edge_runtime.net.grpc.server import ServerCall

S = TypeVar("S")
Request = TypeVar("Request")
Reply = TypeVar("Reply", bound="Message")
Pair = tuple[str, str | bytes]


class RpcCall:
    """One unary call on its way through its rpc. What is added to the reply goes out with an error too."""

    __slots__ = ("initial", "stream", "trace", "trailing")

    def __init__(self, stream: ServerCall, trace: Trace = NO_TRACE) -> None:
        self.stream = stream
        self.trace = trace
        self.initial: list[Pair] | tuple[()] = ()
        self.trailing: list[Pair] | tuple[()] = ()

    @property
    def metadata(self) -> list[Pair]:
        """The caller's metadata, names in lower case; the API token is out."""
        return self.stream.metadata

    def get(self, name: str) -> str | bytes | None:
        """The first value of that name in the caller's metadata."""
        return self.stream.get(name)

    def set_header(self, name: str, value: str | bytes) -> None:
        """Add initial metadata to the reply; the name is in lower case, bytes go under a name that ends in `-bin`."""
        if self.initial:
            self.initial.append((name, value))
        else:
            self.initial = [(name, value)]

    def set_trailer(self, name: str, value: str | bytes) -> None:
        """Add trailing metadata to the reply."""
        if self.trailing:
            self.trailing.append((name, value))
        else:
            self.trailing = [(name, value)]


def unary(
    function: Callable[[S, RpcCall, Request], Awaitable[Reply]],
) -> Callable[[S, ServerCall], Coroutine[Any, Any, None]]:
    """The method as a handler of streams; `.unary` is the function itself."""

    async def serve(self: S, stream: ServerCall) -> None:
        request: Any = await stream.recv_message()
        call = RpcCall(stream)
        stream.reply(await function(self, call, request), call.initial, call.trailing)

    serve.unary = function  # type: ignore[attr-defined]
    serve.__name__ = getattr(function, "__name__", "rpc")
    serve.__doc__ = function.__doc__
    return serve
