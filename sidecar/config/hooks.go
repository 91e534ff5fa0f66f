package config

import (
	"net/url"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/pgsidecar/pgsidecar/sidecar/hooks"
)

const (
	defaultHookTimeout   = 10 * time.Second
	defaultNoticeTimeout = 5 * time.Second
)

func hookDefaults(name string) hooks.Hook {
	return hooks.Hook{Name: name, Timeout: defaultHookTimeout}
}

func noticeDefaults(name string) hooks.Notice {
	return hooks.Notice{Name: name, Timeout: defaultNoticeTimeout, Format: hooks.FormatJSON}
}

// hookBlocks are those that a member's file may have.
func (r *reader) hookBlocks(c *Config) []block {
	return []block{
		{name: "hook", labelled: true, read: func(b *hclsyntax.Body, path, name string) {
			h, failure := hookDefaults(name), "continue"
			r.body(b, path, []field{
				choices("on", &h.On, hooks.Kinds),
				list("command", &h.Command),
				text("user", &h.User),
				duration("timeout", &h.Timeout),
				choice("on_failure", &failure, "continue", "abort"),
			}, nil)
			h.Abort = failure == "abort"
			c.Hooks = append(c.Hooks, h)
		}},
		{name: "notify", labelled: true, read: func(b *hclsyntax.Body, path, name string) {
			n := noticeDefaults(name)
			r.body(b, path, []field{
				choices("on", &n.On, toldLater()),
				text("webhook", &n.URL), // file("…"), where it is a secret by itself
				choice("format", &n.Format, hooks.Formats...),
				r.path("key_file", &n.KeyFile),
				duration("timeout", &n.Timeout),
			}, nil)
			c.Notices = append(c.Notices, n)
		}},
	}
}

// toldLater are the kinds that nothing waits for.
func toldLater() []hooks.Kind {
	return slices.DeleteFunc(slices.Clone(hooks.Kinds), hooks.Kind.Waits)
}

// deriveHooks runs commands as PostgreSQL's user, as Patroni's callbacks do.
func deriveHooks(c *Config) {
	for i := range c.Hooks {
		if c.Hooks[i].User == "" {
			c.Hooks[i].User = c.Postgres.User
		}
	}
}

func (r *reader) checkHooks(c *Config) {
	for _, h := range c.Hooks {
		path := join("hook", h.Name)
		r.require(len(h.On) > 0, path, `hook %q: expected on = ["primary", …]`, h.Name)
		r.require(len(h.Command) > 0 && filepath.IsAbs(h.Command[0]), path+".command",
			`hook %q: expected command = ["/absolute/path", "argument"…]`, h.Name)
		r.require(h.Timeout > 0, path+".timeout", "hook %q: expected a timeout above zero", h.Name)
		r.require(!h.Abort || slices.Contains(h.On, hooks.BeforePromote), path+".on_failure",
			`hook %q: only before_promote can be aborted`, h.Name)
	}
	for _, n := range c.Notices {
		path := join("notify", n.Name)
		r.require(len(n.On) > 0, path, `notify %q: expected on = ["failover", …]`, n.Name)
		u, err := url.Parse(n.URL)
		r.require(err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil, path+".webhook",
			`notify %q: expected webhook = "https://host/path", without a user or a password`, n.Name)
		r.require(n.Timeout > 0, path+".timeout", "notify %q: expected a timeout above zero", n.Name)
		needs := n.Format == hooks.FormatPagerDuty || n.Format == hooks.FormatOpsgenie
		r.require(!needs || n.KeyFile != "", path+".format", "notify %q: format %s needs key_file", n.Name, n.Format)
	}
}

func (w *writer) hooks(c *Config) {
	for _, h := range c.Hooks {
		b := w.labelled("hook", h.Name)
		b.set("on", words(h.On))
		b.set("command", h.Command)
		b.set("user", h.User)
		b.set("timeout", h.Timeout)
		if h.Abort {
			b.set("on_failure", "abort")
		}
	}
	for _, n := range c.Notices {
		b := w.labelled("notify", n.Name)
		b.set("on", words(n.On))
		b.secret("webhook", "", NewSecret(n.URL))
		b.set("format", n.Format)
		b.set("key_file", n.KeyFile)
		b.set("timeout", n.Timeout)
	}
	w.trace(&c.Trace)
}

func words[T ~string](of []T) []string {
	all := make([]string, len(of))
	for i, w := range of {
		all[i] = string(w)
	}
	return all
}
