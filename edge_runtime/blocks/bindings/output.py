"""Output bindings: an operation by name, with its policy and its counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal, Protocol

from edge_runtime.blocks.bindings.binding import BoundBinding
from edge_runtime.model.errors import BindingFailed, DriverError, EdgeError, Kind
from edge_runtime.model.ports import BindingResponse, Policy
from edge_runtime.observability.metrics import Metrics
from edge_runtime.resiliency.component_calls import ComponentCalls

NO_OPERATION: Final = "operation field is missing from request"


class Policies(Protocol):
    """What this block asks of resiliency."""

    def for_component(
        self, name: str, kind: Literal["Binding"], direction: Literal["Inbound", "Outbound"]
    ) -> Policy: ...


class FarOutput(Protocol):
    """A binding that a cloud link leads to: which operations it has, the other side knows."""

    async def invoke(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> BindingResponse:
        """Raises `DriverError`."""


class InvokeFailed(EdgeError):
    """A binding could not be invoked; `shown` is metadata that the caller gets all the same."""

    def __init__(self, message: str, shown: Mapping[str, str]) -> None:
        super().__init__(Kind.BINDING_INVOKE, message)
        self.shown = shown


class Bindings:
    """Output bindings as every API face sees them."""

    def __init__(
        self,
        bindings: Mapping[str, BoundBinding],
        policies: Policies | None = None,
        metrics: Metrics | None = None,
        namespace: str = "",
    ) -> None:
        self._outputs = {name: bound.output for name, bound in bindings.items() if bound.output is not None}
        self._far: Mapping[str, FarOutput] = {}
        self._known = policies
        self._policies = self._policies_of(self._outputs)
        self._calls = ComponentCalls(metrics or Metrics(), "component_output_binding", namespace)

    def _policies_of(self, names: Iterable[str]) -> dict[str, Policy]:
        known = self._known
        return {} if known is None else {name: known.for_component(name, "Binding", "Outbound") for name in names}

    def has(self, name: str) -> bool:
        """Whether a component has an output binding of that name."""
        return name in self._outputs

    def reach(self, far: Mapping[str, FarOutput]) -> None:
        """From here on there are these too, for names that no component has."""
        self._far = far
        self._policies |= self._policies_of(far)

    async def invoke(self, name: str, operation: str, data: bytes, metadata: Mapping[str, str]) -> BindingResponse:
        """What the binding answers. Raises `InvokeFailed`."""
        try:
            return await self._invoke(name, operation, data, metadata)
        except DriverError as error:
            shown = error.metadata if isinstance(error, BindingFailed) else {}
            raise InvokeFailed(f"error invoking output binding {name}: {error}", shown) from error

    async def _invoke(self, name: str, operation: str, data: bytes, metadata: Mapping[str, str]) -> BindingResponse:
        if not operation:
            raise DriverError(NO_OPERATION)
        output = self._outputs.get(name)
        far = self._far.get(name) if output is None else None
        if far is not None:
            policy = self._policies.get(name)
            return await self._calls.run(name, operation, policy, lambda: far.invoke(operation, data, metadata))
        if output is None:
            raise DriverError(f"couldn't find output binding {name}")
        if operation not in output.operations:
            raise DriverError(
                f"binding {name} does not support operation {operation}. "
                f"supported operations:{' '.join(output.operations)}"
            )
        policy = self._policies.get(name)
        return await self._calls.run(name, operation, policy, lambda: output.invoke(operation, data, metadata))
