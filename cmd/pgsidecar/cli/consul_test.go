package cli

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
)

// consulAgent is a real Consul, for commands that read and write it.
type consulAgent struct {
	t   *testing.T
	url string
	*labtest.Consul
}

// startConsul starts one that ends with the test.
func startConsul(t *testing.T) *consulAgent {
	t.Helper()
	c := labtest.StartConsul(t, labtest.ConsulOptions{})
	return &consulAgent{t: t, url: c.URL(), Consul: c}
}

// put sends a body as JSON, or a text as it is.
func (c *consulAgent) put(path string, body any) error { return c.Put(c.t, path, body) }

func (c *consulAgent) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// until waits for something that has no event.
func (c *consulAgent) until(what string, ok func() bool) {
	c.t.Helper()
	labtest.Until(c.t, 30*time.Second, what, ok)
}
