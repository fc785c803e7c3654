"""The API token's check."""

from __future__ import annotations

from edge_runtime.security.token import token_matches


def test_only_the_token_matches() -> None:
    assert token_matches("sécret", "sécret".encode())
    assert not token_matches("secret", b"secreT")
    assert not token_matches("secret", b"secret ")
    assert not token_matches("secret", b"")
    assert not token_matches("secret", None)


def test_no_token_lets_everybody_in() -> None:
    assert token_matches("", None)
    assert token_matches("", b"anything")
