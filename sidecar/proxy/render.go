package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
	"github.com/pgsidecar/pgsidecar/templates"
)

// RenderOptions say what is shown.
type RenderOptions struct {
	Whole   bool          // whole files, not what would change in them
	Timeout time.Duration // how long to wait for Consul
}

// PrintBuiltin prints a file that is part of this program, or their names.
func PrintBuiltin(w io.Writer, name string) error {
	if name == "list" {
		_, err := fmt.Fprintln(w, strings.Join(append(templates.Builtin(), templates.ForConsulTemplate()...), "\n"))
		return err
	}
	text, err := templates.BuiltinText(name)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = templates.ForConsulTemplateText(name)
	}
	if err != nil {
		return config.Fault("no template %q; see --builtin list", name)
	}
	_, err = io.WriteString(w, text)
	return err
}

// Rendered is what a configured file would be.
type Rendered struct {
	Name        string `json:"template"`
	Destination string `json:"destination"`
	Content     string `json:"content,omitempty"` // with RenderOptions.Whole
	Differs     bool   `json:"differs"`           // from what stands at the destination
	Diff        string `json:"diff,omitempty"`    // without RenderOptions.Whole
}

// Render renders the files of the templates with these names, all if there are none.
// It returns those that could be rendered, also with an error.
func (o RenderOptions) Render(ctx context.Context, cfg *config.Config, names []string) ([]Rendered, error) {
	settings, err := templateSettings(cfg)
	if err != nil {
		return nil, err
	}
	files, err := templateFiles(cfg, settings)
	if err != nil {
		return nil, err
	}
	if files, err = chosen(files, names); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	c, err := openCatalog(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer c.close()
	t, err := c.topology(ctx, wantsLags(files))
	if err != nil {
		return nil, err
	}
	if wantsDistances(files, settings) {
		away := newDistances()
		away.farthest(t.Members) // says which to measure
		away.look(ctx)
		t.RoundTrip = away.farthest(t.Members)
	}
	page, err := templates.NewPage(t, settings)
	if err != nil {
		return nil, err
	}
	var all []Rendered
	var failed []error
	for i := range files {
		one, err := o.one(ctx, &files[i], page, c)
		if err != nil {
			failed = append(failed, fmt.Errorf("template %q: %w", files[i].Name, err))
			continue
		}
		all = append(all, one)
	}
	return all, errors.Join(failed...)
}

// chosen are the files with these names; all of them if none is given.
func chosen(files []templates.File, names []string) ([]templates.File, error) {
	if len(files) == 0 {
		return nil, config.Fault("the configuration has no template block")
	}
	if len(names) == 0 {
		return files, nil
	}
	var out []templates.File
	var known []string
	for _, f := range files {
		known = append(known, f.Name)
	}
	for _, name := range names {
		found := false
		for _, f := range files {
			if f.Name == name {
				out, found = append(out, f), true
			}
		}
		if !found {
			return nil, config.Fault("no template %q in the configuration; expected one of %s", name, strings.Join(known, ", "))
		}
	}
	return out, nil
}

// one renders one file, and compares it with what stands at its destination.
func (o RenderOptions) one(ctx context.Context, f *templates.File, page templates.Page, c *consulOnce) (Rendered, error) {
	content, err := c.render(ctx, f.Template, page)
	if err != nil {
		return Rendered{}, err
	}
	before, err := f.CurrentContent()
	if err != nil && !o.Whole {
		return Rendered{}, err
	}
	r := Rendered{Name: f.Name, Destination: f.Destination, Differs: err != nil || string(before) != string(content)}
	if o.Whole {
		r.Content = string(content)
	} else {
		r.Diff = templates.Diff(f.Destination, string(before), string(content))
	}
	return r, nil
}

// consulOnce reads of Consul what one rendering asks for.
type consulOnce struct {
	config  *config.Config
	client  *sessions.Client
	reader  *sessions.Reader
	far     *site         // nil: there is one site
	changed chan struct{} // has room for one
	cancel  context.CancelFunc
	all     sync.WaitGroup
}

// openCatalog begins to read. The caller must call close.
func openCatalog(ctx context.Context, cfg *config.Config) (*consulOnce, error) {
	quiet := cfg.Log
	quiet.Level = "error"
	client, err := sessions.New(process.Consul(cfg, process.Logger(quiet, io.Discard)))
	if err != nil {
		return nil, err
	}
	c := &consulOnce{config: cfg, client: client, changed: make(chan struct{}, 1)}
	ctx, c.cancel = context.WithCancel(ctx)
	wake := func() {
		select {
		case c.changed <- struct{}{}:
		default:
		}
	}
	if c.far, err = otherSite(cfg, process.Logger(quiet, io.Discard)); err != nil {
		c.cancel()
		return nil, err
	}
	if c.far != nil {
		c.all.Go(func() { c.far.client.Follow(ctx, wake) }) //nolint:errcheck // it ends with its context
	}
	c.reader = client.NewReader(wake)
	c.all.Go(func() { client.Follow(ctx, wake) }) //nolint:errcheck // it ends with its context
	c.all.Go(func() { c.reader.Run(ctx) })        //nolint:errcheck // it ends with its context
	return c, nil
}

func (c *consulOnce) close() {
	c.cancel()
	c.all.Wait()
}

// Render renders as soon as all that the template asks for has been read.
func (c *consulOnce) render(ctx context.Context, t *templates.Template, page templates.Page) ([]byte, error) {
	for {
		content, err := t.Render(ctx, page, templates.Env{Catalog: catalog{c.reader}})
		if !errors.Is(err, templates.ErrNotReady) || c.reader.Pending() == 0 {
			return content, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-c.changed:
		}
	}
}

// topology waits until record and members have been read once. With lags it asks a
// member's API for them.
func (c *consulOnce) topology(ctx context.Context, withLags bool) (templates.Topology, error) {
	for {
		v := c.client.View()
		if v.Consul.SeenAt != 0 && v.Members != nil {
			if v.Consul.Broken != "" {
				return templates.Topology{}, fmt.Errorf("the cluster's record: %s", v.Consul.Broken)
			}
			if !v.Consul.Record.Exists() {
				return templates.Topology{}, fmt.Errorf("there is no cluster %q in Consul under %q", c.config.Cluster, c.config.Consul.Prefix)
			}
			var known map[string]uint64
			if withLags {
				l := lagPoller{config: c.config}
				known, _ = l.ask(ctx, v) //nolint:errcheck // then they are not known, as for the proxy
			}
			if c.far == nil {
				return topology(c.config, v, templates.Topology{}, known)
			}
			if t, is, err := c.both(v, known); is {
				return t, err
			}
		}
		select {
		case <-ctx.Done():
			return templates.Topology{}, errors.Join(fmt.Errorf("read the cluster from Consul: %w", ctx.Err()), v.Err)
		case <-c.changed:
		}
	}
}

// both is the topology of two sites; false: the other site has not been read yet.
func (c *consulOnce) both(v sessions.View, lags map[string]uint64) (t templates.Topology, is bool, err error) {
	near, now := new(site), guard.Now()
	err = errors.Join(near.see(c.config, v, lags, now), c.far.see(c.config, c.far.client.View(), nil, now))
	if !near.fresh || !c.far.fresh {
		return t, false, nil
	}
	t, _, is = across(near, c.far)
	return t, is, err
}
