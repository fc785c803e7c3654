package main

import (
	"context"
	"sort"
	"time"

	"github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
)

// stream is streaming subscriptions: the app needs no port, events come over the stream that the client opened.
func stream(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*waitTime)
	defer cancel()
	dapr := connect()
	defer dapr.Close()
	send := func(topic string, data any) { must(dapr.PublishEvent(ctx, "pubsub", topic, data)) }
	subscribe := func(topic string, dead *string) *client.Subscription {
		options := client.SubscriptionOptions{PubsubName: "pubsub", Topic: topic, DeadLetterTopic: dead}
		return given(dapr.Subscribe(ctx, options))
	}

	subscription := subscribe("answers", nil)
	send("answers", map[string]any{"n": 1})
	first := given(subscription.Receive())
	say("whole", map[string]any{
		"id": first.ID != "", "source": first.Source, "type": first.Type, "version": first.SpecVersion,
		"content_type": first.DataContentType, "topic": first.Topic, "pubsub": first.PubsubName, "data": first.Data,
	})
	must(first.Retry())
	again := given(subscription.Receive())
	say("retry", again.ID == first.ID)
	must(again.Success())
	for n := range 3 {
		send("answers", n)
	}
	flying := []*client.SubscriptionMessage{}
	numbers := []float64{}
	for range 3 {
		event := given(subscription.Receive())
		flying, numbers = append(flying, event), append(numbers, event.Data.(float64))
	}
	for n := range flying {
		must(flying[len(flying)-1-n].Success())
	}
	sort.Float64s(numbers)
	say("flying", numbers)
	must(subscription.Close())

	letters := "dead"
	dead, doomed := subscribe(letters, nil), subscribe("doomed", &letters)
	send("doomed", "dropped")
	must(given(doomed.Receive()).Drop())
	letter := given(dead.Receive())
	say("dead", []any{string(letter.RawData), letter.Topic})
	must(letter.Success())
	must(doomed.Close())
	must(dead.Close())

	left := subscribe("left", nil)
	send("left", "unanswered")
	event := given(left.Receive())
	must(left.Close())
	next := subscribe("left", nil)
	came := given(next.Receive())
	say("left", came.ID == event.ID)
	must(came.Success())
	must(next.Close())

	handled(ctx, dapr, send)
	for name, options := range map[string]client.SubscriptionOptions{"unknown": {PubsubName: "nowhere", Topic: "t"}} {
		_, err := dapr.Subscribe(ctx, options)
		say("refused."+name, refusal(err))
	}
}

// handled answers with each status in turn; the handler runs in parallel for what comes.
func handled(ctx context.Context, dapr client.Client, send func(string, any)) {
	events := make(chan string, 10)
	tries := map[string]int{}
	handler := func(event *common.TopicEvent) common.SubscriptionResponseStatus {
		events <- event.Data.(string)
		if tries[event.ID]++; tries[event.ID] == 1 {
			return common.SubscriptionResponseStatusRetry
		}
		return common.SubscriptionResponseStatusSuccess
	}
	options := client.SubscriptionOptions{PubsubName: "pubsub", Topic: "handled"}
	end := given(dapr.SubscribeWithHandler(ctx, options, handler))
	must(dapr.PublishEvent(ctx, "pubsub", "handled", "event", client.PublishEventWithContentType("text/plain")))
	came := []string{}
	for range 2 {
		select {
		case event := <-events:
			came = append(came, event)
		case <-time.After(waitTime):
			panic("nothing came to the handler")
		}
	}
	say("handled", came)
	must(end())
}
