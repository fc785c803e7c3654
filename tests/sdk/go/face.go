package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sort"
	"time"

	"github.com/dapr/go-sdk/client"
	"google.golang.org/protobuf/types/known/anypb"
)

// face is what the client does beside state, topics and calls: metadata, secrets, what is not there, the end.
func face(ctx context.Context) {
	dapr := connect()
	defer dapr.Close()
	must(dapr.Wait(ctx, waitTime))

	known := given(dapr.GetMetadata(ctx))
	components := []string{}
	for _, component := range known.RegisteredComponents {
		components = append(components, component.Name+" "+component.Type)
	}
	sort.Strings(components)
	say("metadata", map[string]any{"id": known.ID, "components": components})
	must(dapr.SetMetadata(ctx, "note", "grüße"))
	say("metadata.kept", given(dapr.GetMetadata(ctx)).ExtendedMetadata["note"])

	say("secret", given(dapr.GetSecret(ctx, "secrets", "password", nil)))
	say("secret.bulk", given(dapr.GetBulkSecret(ctx, "secrets", nil)))
	say("secret.absent", tried(dapr.GetSecret(ctx, "secrets", "absent", nil)))
	say("secret.store", tried(dapr.GetSecret(ctx, "nowhere", "k", nil)))

	binding := &client.InvokeBindingRequest{Name: "nothing", Operation: "create", Data: []byte("x")}
	say("binding", tried(dapr.InvokeBinding(ctx, binding)))
	say("configuration", tried(dapr.GetConfigurationItem(ctx, "nothing", "a")))
	say("lock", tried(dapr.TryLockAlpha1(ctx, "nothing", &client.LockRequest{ResourceID: "r", LockOwner: "me", ExpiryInSeconds: 10})))
	say("unlock", tried(dapr.UnlockAlpha1(ctx, "nothing", &client.UnlockRequest{ResourceID: "r", LockOwner: "me"})))
	say("encrypt", crypto(dapr.Encrypt(ctx, bytes.NewReader([]byte("plain")), client.EncryptOptions{
		ComponentName: "nothing", KeyName: "key", KeyWrapAlgorithm: "RSA",
	})))
	say("decrypt", crypto(dapr.Decrypt(ctx, bytes.NewReader([]byte("cipher")), client.DecryptOptions{ComponentName: "nothing"})))
	say("job", outcome(dapr.ScheduleJobAlpha1(ctx, &client.Job{Name: "job", Schedule: "@every 1h", Data: &anypb.Any{}})))
	say("job.delete", outcome(dapr.DeleteJobAlpha1(ctx, "job")))
	say("actor", tried(dapr.InvokeActor(ctx, &client.InvokeActorRequest{ActorType: "t", ActorID: "1", Method: "m"})))
	say("reminder", outcome(dapr.RegisterActorReminder(ctx, &client.RegisterActorReminderRequest{
		ActorType: "t", ActorID: "1", Name: "n", DueTime: "1s", Period: "1s",
	})))
	say("workflow", tried(dapr.GetWorkflowBeta1(ctx, &client.GetWorkflowRequest{InstanceID: "i", WorkflowComponent: "dapr"})))

	dapr.WithAuthToken("wrong")
	say("token.wrong", tried(dapr.GetState(ctx, store, "k", nil)))
	_, err := dapr.Subscribe(ctx, client.SubscriptionOptions{PubsubName: "pubsub", Topic: "t"})
	say("token.wrong.stream", refusal(err))
	dapr.WithAuthToken("right")
	late, cancel := context.WithDeadline(ctx, time.Now())
	defer cancel()
	say("late", tried(dapr.GetState(late, store, "k", nil)))
	say("shut", outcome(dapr.Shutdown(ctx)))
}

// crypto reads the stream of a cipher, whose refusal may come at the call or at its end.
func crypto(stream io.Reader, err error) any {
	if err == nil {
		_, err = io.ReadAll(stream)
	}
	if err == nil {
		err = errors.New("nothing was refused")
	}
	return refusal(err)
}
