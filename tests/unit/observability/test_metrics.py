import pytest

from edge_runtime.observability.http_metrics import HttpMetricsSettings, HttpServerMetrics, normalised_path
from edge_runtime.observability.metrics import SERIES_MAX, Metrics, render


def test_a_page_has_types_and_sorted_labels() -> None:
    metrics = Metrics("app")
    metrics.counter("a_count", "z", "b").add(("1", 'q"\n\\'))
    metrics.gauge("g").set(1.5)
    assert render([metrics]).splitlines() == [
        "# TYPE dapr_a_count counter",
        'dapr_a_count{app_id="app",b="q\\"\\n\\\\",z="1"} 1',
        "# TYPE dapr_g gauge",
        'dapr_g{app_id="app"} 1.5',
    ]


def test_histograms_are_cumulative() -> None:
    metrics = Metrics("app")
    histogram = metrics.histogram("h", buckets=(1, 10))
    for value in (0.5, 1, 5, 100):
        histogram.observe(value)
    lines = render([metrics]).splitlines()
    assert 'dapr_h_bucket{app_id="app",le="1"} 2' in lines
    assert 'dapr_h_bucket{app_id="app",le="10"} 3' in lines
    assert 'dapr_h_bucket{app_id="app",le="+Inf"} 4' in lines
    assert 'dapr_h_sum{app_id="app"} 106.5' in lines
    assert 'dapr_h_count{app_id="app"} 4' in lines


def test_two_apps_share_a_type_line() -> None:
    one, two = Metrics("one"), Metrics("two")
    one.counter("c").add()
    two.counter("c").add()
    page = render([one, two])
    assert page.count("# TYPE dapr_c counter") == 1
    assert page.count("dapr_c{") == 2


def test_series_are_limited() -> None:
    metrics = Metrics("app")
    counter = metrics.counter("c", "key")
    for number in range(SERIES_MAX + 5):
        counter.add((str(number),))
    assert len(counter.values) == SERIES_MAX + 1
    assert counter.values[("other",)] == 5
    assert counter.dropped == 5


def test_the_wrong_number_of_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="labels"):
        Metrics("app").counter("c", "a").add(())


def test_a_name_has_one_kind() -> None:
    metrics = Metrics("app")
    assert metrics.counter("c") is metrics.counter("c")
    with pytest.raises(TypeError, match="counter"):
        metrics.gauge("c")


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/v1.0/state/store/some-key", "/v1.0/state/store"),
        ("/v1.0/secrets/store/name", "/v1.0/secrets/store"),
        ("/v1.0/actors/Type/17/method/m", "/v1.0/actors/Type/{id}/method"),
        ("/actors/Type/17/method/m", "/actors/Type/{id}/method/m"),
        ("/v1.0/workflows/dapr/id-1", "/v1.0/workflows/dapr/{instanceID}"),
        ("/v1.0/workflows/dapr/name/start", "/v1.0/workflows/dapr/name/start"),
        ("/v1.0/workflows/dapr/id/raiseEvent/e", "/v1.0/workflows/dapr/{instanceID}/raiseEvent/{eventName}"),
        ("/v1.0/workflows/dapr/id/pause", "/v1.0/workflows/dapr/{instanceID}/pause"),
        ("/v1.0/invoke/app/method/a/b", "/v1.0/invoke/app/method/a/b"),
    ],
)
def test_paths_lose_their_keys(path: str, label: str) -> None:
    assert normalised_path(path) == label


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/orders/7", "/orders/{id}"),
        ("/v1.0/invoke/shop/method/orders/7", "/v1.0/invoke/{app_id}/method/orders/{id}"),
        ("/files/a/b", "/files/"),
        ("/orders/special", "/orders/special"),
        ("/v1.0/state/s/k", ""),
    ],
)
def test_path_patterns_replace_the_path(path: str, label: str) -> None:
    settings = HttpMetricsSettings(False, ("/orders/{id}", "/files/", "/orders/special"))
    assert HttpServerMetrics(Metrics("a"), settings).path_label(path) == label


def test_verbs_can_be_left_out() -> None:
    metrics = Metrics("a")
    server = HttpServerMetrics(metrics, HttpMetricsSettings(exclude_verbs=True))
    server.record("GET", "/x", 200, 3, 10, 2000)
    assert 'dapr_http_server_request_count{app_id="a",method="",path="/x",status="200"} 1' in render([metrics])


def test_unknown_verbs_are_one_series() -> None:
    metrics = Metrics("a")
    server = HttpServerMetrics(metrics, HttpMetricsSettings())
    server.record("BREW", "/x", 200, 3, 10, 2000)
    server.record("STEEP", "/x", 200, 3, 10, 2000)
    for _ in range(2):
        page = render([metrics])
        labels = 'app_id="a",method="UNKNOWN",path="/x",status="200"'
        assert f"dapr_http_server_request_count{{{labels}}} 2" in page
        assert f"dapr_http_server_latency_count{{{labels}}} 2" in page
        assert f"dapr_http_server_latency_sum{{{labels}}} 6" in page


def test_invented_verbs_fill_no_memory() -> None:
    server = HttpServerMetrics(Metrics("a"), HttpMetricsSettings())
    for number in range(3000):
        server.record(f"VERB{number}", "/x", 200, 3, 10, 2000)
    assert len(server._entries) <= 2001
