package member

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestRefusedSettings: a member whose server refuses the cluster's settings says so in its
// status, before it is to lead; and no more when they have been taken back.
func TestRefusedSettings(t *testing.T) {
	a := newAlone(t)
	defer a.run()()
	text, err := os.ReadFile(a.path)
	if err != nil {
		t.Fatal(err)
	}
	consul := regexp.MustCompile(`address = \["([^"]+)"\]`).FindStringSubmatch(string(text))[1]
	store := func(settings string) { // past all that checks it, as an older version may have
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, fmt.Sprintf("http://%s/v1/kv/pgsidecar/pg/config", consul), strings.NewReader(settings))
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := res.Body.Close(); err != nil || res.StatusCode != http.StatusOK {
			t.Fatal(err, res.Status)
		}
	}
	says := func(words string) func() bool {
		return func() bool {
			st, err := a.client.StatusOf(t.Context(), a.api)
			return err == nil && (words == "" && st.ConfigProblem == "" || words != "" && strings.Contains(st.ConfigProblem, words))
		}
	}
	store(`{"parameters": {"lc_messages": "xx_NOSUCH"}}`)
	a.until("word of the refused settings", says("the cluster's settings (pgsidecar settings show): "))
	a.until("the parameter", says("lc_messages"))
	store(`{"parameters": {}}`)
	a.until("nothing more to say", says(""))
}
