"""CloudLink documents: what they say, what is left out of them, and what each mistake is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.config.kinds import MetadataItem
from edge_runtime.config.links import (
    ALL_DAYS,
    AnswerLimits,
    BindingRoute,
    CloudLink,
    ConfigurationRoute,
    InvocationRoute,
    QueueLimits,
    SecretsRoute,
    StateRoute,
    TopicDown,
    TopicUp,
    Window,
    parse_days,
    parse_minute,
)
from edge_runtime.config.resources import Resources, load_resources

HEAD = "apiVersion: edge-runtime.io/v1alpha1\nkind: CloudLink\nmetadata:\n  name: cloud\n"
SPEC = "spec:\n  endpoint:\n    http: https://cloud.example.com:3500\n    grpc: https://cloud.example.com:50001\n"


def load(directory: Path, text: str, **options: str) -> Resources:
    (directory / "link.yaml").write_text(text)
    return load_resources([str(directory)], **{"app_id": "app", **options})


def link(directory: Path, more: str = "", spec: str = SPEC) -> CloudLink:
    resources = load(directory, HEAD + spec + more)
    assert resources.warnings == ()
    (found,) = resources.links
    return found


def mistake(directory: Path, more: str, spec: str = SPEC) -> str:
    """The one warning of a document that is left out, without its path."""
    resources = load(directory, HEAD + spec + more)
    assert resources.links == ()
    (text,) = resources.warnings
    prefix, suffix = f"{directory / 'link.yaml'}:", "; this CloudLink is left out"
    assert text.startswith(prefix)
    assert text.endswith(suffix)
    return text.removeprefix(prefix).removesuffix(suffix)


FULL = """
  token:
    secretKeyRef: {name: cloud, key: token}
  tls:
    ca: {value: CA}
    clientCert: {value: CERT}
    clientKey: {secretKeyRef: {name: cloud, key: key}}
  proxy: http://me:pass@proxy.local:3128
  budget: {bytesPerSecond: 64Ki, bytesPerDay: 10M}
  metered: true
  windows:
  - {days: mon-fri, from: "22:00", to: "05:00"}
  - {from: 01:30, to: "24:00"}
  probe: {interval: 10s}
  routes:
    topicsUp:
    - {pubsub: pubsub, topic: orders, remotePubsub: kafka, remoteTopic: edge, priority: 7,
       limits: {size: 1Mi, age: 2h, whenFull: drop-oldest, attempts: 9}}
    - {pubsub: pubsub, topic: alarms}
    topicsDown:
    - {remotePubsub: kafka, remoteTopic: commands, pubsub: pubsub, topic: todo, metadata: {group: n1}}
    - {remotePubsub: kafka, remoteTopic: news}
    state:
    - {store: statestore, keys: "orders/*", remoteStore: redis, remoteKeys: "edge/orders/*", direction: both,
       conflict: merge, poll: 5s, changeTopic: {pubsub: kafka, topic: changes}}
    - {store: statestore, keys: settings}
    configuration:
    - {store: configstore, keys: [a, b], remoteStore: central}
    - {store: configstore, keys: c, remoteStore: central}
    secrets:
    - {remoteStore: vault, maxAge: 12h}
    invocation:
    - {appID: billing, queued: true, priority: 2, limits: {size: 1Mi, age: 2h, whenFull: drop-oldest, attempts: 5},
       answers: {size: 2Mi, age: 1h, body: 1Ki}}
    - {appID: ledger.production}
    bindings:
    - {name: mail, remoteName: smtp, queued: true}
    - {name: sms}
auth:
  secretStore: vault
