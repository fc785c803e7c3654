"""An app with FastAPI and `dapr.ext.fastapi`: subscriptions of every kind, methods and an actor; says what comes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from dapr.actor import Actor, ActorInterface, actormethod
from dapr.ext.fastapi import DaprActor, DaprApp
from fastapi import Body, FastAPI, Request, Response
from lines import say
from pydantic import BaseModel


class CounterInterface(ActorInterface):
    @actormethod(name="Add")
    async def add(self, number: int) -> int: ...


class CounterActor(Actor, CounterInterface):  # type: ignore[misc]
    async def add(self, number: int) -> int:
        return number + 1


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    await dapr_actor.register_actor(CounterActor)
    yield


app = FastAPI(lifespan=lifespan)
dapr_app = DaprApp(app)
dapr_actor = DaprActor(app)
tries: Counter[str] = Counter()


class Order(BaseModel):
    id: int
    dish: str


class OrderEvent(BaseModel):
    id: str
    topic: str
    pubsubname: str
    datacontenttype: str
    data: Order


@dapr_app.subscribe(pubsub="pubsub", topic="events")
def whole(event: dict[str, Any]) -> None:
    say("events", event)


@dapr_app.subscribe(pubsub="pubsub", topic="typed", route="/typed-orders")
def typed(event: OrderEvent) -> dict[str, str]:
    say("typed", event.data.model_dump())
    return {"status": "SUCCESS"}


@dapr_app.subscribe(pubsub="pubsub", topic="raw", metadata={"rawPayload": "true"})
async def raw(request: Request) -> dict[str, bool]:
    say("raw", {"type": request.headers["content-type"], "event": await request.json()})
    return {"success": True}


@dapr_app.subscribe(pubsub="pubsub", topic="doomed", dead_letter_topic="dead")
def doomed(response: Response, event: dict[str, Any] = Body()) -> dict[str, str]:  # noqa: B008
    answer = event["data"]
    say("doomed", answer)
    if answer == "500":
        response.status_code = 500
    if answer == "404":
        response.status_code = 404
    if answer == "raise":
        raise RuntimeError("on purpose")
    return {"status": answer}


@dapr_app.subscribe(pubsub="pubsub", topic="dead")
def dead(event: dict[str, Any]) -> None:
    say("dead", [event["data"], event["topic"]])


@dapr_app.subscribe(pubsub="pubsub", topic="again")
def again(response: Response, event: dict[str, Any]) -> dict[str, str]:
    answers = event["data"]
    tries[event["id"]] += 1
    answer = answers[tries[event["id"]] - 1]
    say("again", answer)
    if answer.isdigit():
        response.status_code = int(answer)
    return {"status": answer}


@app.post("/ruled/{name}")
def ruled(name: str, event: dict[str, Any]) -> None:
    """The test subscribes it with a declarative Subscription."""
    say("ruled", [name, event["data"]])


@app.api_route("/echo/{rest:path}", methods=["GET", "POST", "PUT", "DELETE", "PATCH"])
async def echo(rest: str, request: Request) -> dict[str, Any]:
    body = await request.body()
    return {
        "verb": request.method,
        "rest": rest,
        "query": request.query_params.multi_items(),
        "body": body.decode("latin-1"),
        "headers": dict(request.headers),
    }


@app.get("/bytes")
def some_bytes() -> Response:
    return Response(bytes(range(256)), media_type="application/octet-stream", headers={"x-from": "app"})


@app.api_route("/status/{code}", methods=["GET", "POST"])
def status(code: int) -> Response:
    return Response('{"errorCode": "ERR_OWN", "message": "my own"}', code, media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["APP_PORT"]), log_level="critical")
