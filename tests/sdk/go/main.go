// Drivers for the tests with the official Go SDK: `drivers <scenario>` runs one, which prints what it saw as lines of JSON.
package main

import (
	"context"
	"encoding/json"

	"os"
	"sync"
	"time"

	"github.com/dapr/go-sdk/client"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
)

const waitTime = 20 * time.Second

var scenarios = map[string]func(context.Context){
	"app":     app,
	"face":    face,
	"invoke":  invoke,
	"proxy":   proxy,
	"publish": publish,
	"state":   state,
	"stream":  stream,
}

func main() {
	scenario, ok := scenarios[os.Args[1]]
	if !ok {
		panic("no such scenario: " + os.Args[1])
	}
	client.SetLogger(nil)
	ctx := context.Background()
	scenario(ctx)
}

var speaking sync.Mutex

// say prints one line of JSON.
func say(name string, value any) {
	speaking.Lock()
	defer speaking.Unlock()
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	must(encoder.Encode(struct {
		Name  string `json:"name"`
		Value any    `json:"value"`
	}{name, value}))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func given[T any](value T, err error) T {
	must(err)
	return value
}

// outcome is "done" or the refusal.
func outcome(err error) any {
	if err == nil {
		return "done"
	}
	return refusal(err)
}

// tried is what a call gave, or its refusal.
func tried[T any](value T, err error) any {
	if err != nil {
		return refusal(err)
	}
	return value
}

// refusal is the error as `status` takes it apart: code, text, the reason and the resource of its details.
func refusal(err error) map[string]any {
	refused := status.Convert(err)
	said := map[string]any{"code": refused.Code().String(), "message": refused.Message()}
	for _, detail := range refused.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			said["reason"] = detail.GetReason()
			said["metadata"] = detail.GetMetadata()
		case *errdetails.ResourceInfo:
			said["resource"] = []string{detail.GetResourceType(), detail.GetResourceName()}
		case *errdetails.BadRequest:
			said["field"] = detail.GetFieldViolations()[0].GetField()
		case *errdetails.Help:
			said["help"] = detail.GetLinks()[0].GetUrl()
		}
	}
	return said
}

// connect dials blocking, as the SDK does, or a socket file where DAPR_SOCKET names one.
func connect() client.Client {
	if socket, ok := os.LookupEnv("DAPR_SOCKET"); ok {
		return given(client.NewClientWithSocket(socket))
	}
	return given(client.NewClient())
}

// parallel runs the calls at once and waits for all of them.
func parallel(count int, call func(n int) bool) bool {
	results := make(chan bool, count)
	for n := range count {
		go func() { results <- call(n) }()
	}
	all := true
	for range count {
		all = <-results && all
	}
	return all
}
