"""Encryption at rest."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edge_runtime.model.errors import ConfigError
from edge_runtime.security.seal import Key, Seal, SealBroken, key_from_hex

OLD = Key("old", b"o" * 16)
NEW = Key("new", b"n" * 32)


@pytest.mark.parametrize("length", [16, 24, 32])
def test_sealed_value_opens(length: int) -> None:
    seal = Seal(Key("k", bytes(length)))
    assert seal.open(seal.seal(b'{"a":1}')) == b'{"a":1}'


def test_format_is_nonce_text_tag_name() -> None:
    encoded, _, name = Seal(NEW).seal(b"value").rpartition(b"||")
    blob = base64.b64decode(encoded, validate=True)
    assert name == b"new"
    assert len(blob) == 12 + 5 + 16
    assert AESGCM(NEW.secret).decrypt(blob[:12], blob[12:], None) == b"value"


def test_every_seal_is_another() -> None:
    assert Seal(NEW).seal(b"value") != Seal(NEW).seal(b"value")


def test_secondary_key_still_reads() -> None:
    sealed = Seal(OLD).seal(b"value")
    rotated = Seal(NEW, OLD)
    assert rotated.open(sealed) == b"value"
    assert rotated.seal(b"value").endswith(b"||new")


def test_name_may_hold_the_separator() -> None:
    # The name is what follows the last separator, so such a name reads as its own end.
    with pytest.raises(SealBroken, match='key "b"'):
        Seal(OLD).open(Seal(Key("a||b", bytes(16))).seal(b"value"))


def test_nameless_key_reads_its_own() -> None:
    seal = Seal(Key("", bytes(16)))
    assert seal.open(seal.seal(b"value")) == b"value"


def test_empty_stays_empty() -> None:
    assert Seal(NEW).open(b"") == b""


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        (b"clear", "before encryption was turned on"),
        (b"AAAA||gone", 'the key "gone", which is neither'),
        (b"????||new", "damaged"),
        (b"AAAA||new", "damaged"),
        (Seal(Key("new", b"x" * 32)).seal(b"value"), "damaged, or its key has changed"),
    ],
    ids=["clear", "key gone", "no base64", "too short", "key changed"],
)
def test_broken_seals_are_told(stored: bytes, text: str) -> None:
    with pytest.raises(SealBroken, match=text):
        Seal(NEW, OLD).open(stored)


@pytest.mark.parametrize(
    ("text", "expected"), [("zz", "not written in hexadecimal"), ("0011", r"has 2 bytes; expected 16, 24 or 32")]
)
def test_bad_keys_name_their_field(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"primaryEncryptionKey: .*{expected}") as caught:
        key_from_hex("primaryEncryptionKey", "k", text)
    assert text not in str(caught.value)


def test_key_hides_its_secret() -> None:
    assert repr(Key("k", b"secret")) == "Key('k', …)"


def test_hex_key_is_read() -> None:
    assert key_from_hex("primaryEncryptionKey", "k", "00" * 16 + "\n") == Key("k", bytes(16))
