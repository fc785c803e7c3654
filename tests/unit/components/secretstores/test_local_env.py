"""The environment as a secret store: what is never given."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from edge_runtime.components.secretstores.local_env import LocalEnv, open_local_env
from tests.conformance.test_secretstores import context


@pytest.mark.parametrize("name", ["APP_API_TOKEN", "app_api_token", "DAPR_API_TOKEN", "dapr_x", "Dapr_"])
async def test_guarded_variables_are_empty(name: str) -> None:
    store = LocalEnv("", {name: "hidden", "OTHER": "seen"})
    assert await store.get(name, {}) == {name: ""}
    assert await store.bulk_get({}) == {"OTHER": {"OTHER": "seen"}}


async def test_prefix_does_not_open_the_guarded() -> None:
    store = LocalEnv("DAPR_", {"DAPR_API_TOKEN": "hidden"})
    assert await store.get("API_TOKEN", {}) == {"API_TOKEN": ""}
    assert await store.bulk_get({}) == {}


async def test_variable_named_as_the_prefix_is_skipped() -> None:
    store = LocalEnv("APP_", {"APP_": "itself", "APP_X": "1", "OTHER": "2"})
    assert await store.bulk_get({}) == {"X": {"X": "1"}}


async def test_bytes_that_are_no_text_are_marked() -> None:
    store = LocalEnv("", {"RAW": os.fsdecode(b"a\xffb")})
    assert await store.get("RAW", {}) == {"RAW": "a\ufffdb"}


async def test_own_environment_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with open_local_env(context("local.env", tmp_path, {})) as store:
        monkeypatch.setenv("SET_AFTER_OPENING", "yes")
        assert await store.get("SET_AFTER_OPENING", {}) == {"SET_AFTER_OPENING": "yes"}


async def test_misspelt_field_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dapr.contrib"):
        async with open_local_env(context("local.env", tmp_path, {"prefx": "A_"})):
            pass
    assert "'prefx' is not known and ignored" in caplog.text
