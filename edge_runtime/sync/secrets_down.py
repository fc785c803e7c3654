"""A remote secret store as local apps see it: asked while the link is up, and remembered, sealed, for when it is not.

younger than a minute, link up ──► what is kept
link up ──► ask ──┬─ answer ──► keep, give
                  ├─ no such secret, or refused ──► forget, say so
                  └─ fails ──┐
link away ───────────────────┴─► what is kept, unless older than the route's age limit
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import msgspec
import trio

from edge_runtime.config.links import SecretsRoute
from edge_runtime.config.values import format_go_duration
from edge_runtime.model.errors import DriverError, Unreachable
from edge_runtime.store.sealed_secrets import ALL, Damaged, Kept, SealedSecrets, Secret, Values
from edge_runtime.sync.link import Link
from edge_runtime.sync.link_answers import Answer, Failed, Refused, segment

logger: Final = logging.getLogger("dapr.runtime.link")

KIND: Final = "secrets"
FRESH_S: Final = 60.0
# So long the remote may take: when there is something to give instead, and when there is not.
_HURRY_S: Final = 5.0
_PATIENCE_S: Final = 15.0
# So long a link that has only just been opened is waited for.
_FIRST_S: Final = 5.0
# Dapr answers a missing secret as it answers a store that has failed. Only these words tell them apart; a store with
# others is believed to have failed, and what is kept grows old.
_MISSING: Final = re.compile(r"not\s?found|does not exist", re.IGNORECASE)

T = TypeVar("T")


class SecretGone(DriverError):
    """The remote store has no such secret, or does not give it."""

    permanent = True


class LinkedSecrets:
    """Keeps `model.ports.SecretStore`. `kept` None: nothing is remembered."""

    features: frozenset[str] = frozenset()

    def __init__(self, route: SecretsRoute, link: Link, kept: SealedSecrets | None) -> None:
        self.name = place_of(link, route.remote_store)
        self._route = route
        self._link = link
        self._kept = kept
        self._path = f"v1.0/secrets/{segment(route.remote_store)}"
        self._asking: dict[object, tuple[trio.Lock, int]] = {}

    async def get(self, name: str, metadata: Mapping[str, str]) -> Values:
        """Raises DriverError."""
        secret = Secret(name, metadata)
        async with self._turn(secret):
            kept = await self._read(secret)
            if kept is not None and self._link.usable and kept.age_s < FRESH_S:
                return kept.values
            try:
                values = await self._ask(f"{self._path}/{segment(name)}", metadata, _decode_one, kept)
            except SecretGone:
                await self._forget([secret])
                raise
            except DriverError as error:
                return self._instead(kept, error).values
            if not values:
                await self._forget([secret])
                raise SecretGone(f"the store {self._route.remote_store} has no secret {name}")
            await self._keep({name: values}, metadata)
            return values

    async def bulk_get(self, metadata: Mapping[str, str]) -> Mapping[str, Values]:
        """Raises DriverError."""
        async with self._turn(Secret(ALL, metadata)):
            mark = await self._read(Secret(ALL, metadata))
            if mark is not None and self._link.usable and mark.age_s < FRESH_S:
                return await self._all(metadata)
            try:
                found = await self._ask(f"{self._path}/bulk", metadata, _decode_all, mark)
            except SecretGone:
                await self._forget([Secret(ALL, metadata), *(await self._names(metadata))])
                raise
            except DriverError as error:
                self._instead(mark, error)
                return await self._all(metadata)
            await self._forget([one for one in await self._names(metadata) if one.name not in found])
            await self._keep({ALL: {}, **found}, metadata)
            return found

    # --- the remote ---------------------------------------------------------------------------------------------------

    async def _ask(
        self, path: str, metadata: Mapping[str, str], decode: msgspec.json.Decoder[T], kept: Kept | None
    ) -> T:
        """Raises SecretGone when that is the remote's considered answer."""
        if kept is None and self._link.state.reason == "not tried yet":
            with trio.move_on_after(_FIRST_S):
                await self._link.until_up()
        if not self._link.usable:
            raise Unreachable(f"link {self._link.name} is {self._link.state.name}: {self._link.state.reason}")
        query = [(f"metadata.{name}", value) for name, value in metadata.items()]
        limit_s = _PATIENCE_S if kept is None else _HURRY_S
        with trio.move_on_after(limit_s):
            try:
                answer = await self._link.call("GET", path, query=query, kind=KIND)
            except Refused as error:
                raise SecretGone(str(error), code=error.code) from None
            except Failed as error:
                if _says_missing(error.answer):
                    raise SecretGone(str(error), code=error.code) from None
                raise
            return _decoded(answer, decode)
        raise DriverError(f"link {self._link.name}: no answer within {limit_s:g} s")

    # --- what is kept -------------------------------------------------------------------------------------------------

    async def _read(self, secret: Secret) -> Kept | None:
        """None also for what is too old, which is then forgotten."""
        if self._kept is None:
            return None
        try:
            kept = await self._kept.read(self.name, secret)
        except DriverError as error:
            logger.warning("cloud link %s: a secret of %s: %s; it is fetched anew", *self._place, error)
            if isinstance(error, Damaged):
                await self._forget([secret])
            return None
        if kept is not None and kept.age_s > self._route.age_max_s:
            await self._forget([secret])
            return None
        return kept

    async def _all(self, metadata: Mapping[str, str]) -> Mapping[str, Values]:
        return {one.secret.name: one.values for one in await self._young(metadata) if one.secret.name != ALL}

    async def _names(self, metadata: Mapping[str, str]) -> Sequence[Secret]:
        return [one.secret for one in await self._young(metadata) if one.secret.name != ALL]

    async def _young(self, metadata: Mapping[str, str]) -> Sequence[Kept]:
        if self._kept is None:
            return []
        try:
            found, damaged = await self._kept.read_all(self.name)
        except DriverError as error:
            logger.warning("cloud link %s: secrets of %s: %s", *self._place, error)
            return []
        if damaged:
            logger.warning("cloud link %s: %d kept secrets of %s are damaged", self._link.name, damaged, self._place[1])
        return [one for one in found if one.age_s <= self._route.age_max_s and one.secret.metadata == dict(metadata)]

    async def _keep(self, secrets: Mapping[str, Values], metadata: Mapping[str, str]) -> None:
        if self._kept is None:
            return
        try:
            large = await self._kept.put(self.name, secrets, metadata)
        except DriverError as error:
            logger.warning("cloud link %s: secrets of %s cannot be kept: %s", *self._place, error)
            return
        if large:
            logger.warning("cloud link %s: %d secrets of %s are too large to be kept", self._link.name, large,
                           self._place[1])  # fmt: skip

    async def _forget(self, secrets: Sequence[Secret]) -> None:
        if self._kept is None or not secrets:
            return
        try:
            await self._kept.remove(self.name, secrets)
        except DriverError as error:
            logger.warning("cloud link %s: secrets of %s cannot be forgotten: %s", *self._place, error)

    def _instead(self, kept: Kept | None, error: DriverError) -> Kept:
        """What is kept, or why there is nothing."""
        if kept is not None:
            return kept
        limit = format_go_duration(self._route.age_max_s)
        text = f"{error}; nothing is kept of it here that is younger than maxAge ({limit})"
        kind = Unreachable if isinstance(error, Unreachable) else DriverError
        raise kind(text, code=error.code) from error

    @property
    def _place(self) -> tuple[str, str]:
        return self._link.name, self._route.remote_store

    @asynccontextmanager
    async def _turn(self, secret: Secret) -> AsyncIterator[None]:
        """One asks for the same at a time; the others then find it kept."""
        key = (secret.name, *sorted(secret.metadata.items()))
        lock, users = self._asking.get(key, (trio.Lock(), 0))
        self._asking[key] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._asking.pop(key)
            if users > 1:
                self._asking[key] = lock, users - 1


