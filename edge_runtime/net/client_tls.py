"""TLS settings of a client that shows a certificate of its own, or trusts other authorities than the system's."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable

from edge_runtime.net.connections import checking_tls


def client_tls(
    root_ca: str, certificate: str, private_key: str, *, renegotiates: bool = False
) -> Callable[[], ssl.SSLContext]:
    """What makes the settings out of PEM texts; they are tried here, so that a bad one is found at the start.

    Raises ValueError. OpenSSL is loaded here only when there is something to try.
    """
    if bool(certificate) != bool(private_key):
        raise ValueError("there is only one of certificate and private key; expected both or none")
    if not (root_ca or certificate):
        return checking_tls
    try:
        context = ssl.create_default_context(cadata=root_ca or None)
        if not renegotiates:
            context.options |= ssl.OP_NO_RENEGOTIATION
        if certificate:
            _load_pair(context, certificate, private_key)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"{error}; expected PEM texts") from None
    return lambda: context


def _load_pair(context: ssl.SSLContext, certificate: str, private_key: str) -> None:
    """OpenSSL's Python face takes files only; an anonymous one keeps the key off every disk."""
    with open(os.memfd_create("client-certificate", os.MFD_CLOEXEC), "wb") as file:
        file.write(f"{certificate}\n{private_key}\n".encode())
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
