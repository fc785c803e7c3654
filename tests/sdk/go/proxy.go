package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const echo = "/sdk.test.Echo/"

// proxy calls a service of the user's own, `echo.py`, through the sidecar: TARGET names the app in `dapr-app-id`.
func proxy(ctx context.Context) {
	dapr := connect()
	defer dapr.Close()
	channel := dapr.GrpcClientConn()
	to := metadata.AppendToOutgoingContext(ctx, "dapr-app-id", os.Getenv("TARGET"))

	say("one", tried(unary(to, channel, "One", "grüße")))
	long := strings.Repeat("x", 3_000_000)
	say("long", given(unary(to, channel, "One", long)) == long)
	say("packed", given(unary(to, channel, "One", long, grpc.UseCompressor(gzip.Name))) == long)
	say("several", tried(talk(to, channel, "Several", "5")))
	say("joined", tried(talk(to, channel, "Joined", "a", "b", "c")))
	say("each", tried(talk(to, channel, "Each", "a", "b", "c")))
	say("break off", tried(talk(to, channel, "BreakOff", "")))

	var before, after metadata.MD
	noted := metadata.AppendToOutgoingContext(to, "x-note", "noted", "x-note-bin", "\x00\xff")
	answer := given(unary(noted, channel, "Headers", "", grpc.Header(&before), grpc.Trailer(&after)))
	came := struct{ Metadata [][2]string }{}
	must(json.Unmarshal([]byte(answer), &came))
	kept := map[string]string{}
	for _, pair := range came.Metadata {
		if strings.HasPrefix(pair[0], "x-") || strings.HasPrefix(pair[0], "dapr-") {
			kept[pair[0]] = pair[1]
		}
	}
	say("metadata", kept)
	say("initial", []any{before.Get("x-first"), fmt.Sprintf("%x", before.Get("x-first-bin"))})
	say("trailing", []any{after.Get("x-last"), fmt.Sprintf("%x", after.Get("x-last-bin"))})

	say("fail", tried(unary(to, channel, "Fail", "this")))
	say("untargeted", tried(unary(ctx, channel, "One", "")))
	unknown := metadata.AppendToOutgoingContext(ctx, "dapr-app-id", "no-such-app")
	say("unknown app", tried(unary(unknown, channel, "One", "")))

	late, cancel := context.WithTimeout(to, 500*time.Millisecond)
	_, err := talk(late, channel, "Hang", "late")
	say("late", refusal(err)["code"])
	cancel()
	stopped, stop := context.WithCancel(to)
	hanging := given(open(stopped, channel, "Hang", "cancelled"))
	must(hanging.RecvMsg(&wrapperspb.StringValue{}))
	stop()
	say("cancelled", refusal(hanging.RecvMsg(&wrapperspb.StringValue{}))["code"])

	say("parallel", parallel(100, func(n int) bool {
		answer, err := unary(to, channel, "One", fmt.Sprint(n))
		return err == nil && answer == fmt.Sprint(n)
	}))
	say("parallel.streams", parallel(100, func(n int) bool {
		words := []string{fmt.Sprint(n), "a", "b"}
		answers, err := talk(to, channel, "Each", words...)
		return err == nil && strings.Join(answers, " ") == strings.Join(words, " ")
	}))
}

func unary(ctx context.Context, channel *grpc.ClientConn, method, text string, options ...grpc.CallOption) (string, error) {
	answer := &wrapperspb.StringValue{}
	err := channel.Invoke(ctx, echo+method, wrapperspb.String(text), answer, options...)
	return answer.GetValue(), err
}

// open sends the texts and closes its side.
func open(ctx context.Context, channel *grpc.ClientConn, method string, texts ...string) (grpc.ClientStream, error) {
	kind := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	call, err := channel.NewStream(ctx, kind, echo+method)
	if err != nil {
		return nil, err
	}
	for _, text := range texts {
		if err := call.SendMsg(wrapperspb.String(text)); err != nil {
			return nil, err
		}
	}
	return call, call.CloseSend()
}

// talk is all that is answered.
func talk(ctx context.Context, channel *grpc.ClientConn, method string, texts ...string) ([]string, error) {
	call, err := open(ctx, channel, method, texts...)
	if err != nil {
		return nil, err
	}
	answers := []string{}
	for {
		answer := &wrapperspb.StringValue{}
		err := call.RecvMsg(answer)
		if errors.Is(err, io.EOF) {
			return answers, nil
		}
		if err != nil {
			return answers, err
		}
		answers = append(answers, answer.GetValue())
	}
}
