"""A store with the settings of its component."""

from __future__ import annotations

import pytest

from edge_runtime.blocks.state import BoundStore, OutboxSettings, bind_store, driver_metadata
from edge_runtime.model.errors import ConfigError
from tests.unit.blocks.state.stores import MapStore

KEY = "00112233445566778899aabbccddeeff"


def bind(metadata: dict[str, str], secret_store: str = "", key_names: dict[str, str] | None = None) -> BoundStore:
    return bind_store("s", metadata, MapStore(), secret_store=secret_store, key_names=key_names)


def test_plain_store_has_defaults() -> None:
    store = bind({"connectionString": "x"})
    assert (store.key_prefix, store.seal, store.outbox) == ("appid", None, None)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [("keyPrefix", "NAME", "name"), ("KEYPREFIX", "Shared", "shared"), ("keyPrefix", "", "appid")],
)
def test_prefix_folds_its_case(field: str, value: str, expected: str) -> None:
    assert bind({field: value}).key_prefix == expected


def test_prefix_without_separator() -> None:
    with pytest.raises(ConfigError, match=r"state store \"s\", keyPrefix: input key/keyPrefix 'a\|\|b' can't contain"):
        bind({"keyPrefix": "a||b"})


def test_keys_of_a_secret_store_encrypt() -> None:
    store = bind({"primaryEncryptionKey": KEY}, "vault", {"primaryEncryptionKey": "secret"})
    assert store.seal is not None
    assert store.seal.seal(b"x").endswith(b"||secret")


def test_rotated_key_still_reads() -> None:
    before = bind({"primaryEncryptionKey": KEY}, "vault", {"primaryEncryptionKey": "one"}).seal
    after = bind(
        {"primaryEncryptionKey": KEY[::-1], "secondaryEncryptionKey": KEY},
        "vault",
        {"primaryEncryptionKey": "two", "secondaryEncryptionKey": "one"},
    ).seal
    assert before is not None
    assert after is not None
    assert after.open(before.seal(b"x")) == b"x"


def test_key_in_clear_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert bind({"primaryEncryptionKey": KEY}).seal is None
    assert "primaryEncryptionKey is set" in caplog.text
    assert "STORED IN CLEAR TEXT" in caplog.text
    assert "auth.secretStore" in caplog.text
    assert KEY not in caplog.text


def test_secondary_key_needs_primary() -> None:
    with pytest.raises(ConfigError, match="secondaryEncryptionKey is set without primaryEncryptionKey"):
        bind({"secondaryEncryptionKey": KEY}, "vault")


def test_bad_key_names_component_and_field() -> None:
    with pytest.raises(ConfigError, match='state store "s", primaryEncryptionKey: the key has 2 bytes'):
        bind({"primaryEncryptionKey": "0011"}, "vault")


def test_outbox_is_read() -> None:
    fields = {"outboxPublishPubsub": "p", "outboxPublishTopic": "t"}
    assert bind(fields).outbox == OutboxSettings("p", "t", "p", False)
    more = {"outboxPubsub": "q", "outboxDiscardWhenMissingState": "Yes"}
    assert bind(fields | more).outbox == OutboxSettings("p", "t", "q", True)


@pytest.mark.parametrize(("given", "missing"), [("Pubsub", "Topic"), ("Topic", "Pubsub")])
def test_half_an_outbox_is_told(given: str, missing: str, caplog: pytest.LogCaptureFixture) -> None:
    assert bind({f"outboxPublish{given}": "x"}).outbox is None
    assert f"outboxPublish{missing} is missing" in caplog.text


def test_drivers_see_only_their_fields() -> None:
    metadata = {"KeyPrefix": "name", "primaryEncryptionKey": KEY, "outboxPubsub": "p", "connectionString": "x"}
    assert driver_metadata(metadata) == {"connectionString": "x"}


def test_misspelled_fields_are_told(caplog: pytest.LogCaptureFixture) -> None:
    assert bind({"primaryencryptionkey": KEY}, "vault").seal is None
    assert "primaryencryptionkey is not read; its name must be written primaryEncryptionKey" in caplog.text
