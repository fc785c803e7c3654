"""What DaprClient does over gRPC beside state, topics and calls: metadata, secrets, what is not there, the end."""

from __future__ import annotations

from typing import Any

from clients import done, run, tried
from dapr.clients import Job
from dapr.clients.grpc import conversation
from dapr.clients.grpc._crypto import DecryptOptions, EncryptOptions
from lines import say


async def metadata(client: Any) -> None:
    came = await done(client.get_metadata())
    say("metadata.id", came.application_id)
    say("metadata.components", sorted([item.name, item.type, item.version] for item in came.registered_components))
    say("metadata.capabilities", {item.name: list(item.capabilities) for item in came.registered_components})
    say("metadata.extended", sorted(came.extended_metadata))
    await done(client.set_metadata("note", "grüße"))
    say("metadata.kept", (await done(client.get_metadata())).extended_metadata["note"])


async def secrets(client: Any) -> None:
    say("secret", dict((await done(client.get_secret("secrets", "password"))).secret))
    say("secret.nested", dict((await done(client.get_secret("secrets", "db:user"))).secret))
    say("secret.bulk", (await done(client.get_bulk_secret("secrets"))).secrets)
    say("secret.absent", await tried(client.get_secret, "secrets", "absent"))
    say("secret.denied", await tried(client.get_secret, "secrets", "denied"))
    say("secret.store", await tried(client.get_secret, "nowhere", "k"))
    say("secret.bulk.store", await tried(client.get_bulk_secret, "nowhere"))


async def unconfigured(client: Any) -> None:
    say("binding", await tried(client.invoke_binding, "nothing", "create", "x"))
    say("configuration", await tried(client.get_configuration, "nothing", ["a"]))
    say("configuration.unsubscribe", await tried(client.unsubscribe_configuration, "nothing", "id"))
    say("lock", await tried(client.try_lock, "nothing", "resource", "me", 10))
    say("unlock", await tried(client.unlock, "nothing", "resource", "me"))
    question = conversation.ConversationInputAlpha2([conversation.create_user_message("hello")])
    say("conversation", await tried(client.converse_alpha2, "nothing", [question]))
    say("conversation.1", await tried(client.converse_alpha1, "nothing", [conversation.ConversationInput("hello")]))
    say("encrypt", await tried(crypto, client.encrypt, "plain", EncryptOptions("nothing", "key", "RSA")))
    say("decrypt", await tried(crypto, client.decrypt, "cipher", DecryptOptions("nothing", "key")))
    say("job", await tried(client.schedule_job, Job("job", schedule="@every 1h")))
    say("job.get", await tried(client.get_job, "job"))
    say("job.delete", await tried(client.delete_job, "job"))


async def crypto(operation: Any, data: str, options: Any) -> Any:
    stream = await done(operation(data, options))
    return await done(stream.read())


async def scenario(client: Any) -> None:
    for part in (metadata, secrets, unconfigured):
        await part(client)
    await done(client.shutdown())
    say("shut", True)


run(scenario)
