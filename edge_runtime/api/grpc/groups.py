"""Which group of the API an rpc belongs to, for `spec.api.allowed` and `spec.api.denied` of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# A group and its version, then the rpcs; a test holds that every rpc is in one group.
_ROWS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("invoke", "v1"): ("InvokeService",),
    ("state", "v1"): (
        "GetState",
        "GetBulkState",
        "SaveState",
        "DeleteState",
        "DeleteBulkState",
        "ExecuteStateTransaction",
    ),
    ("state", "v1alpha1"): ("QueryStateAlpha1",),
    ("publish", "v1"): ("PublishEvent", "BulkPublishEvent"),
    ("publish", "v1alpha1"): ("BulkPublishEventAlpha1",),
    ("subscribe", "v1alpha1"): ("SubscribeTopicEventsAlpha1",),
    ("bindings", "v1"): ("InvokeBinding",),
    ("secrets", "v1"): ("GetSecret", "GetBulkSecret"),
    ("actors", "v1"): (
        "RegisterActorTimer",
        "UnregisterActorTimer",
        "RegisterActorReminder",
        "UnregisterActorReminder",
        "UnregisterActorRemindersByType",
        "ListActorReminders",
        "GetActorState",
        "GetActorReminder",
        "ExecuteActorStateTransaction",
        "InvokeActor",
    ),
    ("actors", "v1alpha1"): ("SubscribeActorEventsAlpha1",),
    ("metadata", "v1"): ("GetMetadata", "SetMetadata"),
    ("configuration", "v1"): ("GetConfiguration", "SubscribeConfiguration", "UnsubscribeConfiguration"),
    ("configuration", "v1alpha1"): (
        "GetConfigurationAlpha1",
        "SubscribeConfigurationAlpha1",
        "UnsubscribeConfigurationAlpha1",
    ),
    ("lock", "v1alpha1"): ("TryLockAlpha1",),
    ("unlock", "v1alpha1"): ("UnlockAlpha1",),
    ("subtlecrypto", "v1alpha1"): (
        "SubtleGetKeyAlpha1",
        "SubtleEncryptAlpha1",
        "SubtleDecryptAlpha1",
        "SubtleWrapKeyAlpha1",
        "SubtleUnwrapKeyAlpha1",
        "SubtleSignAlpha1",
        "SubtleVerifyAlpha1",
    ),
    ("crypto", "v1alpha1"): ("EncryptAlpha1", "DecryptAlpha1"),
    ("workflows", "v1beta1"): (
        "StartWorkflowBeta1",
        "GetWorkflowBeta1",
        "PurgeWorkflowBeta1",
        "TerminateWorkflowBeta1",
        "PauseWorkflowBeta1",
        "ResumeWorkflowBeta1",
        "RaiseEventWorkflowBeta1",
    ),
    ("workflows", "v1alpha1"): (
        "StartWorkflowAlpha1",
        "GetWorkflowAlpha1",
        "PurgeWorkflowAlpha1",
        "TerminateWorkflowAlpha1",
        "PauseWorkflowAlpha1",
        "ResumeWorkflowAlpha1",
        "RaiseEventWorkflowAlpha1",
    ),
    ("jobs", "v1"): ("ScheduleJob", "GetJob", "DeleteJob", "DeleteJobsByPrefix", "ListJobs"),
    ("jobs", "v1alpha1"): (
        "ScheduleJobAlpha1",
        "GetJobAlpha1",
        "DeleteJobAlpha1",
        "DeleteJobsByPrefixAlpha1",
        "ListJobsAlpha1",
    ),
    ("conversation", "v1alpha1"): ("ConverseAlpha1",),
    ("conversation", "v1alpha2"): ("ConverseAlpha2",),
    ("shutdown", "v1"): ("Shutdown",),
}

# An rpc's name to its group and version.
GROUPS: Final[Mapping[str, tuple[str, str]]] = {rpc: group for group, rpcs in _ROWS.items() for rpc in rpcs}
