"""A drop-in Dapr for edge devices: one process serves every app of the node."""

__version__ = "0.1.0"

# What `daprd --version` and the metadata API say. Tools compare it with the release in which a Dapr feature appeared,
# so it leads with the Dapr release whose behaviour is served; ours follows as semver build metadata.
DAPR_VERSION = "1.19.0"
RUNTIME_VERSION = f"{DAPR_VERSION}+edge.{__version__}"
