"""Waiting for the app to listen: nothing is called before its port takes a connection."""

from __future__ import annotations

import logging
from typing import Final

import trio

from edge_runtime.channel.http import trusting_tls
from edge_runtime.net.connections import ConnectFailed, Origin, open_connection

logger: Final = logging.getLogger("dapr.runtime")

_EVERY_S: Final = 0.1
_TIMEOUT_S: Final = 0.5
_REMIND_EVERY_S: Final = 10.0


async def wait_for_app_port(origin: Origin) -> None:
    """Returns once the app's port takes a connection (https, grpcs: and shakes hands). Waits forever."""
    logger.info(
        "application protocol: %s. waiting on port %d.  This will block until the app is listening on that port.",
        origin.scheme,
        origin.port,
    )
    tls = None
    if origin.scheme in ("https", "grpcs"):
        tls = trusting_tls("h2") if origin.scheme == "grpcs" else trusting_tls()
    remind_at = trio.current_time() + _REMIND_EVERY_S
    while True:
        try:
            connection = await open_connection(origin, tls, _TIMEOUT_S)
        except ConnectFailed as error:
            if trio.current_time() >= remind_at:
                logger.info("still waiting for the application on port %d (%s)", origin.port, error)
                remind_at = trio.current_time() + _REMIND_EVERY_S
            await trio.sleep(_EVERY_S)
        else:
            connection.close()
            break
    logger.info("application discovered on port %d", origin.port)
