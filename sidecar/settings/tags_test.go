package settings_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// TestOwnTags: tags of other programs are kept beside those that are acted on, go over the
// file's, and what looks like a mistyped one of ours is refused.
func TestOwnTags(t *testing.T) {
	set, err := settings.Parse([]byte(`{"tags":{"n1":{"nosync":true,"sync_priority":3,"zone":"a","rack":7,"spot":true,"gone":""},"n2":{}}}`))
	if err != nil {
		t.Fatal(err)
	}
	over := set.Tags["n1"].Over(settings.Tags{Own: map[string]string{"zone": "b", "gone": "x", "stays": "y"}, SyncPriority: 1})
	want := settings.Tags{NoSync: true, SyncPriority: 3, Own: map[string]string{"zone": "a", "rack": "7", "spot": "true", "stays": "y"}}
	if !reflect.DeepEqual(over, want) {
		t.Errorf("got %+v, want %+v", over, want)
	}
	text, err := json.Marshal(set.Tags["n1"])
	if err != nil {
		t.Fatal(err)
	}
	again, err := settings.Parse([]byte(`{"tags":{"n1":` + string(text) + `}}`))
	if err != nil || !reflect.DeepEqual(again.Tags["n1"], set.Tags["n1"]) {
		t.Errorf("%s is read as %+v, %v", text, again.Tags["n1"], err)
	}
	for tag, want := range map[string]string{
		`"nofailver":true`: "Did you mean nofailover", `"replicate_from":"n2"`: "Did you mean replicatefrom", `"Zone":"a"`: "lower-case",
		`"zone":["a"]`: "it is text, a number", `"zone":"a\nb"`: "one line", `"failover_priority":3`: "a meaning of its own", `"sync_priority":0`: "1 or more", `"nosync":"yes"`: "cannot unmarshal",
	} {
		if _, err := settings.Parse([]byte(`{"tags":{"n1":{` + tag + `}}}`)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", tag, err, want)
		}
	}
	patch, err := settings.ParseWords([]string{"tags.n1.zone=a", "tags.n.2.nosync=true", "tags.n1.sync_priority=2"})
	if err != nil || string(patch) != `{"tags":{"n.2":{"nosync":true},"n1":{"sync_priority":2,"zone":"a"}}}` {
		t.Errorf("%s, %v", patch, err)
	}
}