def place_of(link: Link, remote_store: str) -> str:
    """Whose secrets they are: those of another sidecar, under whatever name of the link, are others."""
    return f"{link.name}/{remote_store} {link.settings.resource.http}"


class SecretsReport:
    """What is kept of a remote store, as `sync.link_routes.LinkRoute`."""

    kind: Final = "secrets"

    def __init__(self, route: SecretsRoute, link: Link, kept: SealedSecrets | None) -> None:
        self.name = route.remote_store
        self._age_max_s = route.age_max_s
        self._place = place_of(link, route.remote_store)
        self._kept = kept

    async def status(self) -> dict[str, Any]:
        if self._kept is None:
            return {"kept": 0, "lastError": "nothing can be kept; the log says why"}
        found, damaged = await self._kept.read_all(self._place)
        ages = [one.age_s for one in found if one.secret.name != ALL and one.age_s <= self._age_max_s]
        return {
            "kept": len(ages),
            "oldestAgeSeconds": round(max(ages), 3) if ages else None,
            "maxAgeSeconds": self._age_max_s,
            "lastError": f"{damaged} are damaged" if damaged else "",
        }

    async def dry_run(self, limit: int) -> dict[str, Any]:
        """Secrets are asked for when an app wants them."""
        return {}

    def hurry(self) -> None:
        """Nothing waits."""


def _decoded(answer: Answer, decode: msgspec.json.Decoder[T]) -> T:
    """The error does not show the answer, which may be half of a secret."""
    try:
        return decode.decode(answer.body or b"{}")
    except msgspec.DecodeError:
        raise DriverError("the answer is unreadable: no JSON of secrets") from None


def _says_missing(answer: Answer) -> bool:
    try:
        said = _read_error.decode(answer.body)
    except msgspec.DecodeError:
        return False
    # Before it stand the names of secret and store.
    cause = said.message.partition(" from secret store ")[2].partition(": ")[2]
    return said.code == "ERR_SECRET_GET" and _MISSING.search(cause) is not None


class _Error(msgspec.Struct, rename={"code": "errorCode"}):
    code: str = ""
    message: str = ""


_decode_one: Final = msgspec.json.Decoder(dict[str, str])
_decode_all: Final = msgspec.json.Decoder(dict[str, dict[str, str]])
_read_error: Final = msgspec.json.Decoder(_Error)
