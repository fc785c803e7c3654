package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sort"

	"github.com/dapr/go-sdk/client"
)

const store = "statestore"

// state is the state API as the client uses it.
func state(ctx context.Context) {
	dapr := connect()
	defer dapr.Close()
	value := func(key string) string { return string(given(dapr.GetState(ctx, store, key, nil)).Value) }
	save := func(key, data, etag string, options ...client.StateOption) any {
		return outcome(dapr.SaveStateWithETag(ctx, store, key, []byte(data), etag, nil, options...))
	}

	// values
	everything := make([]byte, 256)
	for n := range everything {
		everything[n] = byte(n)
	}
	must(dapr.SaveState(ctx, store, "bytes", everything, nil))
	item := given(dapr.GetState(ctx, store, "bytes", nil))
	say("same", bytes.Equal(item.Value, everything) && item.Etag != "" && item.Key == "bytes")
	absent := given(dapr.GetState(ctx, store, "absent", nil))
	say("absent", []any{len(absent.Value), absent.Etag})
	must(dapr.SaveState(ctx, store, "short", []byte("1"), map[string]string{"ttlInSeconds": "1000"}))
	_, lives := given(dapr.GetStateWithConsistency(ctx, store, "short", nil, client.StateConsistencyEventual)).Metadata["ttlExpireTime"]
	say("ttl", lives)
	say("ttl.wrong", outcome(dapr.SaveState(ctx, store, "short", []byte("1"), map[string]string{"ttlInSeconds": "soon"})))
	say("delete", outcome(dapr.DeleteState(ctx, store, "bytes", nil)))
	say("delete.absent", outcome(dapr.DeleteState(ctx, store, "bytes", nil)))

	// bulk
	items := make([]*client.SetStateItem, 20)
	keys := make([]string, 20)
	for n := range items {
		keys[n] = fmt.Sprintf("bulk-%02d", n)
		items[n] = &client.SetStateItem{Key: keys[n], Value: []byte(fmt.Sprint(n))}
	}
	must(dapr.SaveBulkState(ctx, store, items...))
	many := given(dapr.GetBulkState(ctx, store, append(keys, "absent"), nil, 4))
	sort.Slice(many, func(a, b int) bool { return many[a].Key < many[b].Key })
	say("bulk", []any{len(many), many[0].Key, len(many[0].Value), string(many[20].Value), many[20].Error})
	say("bulk.delete", outcome(dapr.DeleteBulkState(ctx, store, keys[:10], nil)))
	say("bulk.deleted", []string{value("bulk-00"), value("bulk-09"), value("bulk-10")})
	stale := []*client.DeleteStateItem{{Key: "bulk-10", Etag: &client.ETag{Value: "999"}}, {Key: "bulk-11"}}
	say("bulk.delete.stale", outcome(dapr.DeleteBulkStateItems(ctx, store, stale)))

	// etags
	say("etag.first", save("e", "1", ""))
	old := given(dapr.GetState(ctx, store, "e", nil)).Etag
	say("etag.right", save("e", "2", old))
	say("etag.stale", save("e", "3", old))
	say("etag.delete.stale", outcome(dapr.DeleteStateWithETag(ctx, store, "e", &client.ETag{Value: old}, nil, nil)))
	say("etag.kept", value("e"))
	now := given(dapr.GetState(ctx, store, "e", nil)).Etag
	say("etag.delete.right", outcome(dapr.DeleteStateWithETag(ctx, store, "e", &client.ETag{Value: now}, nil, nil)))
	first := client.WithConcurrency(client.StateConcurrencyFirstWrite)
	say("first.new", save("f", "1", "", first))
	say("first.again", save("f", "2", "", first))

	// transactions
	upsert := func(key, data string, etag *client.ETag) *client.StateOperation {
		item := &client.SetStateItem{Key: key, Value: []byte(data), Etag: etag}
		return &client.StateOperation{Type: client.StateOperationTypeUpsert, Item: item}
	}
	remove := &client.StateOperation{Type: client.StateOperationTypeDelete, Item: &client.SetStateItem{Key: "f"}}
	several := []*client.StateOperation{upsert("t1", "one", nil), remove}
	say("transaction", outcome(dapr.ExecuteStateTransaction(ctx, store, nil, several)))
	say("transaction.kept", []string{value("t1"), value("f")})
	lost := []*client.StateOperation{upsert("t1", "lost", nil), upsert("t2", "lost", &client.ETag{Value: "999"})}
	say("transaction.stale", outcome(dapr.ExecuteStateTransaction(ctx, store, nil, lost)))
	say("transaction.undone", []string{value("t1"), value("t2")})
	unknown := []*client.StateOperation{{Item: &client.SetStateItem{Key: "t1"}}}
	say("transaction.wrong", outcome(dapr.ExecuteStateTransaction(ctx, store, nil, unknown)))

	// queries
	for n, name := range []string{"Ann", "Ben", "Cem"} {
		document := given(json.Marshal(map[string]any{"name": name, "age": 20 + n}))
		must(dapr.SaveState(ctx, store, name, document, map[string]string{"contentType": "application/json"}))
	}
	query := `{"filter": {"IN": {"name": ["Ann", "Cem"]}}, "sort": [{"key": "age", "order": "DESC"}], "page": {"limit": 1%s}}`
	found := given(dapr.QueryStateAlpha1(ctx, store, fmt.Sprintf(query, ""), nil))
	rest := given(dapr.QueryStateAlpha1(ctx, store, fmt.Sprintf(query, `, "token": "`+found.Token+`"`), nil))
	say("query", []any{found.Results[0].Key, rest.Results[0].Key, json.RawMessage(rest.Results[0].Value)})
	say("query.wrong", tried(dapr.QueryStateAlpha1(ctx, store, `{"filter": {"LIKE": {"a": 1}}}`, nil)))

	// sizes, and many at a time
	long := bytes.Repeat([]byte("x"), 4*1024*1024-200)
	must(dapr.SaveState(ctx, store, "long", long, nil))
	say("long", bytes.Equal(given(dapr.GetState(ctx, store, "long", nil)).Value, long))
	say("too long", outcome(dapr.SaveState(ctx, store, "long", bytes.Repeat(long, 2), nil)))
	say("many", parallel(100, func(n int) bool {
		key, data := fmt.Sprintf("many-%d", n), fmt.Sprint(n)
		return dapr.SaveState(ctx, store, key, []byte(data), nil) == nil && value(key) == data
	}))

	// refusals
	say("store.unknown.get", tried(dapr.GetState(ctx, "nowhere", "k", nil)))
	say("store.unknown.save", outcome(dapr.SaveState(ctx, "nowhere", "k", nil, nil)))
	say("store.unknown.delete", outcome(dapr.DeleteBulkState(ctx, "nowhere", []string{"k"}, nil)))
	say("key.illegal", save("a||b", "1", ""))
}
