"""A cloud link: calls of another Dapr sidecar over a network that comes and goes.

Only documented calls of Dapr's APIs go out. A call waits for its share of the budget, and ends with `Unreachable` when
the link goes down; a call that fails is a reason to ask whether it has.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

import trio

from edge_runtime.model.errors import DriverError, Overloaded, Unreachable
from edge_runtime.model.http import Body, Header, Request, Response
from edge_runtime.net.connections import ConnectFailed, Origin
from edge_runtime.net.http_client import ExchangeFailed
from edge_runtime.sync.link_answers import (
    Answer,
    Failed,
    Refused,
    TooLarge,
    excerpt,
    is_about_a_store,
    is_considered,
    is_page,
)
from edge_runtime.sync.link_keeper import TOKEN_REFUSED, KeptLink, Session, session_scope
from edge_runtime.sync.link_settings import SLOWEST_BYTES_PER_S
from edge_runtime.sync.meter import current_class
from edge_runtime.sync.passing import PacedBody, PassedAnswer, says_token_refused

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from edge_runtime.net.grpc.client import ClientCall, GrpcClient, Reply
    from edge_runtime.net.http2 import Stream

    M = TypeVar("M", bound=Message)

logger: Final = logging.getLogger("dapr.runtime.link")

# Statuses that somebody between may have said, who has not asked for the token.
_PROVE_NOTHING: Final = (401, 403, 407, 502, 503, 504)


class _Suspicion(Exception):
    """A call failed in a way that lets one ask whether the link is down."""


class Link(KeptLink):
    """One link: its state, and its calls."""

    # --- calls ------------------------------------------------------------------------------------------------------

    async def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Sequence[Header] = (),
        kind: str = "call",
        timeout_s: float | None = None,
        bodiless: bool = False,
    ) -> Answer:
        """One documented call; `path` begins with its version and is encoded already (`segment`).

        A `bodiless` call has no body in its answer when it succeeds: one that has is not the sidecar's.
        Raises `Unreachable` when the link is down, a `permanent` error for a considered refusal, else `DriverError`.
        """
        target = self._ends.http.path + b"/" + path.encode()
        if query:
            target += (
                b"?" + "&".join(f"{quote(name, safe='.')}={quote(value, safe='')}" for name, value in query).encode()
            )
        request = Request(method, target, (*self._ends.headers, *headers), Body(body))
        size = len(target) + len(body) + sum(len(name) + len(value) + 4 for name, value in request.headers)
        limit_s = (timeout_s or self._limits.call_timeout_s) + len(body) / SLOWEST_BYTES_PER_S
        bytes_max = self._limits.short_answer_bytes_max if bodiless else self._limits.answer_bytes_max
        async with self._calling(size, kind) as session:
            since = trio.current_time()
            try:
                with trio.move_on_after(limit_s) as limit:
                    answer = await self._exchange(session, request, bytes_max)
                if limit.cancelled_caught:
                    raise _Suspicion(f"no answer within {limit_s:g} s")
                if bodiless and answer.body and 200 <= answer.status < 300:
                    raise _Suspicion(f"answered {answer.status} with a body, as no sidecar does{excerpt(answer)}")
                if is_page(answer) or answer.status in (502, 503, 504) or 300 <= answer.status < 400:
                    raise _Suspicion(f"answered {answer.status}{excerpt(answer)}")
            except (_Suspicion, DriverError) as error:
                await self._suspect(session, since, str(error), error)
            self._hear(session)
            return self._judge(session, answer)

    def _judge(self, session: Session, answer: Answer) -> Answer:
        status = answer.status
        if 200 <= status < 300:
            self._trust(session)
            return answer
        text = f"link {self.name}: answered {status}{excerpt(answer)}"
        if status == 401 and not is_about_a_store(answer):
            self._refuse_token(session)
        if 400 <= status < 500 and status not in (407, 408, 425, 429) and is_considered(answer):
            self._trust(session)
            raise Refused(text, answer)
        raise Failed(text, answer)

    @asynccontextmanager
    async def _calling(self, size: int, kind: str) -> AsyncIterator[Session]:
        """A session for one call, which ends with it when the link goes down."""
        if not self._meter.budget.fits(size):
            most = self.settings.resource.bytes_per_day
            raise TooLarge(
                f"link {self.name}: {size} bytes do not fit into a whole day's budget; the limit is"
                f" spec.budget.bytesPerDay ({most}), of which connections need some; raise it, or send less at once"
            )
        await self.admit(size)
        token = current_class.set(kind)
        outcome = "failed"
        try:
            session = self._session
            if session is None or not self.usable:
                raise Unreachable(f"link {self.name} is {self.state.name}: {self.state.reason}")
            with session_scope(session) as scope:
                yield session
                outcome = "done"
            if scope.cancelled_caught:
                raise Unreachable(f"link {self.name} is {self.state.name}: {self.state.reason}")
        finally:
            self._meter.release(size)
            current_class.reset(token)
            self._metrics.calls.add((self.name, kind, outcome))

    async def state_rpc(self, path: str, request: Message, reply_type: type[M]) -> M:
        """A gRPC call about state. Raises as `call` does, by the meaning of the codes."""
        data = request.SerializeToString()
        async with self._calling(len(data) + len(path), "state") as session:
            since = trio.current_time()
            limit_s = self._limits.call_timeout_s + len(data) / SLOWEST_BYTES_PER_S
            try:
                reply = await self._has_grpc(session.state).unary(
                    path, data, reply_type, metadata=self._ends.metadata, timeout_s=limit_s
                )
            except DriverError as error:
                await self.judge_rpc(error, since)
                raise
            self._trust(session)
            return reply.message

    @asynccontextmanager
    async def open_call(self, path: str, *, kind: str) -> AsyncIterator[ClientCall]:
        """A streaming gRPC call; it ends with `Unreachable` when the link goes down."""
        async with self._calling(0, kind) as session:
            async with self._has_grpc(session.grpc).open_call(path, self._ends.metadata) as call:
                yield call

    def _has_grpc(self, client: GrpcClient | None) -> GrpcClient:
        if client is None:
            raise DriverError(f"link {self.name} has no spec.endpoint.grpc; add it")
        return client

    def heard(self) -> None:
        """Something came from the other end."""
        if self._session is not None:
            self._trust(self._session)

    async def judge_rpc(self, error: DriverError, since: float) -> None:
        """Say what a failed gRPC call means, which began at `since`: raises `Unreachable` when the link is down."""
        session = self._session
        if session is None:
            raise Unreachable(f"link {self.name} is {self.state.name}: {self.state.reason}") from error
        if error.code == 16:
            self._token_refused = True
            self._fall(session, TOKEN_REFUSED)
            raise Unreachable(f"link {self.name}: {TOKEN_REFUSED}", code=16) from error
        if error.code in (None, 4, 14):
            await self._suspect(session, since, str(error), error)
        if error.code in (3, 5, 6, 7, 9, 11, 12):
            raise Refused(f"link {self.name}: {error}", None, error.code) from error

    # --- calls of apps, whose answers are theirs to judge -----------------------------------------------------------

    async def pass_on(self, request: Request, limit_s: float = math.inf) -> Response:
        """The answer, whatever its status; its body must be read or closed. Bodies cross in pieces, both ways.

        `request.target` begins with the version of the API. Raises `Unreachable` at once while the link is away;
        `DriverError` when this call alone got no answer. An answer never takes the link down: only the sidecar's own
        words that it does not know the token do, once it has been asked about that. `limit_s` is for the head of the
        answer, from when the call goes out.
        """
        self._must_be_up()
        headers = (*self._ends.headers, *request.headers)
        body = request.body if request.body.buffered else PacedBody(request.body, self.admit)
        sent = Request(request.method, self._ends.http.path + request.target, headers, body)
        size = len(sent.target) + (body.length or 0) + sum(len(name) + len(value) + 4 for name, value in headers)
        self._take_place()
        try:
            async with self._calling(size, "invocation") as session:
                response = await self._passed_on(session, sent, limit_s)
                self._hear(session)
                if says_token_refused(response):
                    await self._probe_token(session)
                elif response.status not in _PROVE_NOTHING:
                    self._trust(session)
        except BaseException:
            self._give_place_back()
            raise
        if response.body.buffered:
            self._give_place_back()
        else:
            response.body = PassedAnswer(response.body, self.admit, self._give_place_back)
        return response

    async def confirm(self) -> None:
        """Ask the other end for its health, since an answer may not have been its own. Raises `Unreachable`."""
        session = self._session
        if session is not None:
            reason = await self._doubt(session, trio.current_time())
            if reason:
                raise Unreachable(f"link {self.name}: {reason}")
        self._must_be_up()

    def _must_be_up(self) -> None:
        if not self.usable:
            raise Unreachable(f"link {self.name} is {self.state.name}: {self.state.reason}")

    def _take_place(self) -> None:
        if self._places_taken >= self._limits.passed_on_max:
            raise Overloaded(f"link {self.name}: {self._places_taken} calls of apps are in hand, and it takes no more")
        self._places_taken += 1

    def _give_place_back(self) -> None:
        self._places_taken -= 1

    async def _passed_on(self, session: Session, request: Request, limit_s: float) -> Response:
        """The head of the answer, however long the app takes for it, as long as the sidecar is there."""
        failure: Exception = DriverError(f"link {self.name}: no answer within {limit_s:g} s")
        response: Response | None = None
        since = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = since + limit_s
            nursery.start_soon(self._doubt_at_times, session)
            try:
                response = await session.passing.send(self._ends.http.origin, request)
            except Exception as error:
                failure = error  # raised behind the nursery, which would wrap it
            nursery.cancel_scope.cancel()
        if response is not None:
            return response
        if isinstance(failure, ConnectFailed | ExchangeFailed):
            await self._suspect(session, since, str(failure), failure)
        raise failure

    async def _doubt_at_times(self, session: Session) -> None:
        while True:
            since = trio.current_time()
            await trio.sleep(self._limits.call_timeout_s)
            await self._doubt(session, since)

    async def rpc(
        self,
        path: str,
        request: Message,
        reply_type: type[M],
        metadata: Sequence[tuple[str, str | bytes]],
        limit_s: float | None = None,
    ) -> Reply[M]:
        """A unary gRPC call that an app has made. Raises `RpcError` for what the other side says."""
        self._must_be_up()
        data = request.SerializeToString()
        self._take_place()
        try:
            return await self._rpc(path, data, reply_type, metadata, limit_s)
        finally:
            self._give_place_back()

    async def _rpc(
        self,
        path: str,
        data: bytes,
        reply_type: type[M],
        metadata: Sequence[tuple[str, str | bytes]],
        limit_s: float | None,
    ) -> Reply[M]:
        from edge_runtime.net.grpc.client import RpcError

        async with self._calling(len(data) + len(path), "invocation") as session:
            since = trio.current_time()
            client = await self._rpcs(session)
            try:
                reply = await client.unary(
                    path, data, reply_type, metadata=[*self._ends.metadata, *metadata], timeout_s=limit_s
                )
            except RpcError as error:
                await self._explain(session, error, since)
                raise
            except DriverError as error:
                await self._suspect(session, since, str(error), error)
            self._trust(session)
            return reply

    async def _explain(self, session: Session, error: DriverError, since: float) -> None:
        """Codes that the sidecar itself may have said, or nobody: raises `Unreachable` when the link is down."""
        if error.code == 16:
            await self._probe_token(session)
        elif error.code == 14 and await self._doubt(session, since):
            raise Unreachable(f"link {self.name}: {self.state.reason}") from error

    async def open_rpc(self, path: str, headers: Sequence[Header]) -> tuple[Stream, Callable[[], None]]:
        """A gRPC call of any kind that an app has made. The function must follow, once: the call is over."""
        self._must_be_up()
        self._take_place()
        try:
            async with self._calling(len(path), "invocation") as session:
                since = trio.current_time()
                client = await self._rpcs(session)
                try:
                    stream, leave = await client.open_stream(path, [*headers, *self._ends.headers])
                except DriverError as error:
                    await self._suspect(session, since, str(error), error)
        except BaseException:
            self._give_place_back()
            raise

        def over() -> None:
            leave()
            self._give_place_back()

        return stream, over

    def doubt_token(self) -> None:
        """A call has ended as one does whose token is not known: ask."""
        session = self._session
        if session is not None and session.tasks is not None and not session.over.is_set():
            session.tasks.start_soon(self._ask_about_token, session)

    async def _ask_about_token(self, session: Session) -> None:
        try:
            await self._probe_token(session)
        except DriverError:
            pass  # the link's state says it

    async def _rpcs(self, session: Session) -> GrpcClient:
        """The client for gRPC calls of apps: made with the first, when the sidecar is known to know the token.

        Its refusal would look as the app's own.
        """
        if self._ends.grpc is None:
            raise DriverError(f"link {self.name} has no spec.endpoint.grpc; add it")
        async with session.opening_rpcs:
            if session.rpcs is None:
                await self._probe_token(session)
                assert session.tasks is not None
                session.rpcs = await session.tasks.start(self._keep_rpcs, self._ends.grpc)
        return session.rpcs

    async def _keep_rpcs(self, origin: Origin, *, task_status: trio.TaskStatus[GrpcClient]) -> None:
        async with self._open_grpc(origin, self._passing_dialer) as client:
            task_status.started(client)
            await trio.sleep_forever()
