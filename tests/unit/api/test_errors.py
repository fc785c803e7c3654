import json

import pytest

from edge_runtime.api.errors import ROWS, error_document, error_response
from edge_runtime.model.errors import EdgeError, Kind


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_its_row(kind: Kind) -> None:
    assert 400 <= ROWS[kind].status < 600
    assert ROWS[kind].code


def test_a_plain_error_has_two_fields() -> None:
    response = error_response(EdgeError(Kind.SECRET_GET, "failed"))
    assert response.status == 500
    assert response.header(b"content-type") == b"application/json"
    assert json.loads(response.body.data) == {"errorCode": "ERR_SECRET_GET", "message": "failed"}


def test_an_unknown_pubsub_has_only_errorinfo() -> None:
    error = EdgeError(Kind.PUBSUB_NOT_FOUND, "pubsub x is not found", metadata={"ttl": "1"}, resource=("pubsub", "x"))
    assert error_document(error) == {
        "errorCode": "ERR_PUBSUB_NOT_FOUND",
        "message": "pubsub x is not found",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "DAPR_PUBSUB_NOT_FOUND",
                "domain": "dapr.io",
                "metadata": {"ttl": "1"},
            }
        ],
    }


def test_an_illegal_key_shows_request_resource_info() -> None:
    error = EdgeError(
        Kind.STATE_ILLEGAL_KEY,
        "api error: code = InvalidArgument desc = input key/keyPrefix 'a||b' can't contain '||'",
        resource=("state", "statestore"),
        violations=[("a||b", "input key/keyPrefix 'a||b' can't contain '||'")],
    )
    document = error_document(error)
    assert document["errorCode"] == "ERR_MALFORMED_REQUEST"
    kinds = [detail["@type"].rsplit(".", 1)[1] for detail in document["details"]]
    assert kinds == ["BadRequest", "ResourceInfo", "ErrorInfo"]
    assert document["details"][0]["field_violations"][0]["field"] == "a||b"
    assert document["details"][1] == {
        "@type": "type.googleapis.com/google.rpc.ResourceInfo",
        "resource_type": "state",
        "resource_name": "statestore",
        "owner": "",
        "description": "",
    }
    assert document["details"][2]["metadata"] is None


def test_missing_transactions_link_to_help() -> None:
    error = EdgeError(Kind.STATE_TRANSACTIONS_NOT_SUPPORTED, "no", resource=("state", "s"))
    details = error_document(error)["details"]
    assert details[0]["@type"].endswith("Help")
    assert details[0]["links"][0]["url"].startswith("https://docs.dapr.io/")
