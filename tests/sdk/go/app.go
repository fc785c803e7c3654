package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/dapr/go-sdk/service/common"
	service "github.com/dapr/go-sdk/service/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// app is a callback service with methods, subscriptions and a health check. It says what comes to it.
func app(context.Context) {
	server := given(service.NewService("127.0.0.1:" + os.Getenv("APP_PORT")))
	must(server.AddHealthCheckHandler("health", func(context.Context) error { return nil }))
	for name, method := range methods {
		must(server.AddServiceInvocationHandler(name, method))
	}
	on := func(subscription common.Subscription, handler common.TopicEventHandler) {
		subscription.PubsubName = "pubsub"
		must(server.AddTopicEventHandler(&subscription, handler))
	}
	on(common.Subscription{Topic: "events"}, note("events"))
	on(common.Subscription{Topic: "bulk"}, note("bulk"))
	on(common.Subscription{Topic: "raw", Metadata: map[string]string{"rawPayload": "true"}}, note("raw"))
	on(common.Subscription{Topic: "ruled", Route: "other"}, noteAs("other"))
	on(common.Subscription{Topic: "ruled", Route: "widgets", Match: `event.type == "shop.widget"`, Priority: 1}, noteAs("widgets"))
	on(common.Subscription{Topic: "again"}, again)

	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	go func() {
		<-ended
		must(server.GracefulStop())
	}()
	say("starting", nil)
	must(server.Start())
	say("stopped", nil)
}

var methods = map[string]common.ServiceInvocationHandler{
	"echo": func(_ context.Context, in *common.InvocationEvent) (*common.Content, error) {
		return content(map[string]any{
			"data": string(in.Data), "content_type": in.ContentType, "verb": in.Verb, "query": in.QueryString,
		})
	},
	"metadata": func(ctx context.Context, _ *common.InvocationEvent) (*common.Content, error) {
		came, _ := metadata.FromIncomingContext(ctx)
		return content(came)
	},
	"same": func(_ context.Context, in *common.InvocationEvent) (*common.Content, error) {
		return &common.Content{Data: in.Data, ContentType: in.ContentType}, nil
	},
	"nothing": func(context.Context, *common.InvocationEvent) (*common.Content, error) { return nil, nil },
	"refuse": func(context.Context, *common.InvocationEvent) (*common.Content, error) {
		return nil, status.Error(codes.ResourceExhausted, "too much")
	},
	"hang": func(ctx context.Context, _ *common.InvocationEvent) (*common.Content, error) {
		<-ctx.Done()
		say("gone", nil)
		return nil, ctx.Err()
	},
}

func content(value any) (*common.Content, error) {
	data, err := json.Marshal(value)
	return &common.Content{Data: data, ContentType: "application/json"}, err
}

func note(name string) common.TopicEventHandler {
	return func(_ context.Context, event *common.TopicEvent) (bool, error) {
		say(name, map[string]any{
			"id": event.ID != "", "source": event.Source, "type": event.Type, "content_type": event.DataContentType,
			"topic": event.Topic, "pubsub": event.PubsubName, "data": string(event.RawData),
		})
		return false, nil
	}
}

func noteAs(handler string) common.TopicEventHandler {
	return func(_ context.Context, event *common.TopicEvent) (bool, error) {
		say("ruled", []any{handler, event.Data})
		return false, nil
	}
}

var (
	counting sync.Mutex
	tries    = map[string]int{}
)

// again answers an event as its list of words says: an error with retry, one without, or none.
func again(_ context.Context, event *common.TopicEvent) (bool, error) {
	answers := []string{}
	must(event.Struct(&answers))
	counting.Lock()
	answer := answers[tries[event.ID]]
	tries[event.ID]++
	counting.Unlock()
	say("again", answer)
	if answer == "success" {
		return false, nil
	}
	return answer == "retry", errors.New(answer)
}
