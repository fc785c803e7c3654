// A driver with a Go SDK of 2023, whose calls are those of its time; prints what it saw as lines of JSON.
//
// The newer Go packages beneath it are those of the drivers next door, so that they are compiled once.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/dapr/go-sdk/client"
	"google.golang.org/grpc/status"
)

func main() {
	ctx := context.Background()
	dapr, err := client.NewClient()
	must(err)
	defer dapr.Close()

	must(dapr.SaveState(ctx, "statestore", "old", []byte(`{"name": "old"}`), map[string]string{"contentType": "application/json"}))
	item, err := dapr.GetState(ctx, "statestore", "old", nil)
	must(err)
	say("state", json.RawMessage(item.Value))
	found, err := dapr.QueryStateAlpha1(ctx, "statestore", `{"filter": {"EQ": {"name": "old"}}}`, nil)
	must(err)
	say("query", found.Results[0].Key)
	must(dapr.DeleteBulkState(ctx, "statestore", []string{"old"}, nil))
	first := []*client.StateOperation{{
		Type: client.StateOperationTypeUpsert, Item: &client.SetStateItem{Key: "old", Value: []byte("1")},
	}}
	must(dapr.ExecuteStateTransaction(ctx, "statestore", nil, first))

	must(dapr.PublishEvent(ctx, "pubsub", "events", "single"))
	answer := dapr.PublishEvents(ctx, "pubsub", "events", []any{"one", "two"})
	must(answer.Error)
	say("bulk", len(answer.FailedEvents))

	echoed, err := dapr.InvokeMethodWithContent(ctx, os.Getenv("TARGET"), "same", "POST", &client.DataContent{Data: []byte("old")})
	must(err)
	say("invoke", string(echoed))

	_, err = dapr.TryLockAlpha1(ctx, "nothing", &client.LockRequest{ResourceID: "r", LockOwner: "me", ExpiryInSeconds: 10})
	say("lock", code(err))
	_, err = dapr.UnlockAlpha1(ctx, "nothing", &client.UnlockRequest{ResourceID: "r", LockOwner: "me"})
	say("unlock", code(err))
	_, err = dapr.GetConfigurationItem(ctx, "nothing", "a")
	say("configuration", code(err))
	stream, err := dapr.Encrypt(ctx, bytes.NewReader([]byte("plain")), client.EncryptOptions{
		ComponentName: "nothing", KeyName: "key", KeyWrapAlgorithm: "RSA",
	})
	if err == nil {
		_, err = io.ReadAll(stream)
	}
	say("encrypt", code(err))
	stream, err = dapr.Decrypt(ctx, bytes.NewReader([]byte("cipher")), client.DecryptOptions{ComponentName: "nothing"})
	if err == nil {
		_, err = io.ReadAll(stream)
	}
	say("decrypt", code(err))
	_, err = dapr.InvokeBinding(ctx, &client.InvokeBindingRequest{Name: "nothing", Operation: "create"})
	say("binding", code(err))
	_, err = dapr.GetState(ctx, "nowhere", "k", nil)
	say("unknown", code(err))
	must(dapr.Shutdown(ctx))
	say("shut", true)
}

func say(name string, value any) {
	must(json.NewEncoder(os.Stdout).Encode(struct {
		Name  string `json:"name"`
		Value any    `json:"value"`
	}{name, value}))
}

// code looks through the SDK's own wrapping, which `status` did not in those days.
func code(err error) string {
	for err != nil {
		if refused, ok := status.FromError(err); ok {
			return refused.Code().String()
		}
		err = errors.Unwrap(err)
	}
	return "OK"
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
