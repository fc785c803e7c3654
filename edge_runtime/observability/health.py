"""Which parts of an app's sidecar are not ready yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable


class Health:
    """Targets start unready and are ticked off; `/v1.0/healthz` is well when none is left."""

    def __init__(self, targets: Iterable[str], look: Callable[[], Iterable[str]] = tuple) -> None:
        self._unready = dict.fromkeys(targets)
        self._look = look  # asked each time: targets that are unwell now, such as a store without a disk
        self.outbound_ready = False

    def ready(self, target: str) -> None:
        self._unready.pop(target, None)

    def unready(self, target: str) -> None:
        """A part that worked has stopped working (a store that lost its disk, a shutdown that began)."""
        self._unready[target] = None

    def is_unready(self, target: str) -> bool:
        return target in self._unready

    @property
    def waiting_for(self) -> list[str]:
        """Names of the targets that are not ready, in the order in which they became so."""
        return [*self._unready, *self._look()]
