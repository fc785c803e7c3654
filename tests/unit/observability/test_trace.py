import pytest

from edge_runtime.model.trace import NO_TRACE, Trace
from edge_runtime.observability.trace import Tracer, binary_of, traceparent_of, valid_baggage, valid_traceparent

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("text", [PARENT, PARENT.replace("00-", "01-", 1) + "-more", PARENT.replace("-01", "-00")])
def test_well_formed_parents_are_valid(text: str) -> None:
    assert valid_traceparent(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        PARENT[:-1],
        PARENT + "-more",
        PARENT.upper(),
        "ff" + PARENT[2:],
        PARENT.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
    ],
)
def test_other_parents_are_not(text: str) -> None:
    assert not valid_traceparent(text)


@pytest.mark.parametrize("text", ["a=1", "a=1,b=2", " a = 1 ; p ; q=2 , b=%20"])
def test_baggage_may_have_properties(text: str) -> None:
    assert valid_baggage(text)


@pytest.mark.parametrize("text", ["", "a", "a=b c", "a=1,", "(=1", "a=1;=", "a=" + "x" * 9000, ",".join(["a=1"] * 181)])
def test_broken_baggage_is_refused(text: str) -> None:
    assert not valid_baggage(text)


def test_a_silent_tracer_passes_on() -> None:
    tracer = Tracer(None)
    assert tracer.continued(PARENT, "s=1", "") == Trace(PARENT, "s=1", "")
    assert tracer.continued("bad", "s=1", "") is NO_TRACE
    assert tracer.child(Trace(PARENT)) == Trace(PARENT)


def test_a_child_keeps_the_trace_id() -> None:
    tracer = Tracer(0.0)
    trace = tracer.continued(PARENT, "s=1", "a=1")
    child = tracer.child(trace)
    assert trace.traceparent[:36] == child.traceparent[:36] == PARENT[:36]
    assert len({PARENT, trace.traceparent, child.traceparent}) == 3
    assert valid_traceparent(child.traceparent)
    assert child.tracestate == "s=1"


@pytest.mark.parametrize(("sampling", "flags"), [(0.0, "00"), (1.0, "01")])
def test_roots_are_sampled_by_chance(sampling: float, flags: str) -> None:
    root = Tracer(sampling).continued("", "", "").traceparent
    assert valid_traceparent(root)
    assert root.endswith(flags)


def test_binary_contexts_go_there_and_back() -> None:
    binary = binary_of(PARENT)
    assert binary.hex() == "00000af7651916cd43dd8448eb211c80319c01b7ad6b71692033310201"
    assert traceparent_of(binary) == PARENT


@pytest.mark.parametrize("binary", [b"", b"\0" * 29, b"\1" + binary_of(PARENT)[1:], binary_of(PARENT)[:-1]])
def test_other_bytes_are_no_context(binary: bytes) -> None:
    assert traceparent_of(binary) == ""
