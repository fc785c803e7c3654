package main

import (
	"context"

	"github.com/dapr/go-sdk/client"
)

// publish is the publish API as the client uses it; what it publishes comes to the app.
func publish(ctx context.Context) {
	dapr := connect()
	defer dapr.Close()
	send := func(name, topic string, data any, options ...client.PublishEventOption) {
		say(name, outcome(dapr.PublishEvent(ctx, "pubsub", topic, data, options...)))
	}
	metadata := client.PublishEventWithMetadata

	send("json", "events", map[string]any{"n": 1, "t": "grüße <&> 🌍"})
	send("text", "events", "some text", client.PublishEventWithContentType("text/plain"))
	send("bytes", "events", []byte{0, 255}, client.PublishEventWithContentType("application/octet-stream"))
	send("typed", "events", map[string]any{}, metadata(map[string]string{"cloudevent.type": "shop.sold", "ttlInSeconds": "600"}))
	send("raw", "raw", []byte(`{"raw":1}`), client.PublishEventWithRawPayload())
	send("widget", "ruled", map[string]any{"size": 1}, metadata(map[string]string{"cloudevent.type": "shop.widget"}))
	send("other", "ruled", map[string]any{"size": 2})

	bulk := func(name, pubsub string, events []any, options ...client.PublishEventsOption) {
		answer := dapr.PublishEvents(ctx, pubsub, "bulk", events, options...)
		say(name, []any{outcome(answer.Error), len(answer.FailedEvents)})
	}
	entry := client.PublishEventsEvent{EntryID: "mine", Data: []byte("entry"), ContentType: "text/plain"}
	bulk("bulk", "pubsub", []any{"one", []byte("two"), map[string]any{"n": 3}, entry})
	bulk("bulk.unknown", "nowhere", []any{"lost"})
	bulk("bulk.twins", "pubsub", []any{entry, entry})

	say("pubsub.unknown", outcome(dapr.PublishEvent(ctx, "nowhere", "events", "lost")))
	send("raw.wrong", "events", "lost", metadata(map[string]string{"rawPayload": "perhaps"}))
}
