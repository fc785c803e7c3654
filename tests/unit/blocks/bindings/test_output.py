"""Output bindings: what is looked at first, what the caller is told, what is counted."""

from __future__ import annotations

import pytest

from edge_runtime.blocks.bindings import Bindings, BoundBinding, InvokeFailed
from edge_runtime.model.errors import BindingFailed, DriverError, Kind
from edge_runtime.model.ports import BindingResponse
from edge_runtime.observability.metrics import Metrics, render
from edge_runtime.resiliency import Policies
from tests.unit.blocks.bindings.fakes import FakeOutput, policies


def block(output: FakeOutput, metrics: Metrics | None = None, rules: Policies | None = None) -> Bindings:
    return Bindings({"b": BoundBinding("b", "b", None, output)}, rules, metrics, "ns")


async def test_an_operation_reaches_the_binding() -> None:
    output = FakeOutput(BindingResponse(b"done", {"a": "1"}))
    assert await block(output).invoke("b", "create", b"1", {"k": "v"}) == BindingResponse(b"done", {"a": "1"})
    assert output.came == [("create", b"1", {"k": "v"})]


@pytest.mark.parametrize(
    ("name", "operation", "reason"),
    [
        ("other", "", "operation field is missing from request"),
        ("other", "create", "couldn't find output binding other"),
        ("b", "burn", "binding b does not support operation burn. supported operations:create get"),
    ],
)
async def test_a_request_that_cannot_be_served_says_why(name: str, operation: str, reason: str) -> None:
    output = FakeOutput()
    with pytest.raises(InvokeFailed) as raised:
        await block(output).invoke(name, operation, b"", {})
    assert raised.value.kind is Kind.BINDING_INVOKE
    assert raised.value.message == f"error invoking output binding {name}: {reason}"
    assert not output.came


async def test_an_input_binding_is_no_output() -> None:
    only_input = Bindings({"b": BoundBinding("b", "b", None, None)})
    with pytest.raises(InvokeFailed, match="couldn't find output binding b"):
        await only_input.invoke("b", "create", b"", {})


async def test_a_failure_shows_what_the_binding_shows() -> None:
    with pytest.raises(InvokeFailed, match="error invoking output binding b: broken") as raised:
        await block(FakeOutput(BindingFailed("broken", metadata={"statusCode": "500"}))).invoke("b", "get", b"", {})
    assert raised.value.shown == {"statusCode": "500"}
    with pytest.raises(InvokeFailed) as raised:
        await block(FakeOutput(DriverError("broken"))).invoke("b", "get", b"", {})
    assert raised.value.shown == {}


async def test_a_policy_tries_again(autojump_clock: object) -> None:
    output = FakeOutput(DriverError("once"), DriverError("twice"), BindingResponse(b"at last"))
    assert (await block(output, rules=policies(b="outbound")).invoke("b", "get", b"", {})).data == b"at last"
    assert len(output.came) == 3


async def test_calls_that_reach_a_binding_are_counted() -> None:
    metrics = Metrics("app")
    bindings = block(FakeOutput(BindingResponse(), DriverError("x")), metrics)
    await bindings.invoke("b", "create", b"", {})
    for name in ("b", "other"):
        with pytest.raises(InvokeFailed):
            await bindings.invoke(name, "create", b"", {})
    lines = [line for line in render([metrics]).splitlines() if "output_binding_count{" in line]
    labels = 'app_id="app",component="b",namespace="ns",operation="create"'
    assert lines == [
        f'dapr_component_output_binding_count{{{labels},success="true"}} 1',
        f'dapr_component_output_binding_count{{{labels},success="false"}} 1',
    ]


async def test_what_is_far_is_asked_last() -> None:
    near, far, other = FakeOutput(BindingResponse(b"near")), FakeOutput(BindingResponse(b"far")), FakeOutput()
    bindings = block(near)
    bindings.reach({"b": other, "f": far})
    assert (bindings.has("b"), bindings.has("f")) == (True, False)
    assert (await bindings.invoke("b", "create", b"", {})).data == b"near"
    assert (await bindings.invoke("f", "anything", b"1", {"k": "v"})).data == b"far"
    assert (far.came, other.came) == ([("anything", b"1", {"k": "v"})], [])


async def test_what_is_far_has_its_policy(autojump_clock: object) -> None:
    far = FakeOutput(DriverError("once"), DriverError("twice"), BindingResponse(b"at last"))
    bindings = block(FakeOutput(), rules=policies(f="outbound"))
    bindings.reach({"f": far})
    assert (await bindings.invoke("f", "get", b"", {})).data == b"at last"
