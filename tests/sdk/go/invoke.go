package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/dapr/go-sdk/client"
	"google.golang.org/grpc/metadata"
)

// invoke is service invocation of an app that speaks gRPC (TARGET), or one that speaks HTTP (WEB).
func invoke(ctx context.Context) {
	dapr := connect()
	defer dapr.Close()
	app := os.Getenv("TARGET")
	if app == "" {
		app = os.Getenv("WEB")
	}
	call := func(method, verb, data string) any {
		content := &client.DataContent{Data: []byte(data), ContentType: "text/plain"}
		return answered(dapr.InvokeMethodWithContent(ctx, app, method, verb, content))
	}
	for _, verb := range []string{"GET", "POST", "PUT", "DELETE", "PATCH"} {
		say(verb, call("echo?a=1&b=two%20words", verb, verb))
	}
	say("nothing", answered(dapr.InvokeMethod(ctx, app, "nothing", "POST")))
	custom := map[string]any{"a": []int{1}}
	say("custom", answered(dapr.InvokeMethodWithCustomContent(ctx, app, "echo", "POST", "application/json", custom)))
	traced := dapr.WithTraceID(ctx, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01") // in place of what is there
	noted := metadata.AppendToOutgoingContext(traced, "x-note", "noted")
	say("metadata", answered(dapr.InvokeMethod(noted, app, "metadata", "GET")))
	say("refused", call("refuse", "POST", ""))
	say("absent", call("no-such-method", "POST", ""))
	say("unknown app", answered(dapr.InvokeMethod(ctx, "no-such-app", "echo", "GET")))
	late, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	say("late", answered(dapr.InvokeMethod(late, app, "hang", "POST")))
	say("many", parallel(100, func(n int) bool {
		content := &client.DataContent{Data: []byte(fmt.Sprint(n)), ContentType: "text/plain"}
		answer, err := dapr.InvokeMethodWithContent(ctx, app, "same", "POST", content)
		return err == nil && string(answer) == fmt.Sprint(n)
	}))
}

func answered(answer []byte, err error) any {
	if err != nil {
		return refusal(err)
	}
	if json.Valid(answer) {
		return json.RawMessage(answer)
	}
	return string(answer)
}
