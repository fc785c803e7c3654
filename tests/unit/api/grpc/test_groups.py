from edge_runtime.api.grpc.groups import GROUPS
from edge_runtime.proto.dapr.proto.runtime.v1 import dapr_pb2

RPCS = [method.name for method in dapr_pb2.DESCRIPTOR.services_by_name["Dapr"].methods]
# As Dapr names them in its lists of allowed and denied APIs.
KNOWN = {
    "invoke.v1", "state.v1", "state.v1alpha1", "publish.v1", "publish.v1alpha1", "subscribe.v1alpha1", "bindings.v1",
    "secrets.v1", "actors.v1", "actors.v1alpha1", "metadata.v1", "configuration.v1", "configuration.v1alpha1",
    "lock.v1alpha1", "unlock.v1alpha1", "subtlecrypto.v1alpha1", "crypto.v1alpha1", "workflows.v1alpha1",
    "workflows.v1beta1", "jobs.v1", "jobs.v1alpha1", "conversation.v1alpha1", "conversation.v1alpha2", "shutdown.v1",
}  # fmt: skip


def test_every_rpc_has_one_group() -> None:
    assert len(RPCS) == 72
    assert sorted(GROUPS) == sorted(RPCS)


def test_the_groups_are_the_known_ones() -> None:
    assert {f"{group}.{version}" for group, version in GROUPS.values()} == KNOWN


def test_names_of_alphas_are_in_alpha_versions() -> None:
    exceptions = {rpc for rpc, (_, version) in GROUPS.items() if ("Alpha1" in rpc) != (version == "v1alpha1")}
    assert exceptions == set()
