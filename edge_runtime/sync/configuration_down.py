"""Settings of the other sidecar on their way down: a subscription there, a mirror here.

    link up ──► subscribe ──► its id has come: look at all keys ──► each change as it is told
                    ▲                   ▲ every quarter of an hour, for what was never told
                    └── stream ends ────┴──────────────────────────────────────────────────┘

The look comes after the subscription, so nothing can happen between the two that is not in one of them. A store tells
of a removed key by an empty value, and of a setting that is empty just the same: such a key is asked for again.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
import trio
from google.protobuf.message import DecodeError

from edge_runtime.config.links import ConfigurationRoute
from edge_runtime.model.errors import DriverError, Unreachable
from edge_runtime.model.ports import Backoff, ConfigurationItem
from edge_runtime.net.grpc.client import ClientCall
from edge_runtime.proto.dapr.proto.runtime.v1.configuration_pb2 import (
    SubscribeConfigurationRequest,
    SubscribeConfigurationResponse,
)
from edge_runtime.sync.link import Link
from edge_runtime.sync.link_answers import segment

logger: Final = logging.getLogger("dapr.runtime.link")

PATH: Final = "/dapr.proto.runtime.v1.Dapr/SubscribeConfiguration"
KIND: Final = "configuration"
LOOK_S: Final = 900.0
LOOK_METERED_S: Final = 6 * 3600.0
ITEMS_MAX: Final = 10_000
_FIRST_S: Final = 15.0
_KEYS_MAX: Final = 50  # in one address
_BACKOFF: Final = Backoff(0.5, 60.0)


class Done(Protocol):
    """What one turn of a mirror has done."""

    @property
    def written(self) -> int: ...
    @property
    def removed(self) -> int: ...
    @property
    def too_large(self) -> Sequence[str]: ...


class Mirror(Protocol):
    """Where items are kept here; `store/configuration_mirror.py` is it."""

    async def take(self, items: Mapping[str, ConfigurationItem], asked: Collection[str] | None) -> Done:
        """The remote has these items, and of the keys that were asked for (None: of all) no others."""


class ConfigurationDownRoute:
    """One route. `open_mirror` is asked each time that the link is up, as the file may not have been there before."""

    kind: Final = "configuration"

    def __init__(self, route: ConfigurationRoute, link: Link, open_mirror: Callable[[], Awaitable[Mirror]]) -> None:
        self.route = route
        self._link = link
        self._open_mirror = open_mirror
        self._pause_s = _BACKOFF.first_s
        self._look_s = LOOK_METERED_S if link.metered else LOOK_S
        self._said_too_large: set[str] = set()
        self.name = f"{route.store}/{','.join(route.keys) or '*'}"
        self._subscribed = False
        self._looked_at: float | None = None  # at all settings
        self._last_error = ""
        self._hurried = trio.Event()

    async def status(self) -> dict[str, Any]:
        age_s = None if self._looked_at is None else round(trio.current_time() - self._looked_at, 3)
        return {
            "from": self.route.remote_store,
            "subscribed": self._subscribed,
            "ageSeconds": age_s,
            "lastError": self._last_error,
        }

    async def dry_run(self, limit: int) -> dict[str, Any]:
        """What comes down is known only when it comes."""
        return {}

    def hurry(self) -> None:
        self._hurried.set()

    def failed(self, reason: str) -> None:
        """Told by who supervises the route."""
        self._last_error = reason

    async def run(self) -> None:
        """Follow the remote store whenever the link is up, until cancelled."""
        while True:
            await self._link.until_up()
            since = trio.current_time()
            try:
                await self._follow(since)
            except Unreachable:
                continue  # the link says when there is more
            except DriverError as error:
                self._last_error = str(error)
                logger.warning(
                    "cloud link %s: configuration of %s: %s; tried again in %.1f s",
                    self._link.name, self.route.remote_store, error, self._pause_s,
                )  # fmt: skip
            finally:
                self._subscribed = False
            self._hurried = trio.Event()
            with trio.move_on_after(self._pause_s * (0.8 + 0.4 * random.random())):
                await self._hurried.wait()
            self._pause_s = min(self._pause_s * 2, _BACKOFF.most_s)

    async def _follow(self, since: float) -> None:
        """One subscription, until it ends; raises why."""
        asked = SubscribeConfigurationRequest(store_name=self.route.remote_store, keys=self.route.keys)
        error: DriverError
        try:
            mirror = await self._open_mirror()
            async with self._link.open_call(PATH, kind=KIND) as call:
                await call.send_raw(False, asked.SerializeToString())
                await call.end()
                await self._serve(call, mirror)
            error = DriverError(f"the stream has ended: {call.message or call.status}", code=call.status)
        except Unreachable:
            raise
        except DriverError as failure:
            error = failure
        await self._link.judge_rpc(error, since)
        raise error

    async def _serve(self, call: ClientCall, mirror: Mirror) -> None:
        with trio.move_on_after(_FIRST_S) as limit:
            told = await self._receive(call)
        if limit.cancelled_caught:
            raise DriverError(f"the subscription was not confirmed within {_FIRST_S:g} s")
        look_at = trio.current_time()
        while told is not None:
            # What a first message tells besides its id is in the look that follows.
            if trio.current_time() >= look_at:
                await self._look(mirror)
                look_at = trio.current_time() + self._look_s
            elif told:
                await self._change(mirror, told)
            told = {}
            with trio.move_on_at(look_at):
                told = await self._receive(call)

    async def _receive(self, call: ClientCall) -> Mapping[str, ConfigurationItem] | None:
        """What the next message tells; None at the end."""
        frame = await call.recv_raw()
        if frame is None:
            return None
        self._link.heard()
        try:
            response = SubscribeConfigurationResponse.FromString(frame[1])
        except DecodeError as error:
            raise DriverError(f"a change is unreadable: {error}") from None
        found = {
            key: ConfigurationItem(item.value, item.version, dict(item.metadata))
            for key, item in response.items.items()
        }
        return {key: item for key, item in found.items() if not self.route.keys or key in self.route.keys}

    async def _look(self, mirror: Mirror) -> None:
        """All of it, as it is now."""
        keys = self.route.keys
        done = await self._take(mirror, await self._get(keys), keys or None)
        self._pause_s = _BACKOFF.first_s
        self._subscribed, self._looked_at, self._last_error = True, trio.current_time(), ""
        if done.written or done.removed:
            logger.info(
                "cloud link %s: configuration of %s: %d settings have come to %s, %d are gone",
                self._link.name, self.route.remote_store, done.written, self.route.store, done.removed,
            )  # fmt: skip

    async def _change(self, mirror: Mirror, told: Mapping[str, ConfigurationItem]) -> None:
        empty = [key for key, item in told.items() if not item.value]
        items = {key: item for key, item in told.items() if item.value}
        if empty:
            items.update(await self._get(empty))
        await self._take(mirror, items, empty)

    async def _take(
        self, mirror: Mirror, items: Mapping[str, ConfigurationItem], asked: Collection[str] | None
    ) -> Done:
        done = await mirror.take(items, asked)
        for key in done.too_large:
            if key not in self._said_too_large and len(self._said_too_large) < ITEMS_MAX:
                self._said_too_large.add(key)
                logger.warning(
                    "cloud link %s: configuration of %s: the value of %r is too large to be kept; the one before stays",
                    self._link.name, self.route.remote_store, key,
                )  # fmt: skip
        return done

    async def _get(self, keys: Sequence[str]) -> Mapping[str, ConfigurationItem]:
        """What is there of the keys; everything when none is named."""
        found: dict[str, ConfigurationItem] = {}
        for start in range(0, max(len(keys), 1), _KEYS_MAX):
            found.update(await self._get_some(keys[start : start + _KEYS_MAX]))
        if len(found) > ITEMS_MAX:
            raise DriverError(f"there are more than {ITEMS_MAX} settings; name those that are wanted in `keys`")
        return found

    async def _get_some(self, keys: Sequence[str]) -> Mapping[str, ConfigurationItem]:
        path = f"v1.0/configuration/{segment(self.route.remote_store)}"
        answer = await self._link.call("GET", path, query=[("key", key) for key in keys], kind=KIND)
        try:
            rows = _decode(answer.body) if answer.body else {}
        except msgspec.DecodeError as error:
            raise DriverError(f"the answer is unreadable: {error}") from None
        return {key: ConfigurationItem(row.value, row.version, row.metadata or {}) for key, row in rows.items()}


class _Item(msgspec.Struct):
    value: str = ""
    version: str = ""
    metadata: dict[str, str] | None = None


_decode = msgspec.json.Decoder(dict[str, _Item]).decode