scopes: [app]
"""


def test_a_whole_link_is_read(tmp_path: Path) -> None:
    found = link(tmp_path, FULL)
    assert (found.name, found.http, found.grpc) == (
        "cloud",
        "https://cloud.example.com:3500",
        "https://cloud.example.com:50001",
    )
    assert found.items == (
        MetadataItem("token", None, "cloud", "token"),
        MetadataItem("ca", "CA"),
        MetadataItem("clientCert", "CERT"),
        MetadataItem("clientKey", None, "cloud", "key"),
        MetadataItem("proxy", "http://me:pass@proxy.local:3128"),
    )
    assert (found.bytes_per_second, found.bytes_per_day, found.metered, found.probe_s) == (65536, 10**7, True, 10.0)
    assert found.windows == (Window(frozenset(range(5)), 22 * 60, 5 * 60), Window(ALL_DAYS, 90, 1440))
    assert found.topics_up == (
        TopicUp("pubsub", "orders", "kafka", "edge", 7, 2**20, 7200.0, "drop-oldest", 9),
        TopicUp("pubsub", "alarms", "pubsub", "alarms"),
    )
    assert found.topics_down == (
        TopicDown("kafka", "commands", "pubsub", "todo", (("group", "n1"),)),
        TopicDown("kafka", "news", "kafka", "news"),
    )
    assert found.state == (
        StateRoute("statestore", "orders/*", "redis", "edge/orders/*", "both", "merge", 5.0, "kafka", "changes"),
        StateRoute("statestore", "settings", "statestore", "settings"),
    )
    assert found.configuration == (
        ConfigurationRoute("configstore", ("a", "b"), "central"),
        ConfigurationRoute("configstore", ("c",), "central"),
    )
    assert found.secrets == (SecretsRoute("vault", 43200.0),)
    queue, answers = QueueLimits(2, 2**20, 7200.0, "drop-oldest", 5), AnswerLimits(2**21, 3600.0, 1024)
    assert found.invocation == (
        InvocationRoute("billing", True, queue, answers),
        InvocationRoute("ledger.production"),
    )
    assert found.bindings == (BindingRoute("mail", "smtp", True), BindingRoute("sms", "sms", False))
    assert (found.secret_store, found.scopes) == ("vault", ("app",))
    assert found.source == f"{tmp_path / 'link.yaml'}:1"


def test_a_short_link_has_defaults(tmp_path: Path) -> None:
    found = link(tmp_path, spec="spec:\n  endpoint: {http: http://10.0.0.2:3500/base}\n")
    assert found == CloudLink("cloud", "http://10.0.0.2:3500/base", source=f"{tmp_path / 'link.yaml'}:1")


def test_sizes_have_more_than_32_bits(tmp_path: Path) -> None:
    (topic,) = link(tmp_path, UP + ", limits: {size: 5Gi}}\n").topics_up
    assert topic.bytes_max == 5 * 2**30


def test_a_proxy_may_be_a_secret(tmp_path: Path) -> None:
    assert link(tmp_path, "  proxy: {secretKeyRef: {name: proxy}}\n").items == (MetadataItem("proxy", None, "proxy"),)


def test_built_in_components_stay(tmp_path: Path) -> None:
    assert not load(tmp_path, HEAD + SPEC).has_components


def test_links_have_scopes_and_namespaces(tmp_path: Path) -> None:
    assert load(tmp_path, HEAD + SPEC + "scopes: [other]\n").links == ()
    text = HEAD.replace("name: cloud", "name: cloud\n  namespace: prod") + SPEC
    assert load(tmp_path, text, namespace="test").links == ()
    assert len(load(tmp_path, text, namespace="prod").links) == 1


def test_the_second_of_a_name_is_left_out(tmp_path: Path) -> None:
    resources = load(tmp_path, f"{HEAD}{SPEC}---\n{HEAD}{SPEC}")
    assert len(resources.links) == 1
    assert "CloudLink 'cloud' is already defined in" in resources.warnings[0]


def test_a_misspelt_kind_or_field_is_named(tmp_path: Path) -> None:
    (warning,) = load(tmp_path, HEAD.replace("CloudLink", "CloudLinks") + SPEC).warnings
    assert "unknown kind 'CloudLinks'" in warning
    assert '(did you mean "CloudLink"?)' in warning
    (warning,) = load(tmp_path, HEAD.replace("edge-runtime.io", "dapr.io") + SPEC).warnings
    assert "expected edge-runtime.io/v1alpha1" in warning
    resources = load(tmp_path, HEAD + SPEC + "  routes:\n    topicUp: []\n")
    assert len(resources.links) == 1
    assert "unknown field 'spec.routes.topicUp' is ignored (did you mean \"topicsUp\"?)" in resources.warnings[0]


UP = "  routes:\n    topicsUp:\n    - {pubsub: p, topic: t"
DOWN = "  routes:\n    topicsDown:\n    - "
STATE = "  routes:\n    state:\n    - {store: s, "
APPS = "  routes:\n    invocation:\n    - "
BINDINGS = "  routes:\n    bindings:\n    - {name: n"

MISTAKES = {
    "  token: abc\n": "9: spec.token: expected a mapping with value or secretKeyRef, found 'abc'",
    "  token: {}\n": "9: spec.token: expected a mapping with value, or with secretKeyRef and a name in it, "
    "found a mapping",
    "  tls: {clientCert: {value: x}}\n": "9: spec.tls.clientKey: expected the other half of the client's "
    "certificate and key; give both or none, found nothing",
    "  tls: {clientKey: {value: x}}\n": "9: spec.tls.clientCert: expected the other half of the client's "
    "certificate and key; give both or none, found nothing",
    "  proxy: socks5://x:1\n": "9: spec.proxy: expected the URL of an HTTP proxy such as "
    "http://proxy.example.com:3128, found 'socks5://x:1'",
    "  budget: {bytesPerDay: -1}\n": "9: spec.budget.bytesPerDay: expected a size such as 4Mi, 500k or 1048576, "
    "not negative, found '-1'",
    "  budget: {bytesPerSecond: fast}\n": "9: spec.budget.bytesPerSecond: expected a size such as 4Mi, 500k or "
    "1048576, not negative, found 'fast'",
    "  metered: maybe\n": "9: spec.metered: expected true or false, without quotes, found 'maybe'",
    "  windows:\n  - {days: moon, from: '01:00', to: '02:00'}\n": "10: spec.windows[0].days: expected days such as "
    '"mon-fri", "sat,sun" or "daily", found \'moon\'',
    "  windows:\n  - {from: 1am, to: '02:00'}\n": "10: spec.windows[0].from: expected a time of day such as "
    '"01:30", in quotes, from "00:00" to "24:00", found \'1am\'',
    "  windows:\n  - {from: '01:00'}\n": "10: spec.windows[0].to: expected a time of day such as "
    '"01:30", in quotes, from "00:00" to "24:00", found nothing',
    "  windows:\n  - {from: '24:00', to: '02:00'}\n": '10: spec.windows[0].from: expected a time before "24:00", '
    "found '24:00'",
    "  windows:\n  - {from: '02:00', to: '02:00'}\n": "10: spec.windows[0].to: expected another time than from; a "
    'whole day is from "00:00" to "24:00", found \'02:00\'',
    "  probe: {interval: 0s}\n": "9: spec.probe.interval: expected a duration above zero such as 30s or 1h30m, "
    "found '0s'",
    "  routes:\n    topicsUp:\n    - {topic: t}\n": "11: spec.routes.topicsUp[0].pubsub: expected a name, "
    "found nothing",
    UP + "}\n    - {pubsub: p, topic: t}\n": "12: spec.routes.topicsUp[1].topic: expected a topic of p that no earlier "
    "entry of topicsUp has; remove one of them, found 't'",
    UP + ", priority: 10}\n": "11: spec.routes.topicsUp[0].priority: expected a whole number from 0 to 9, found '10'",
    UP + ", limits: {size: 0}}\n": "11: spec.routes.topicsUp[0].limits.size: expected a size above zero such as "
    "64Mi, found '0'",
    UP + ", limits: {attempts: -1}}\n": "11: spec.routes.topicsUp[0].limits.attempts: expected a whole number from "
    "0 (no end) to 1000000, found '-1'",
    UP + ", limits: {whenFull: wait}}\n": "11: spec.routes.topicsUp[0].limits.whenFull: expected one of refuse, "
    "drop-oldest, drop-lowest-priority, found 'wait'",
    DOWN + "{remoteTopic: t}\n": "11: spec.routes.topicsDown[0].remotePubsub: expected a name, found nothing",
    DOWN + "{remotePubsub: p, remoteTopic: t}\n    - {remotePubsub: p, remoteTopic: t, topic: u}\n": "12: "
    "spec.routes.topicsDown[1].remoteTopic: expected a topic of p that no earlier entry of topicsDown has; "
    "remove one of them, found 't'",
    STATE + "keys: 'a*b'}\n": '11: spec.routes.state[0].keys: expected one key such as "settings", or a prefix with '
    "* at its end such as \"orders/*\", found 'a*b'",
    STATE + "keys: 'a*', remoteKeys: b}\n": "11: spec.routes.state[0].remoteKeys: expected a prefix with * at its "
    "end where keys has one, and one key where not, found 'b'",
    STATE + "keys: a, direction: sideways}\n": "11: spec.routes.state[0].direction: expected one of up, down, both, "
    "found 'sideways'",
    STATE + "keys: a, changeTopic: {topic: t}}\n": "11: spec.routes.state[0].changeTopic.pubsub: expected a name, "
    "found nothing",
    STATE + "keys: a, direction: up, changeTopic: {pubsub: p, topic: t}}\n": "11: spec.routes.state[0].changeTopic: "
    "expected a direction down or both: nothing comes down on this route; take it out, found a mapping",
    APPS + "{queued: true}\n": "11: spec.routes.invocation[0].appID: expected a name, found nothing",
    APPS + "{appID: a.b.c}\n": "11: spec.routes.invocation[0].appID: expected an app id such as billing, or "
    "billing.production with its namespace, found 'a.b.c'",
    APPS + "{appID: a}\n    - {appID: a}\n": "12: spec.routes.invocation[1].appID: expected an app id that no earlier "
    "entry of invocation has; remove one of them, found 'a'",
    APPS + "{appID: a, limits: {size: 1Mi}}\n": "11: spec.routes.invocation[0].limits: expected queued: true beside "
    "it: limits is for calls that wait, found a mapping",
    APPS + "{appID: a, queued: true, answers: {size: 0}}\n": "11: spec.routes.invocation[0].answers.size: expected a "
    "size above zero such as 16Mi, found '0'",
    BINDINGS + "}\n    - {name: n}\n": "12: spec.routes.bindings[1].name: expected a name that no earlier entry of "
    "bindings has; remove one of them, found 'n'",
    BINDINGS + ", priority: 3}\n": "11: spec.routes.bindings[0].priority: expected queued: true beside it: priority "
    "is for calls that wait, found '3'",
}  # fmt: skip


@pytest.mark.parametrize("more", MISTAKES)
def test_a_mistake_says_where_and_what(tmp_path: Path, more: str) -> None:
    assert mistake(tmp_path, more) == MISTAKES[more]


URLS = ("", "cloud:3500", "ftp://cloud", "http://", "http://u:p@cloud", "http://cloud:99999", "http://cloud?x=1",
        "http://cloud/#x", "'http://cl oud'", "http://cloud:0")  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_an_endpoint_is_a_url(tmp_path: Path, url: str) -> None:
    text = mistake(tmp_path, "", f"spec:\n  endpoint:\n    http: {url}\n")
    assert "spec.endpoint.http: expected a URL such as https://sidecar.example.com:3500" in text


def test_grpc_has_no_path_and_streams_need_it(tmp_path: Path) -> None:
    spec = "spec:\n  endpoint:\n    http: http://cloud\n"
    assert "without user name, path" in mistake(tmp_path, "    grpc: http://cloud/path\n", spec)
    text = mistake(tmp_path, DOWN + "{remotePubsub: p, remoteTopic: t}\n", spec)
    assert "spec.endpoint.grpc: expected" in text
    assert "routes.topicsDown subscribe over gRPC; add it, found nothing" in text
    mirrored = "  routes: {configuration: [{store: a, remoteStore: b}]}\n"
    assert "routes.configuration subscribe over gRPC; add it, found nothing" in mistake(tmp_path, mirrored, spec)


def test_a_link_has_a_name(tmp_path: Path) -> None:
    resources = load(tmp_path, HEAD.replace("name: cloud", "labels: {}") + SPEC)
    assert "metadata.name: expected a name for the link, found nothing" in resources.warnings[0]


def test_days_and_times_have_their_forms() -> None:
    assert parse_days("fri-mon") == {4, 5, 6, 0}
    assert parse_days("sat, sun") == {5, 6}
    assert parse_days("daily") == ALL_DAYS
    assert (parse_minute("0:05"), parse_minute("24:00")) == (5, 1440)
    for text in ("24:01", "1:5", "001:00", "12:60", "1200", "-1:00"):
        with pytest.raises(ValueError):
            parse_minute(text)
