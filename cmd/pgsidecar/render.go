package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/templates"
)

// newRenderCommand returns `render`: what proxy would write.
func newRenderCommand(a *app) *cobra.Command {
	var o renderOptions
	cmd := &cobra.Command{
		Use:   "render [TEMPLATE ...]",
		Short: "Show what the configured files would be, beside what they are; write nothing",
		Long: `Show what the configured files would be for the cluster as it is now, as a
difference to what stands at their destinations. Nothing is written, checked or
run. Name templates to see only those.

With --builtin, print the text of a template that pgsidecar brings, to begin your
own with, or of one of the files for consul-template and Nomad.

Exit status: 0 if nothing would change, 3 if something would.`,
		RunE: func(cmd *cobra.Command, names []string) error {
			if o.builtin != "" {
				return printBuiltin(a.stdout, o.builtin)
			}
			cfg, err := loadEither(a, o.path)
			if err != nil {
				return err
			}
			return o.render(cmd.Context(), a, cfg, names)
		},
	}
	cmd.Flags().StringVar(&o.path, "config", "proxy.hcl", "the proxy's configuration `file`, or a member's")
	cmd.Flags().StringVar(&o.builtin, "builtin", "", "print the template `name`, or \"list\" for the names")
	cmd.Flags().BoolVar(&o.whole, "whole", false, "print the whole files, not the difference")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 10*time.Second, "how long to wait for Consul")
	return cmd
}

// exitDiffers is render's status when something would change.
const exitDiffers = 3

type renderOptions struct {
	path    string
	builtin string
	whole   bool
	timeout time.Duration
}

// printBuiltin prints a file that is part of this program, or their names.
func printBuiltin(w io.Writer, name string) error {
	if name == "list" {
		_, err := fmt.Fprintln(w, strings.Join(append(templates.Builtin(), templates.ForConsulTemplate()...), "\n"))
		return err
	}
	text, err := templates.BuiltinText(name)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = templates.ForConsulTemplateText(name)
	}
	if err != nil {
		return usage("no template %q; see --builtin list", name)
	}
	_, err = io.WriteString(w, text)
	return err
}

func (o renderOptions) render(ctx context.Context, a *app, cfg *config.Config, names []string) error {
	settings, err := templateSettings(cfg)
	if err != nil {
		return err
	}
	files, err := templateFiles(cfg, settings)
	if err != nil {
		return err
	}
	if files, err = chosen(files, names); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	c, err := openCatalog(ctx, cfg)
	if err != nil {
		return err
	}
	defer c.close()
	t, err := c.topology(ctx, wantsLags(files))
	if err != nil {
		return err
	}
	page, err := templates.NewPage(t, settings)
	if err != nil {
		return err
	}
	var failed []error
	differs := false
	for i := range files {
		changed, err := o.show(ctx, a.stdout, &files[i], page, c)
		if err != nil {
			failed = append(failed, fmt.Errorf("template %q: %w", files[i].Name, err))
		}
		differs = differs || changed
	}
	if len(failed) == 0 && differs && !o.whole {
		return exitStatus(exitDiffers)
	}
	return errors.Join(failed...)
}

// chosen are the files with these names; all of them if none is given.
func chosen(files []templates.File, names []string) ([]templates.File, error) {
	if len(files) == 0 {
		return nil, usage("the configuration has no template block")
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
			return nil, usage("no template %q in the configuration; expected one of %s", name, strings.Join(known, ", "))
		}
	}
	return out, nil
}

// show prints one file, or how it would change. It reports whether it would.
func (o renderOptions) show(ctx context.Context, w io.Writer, f *templates.File, page templates.Page, c *consulOnce) (bool, error) {
	content, err := c.render(ctx, f.Template, page)
	if err != nil {
		return false, err
	}
	if o.whole {
		_, err := fmt.Fprintf(w, "==> %s <==\n%s", f.Destination, content)
		return false, err
	}
	before, err := f.CurrentContent()
	if err != nil {
		return false, err
	}
	diff := templates.Diff(f.Destination, string(before), string(content))
	_, err = io.WriteString(w, diff)
	return diff != "", err
}

// consulOnce reads of Consul what one rendering asks for.
type consulOnce struct {
	config  *config.Config
	client  *sessions.Client
	reader  *sessions.Reader
	changed chan struct{} // has room for one
	cancel  context.CancelFunc
	all     sync.WaitGroup
}

// openCatalog begins to read. The caller must call close.
func openCatalog(ctx context.Context, cfg *config.Config) (*consulOnce, error) {
	quiet := cfg.Log
	quiet.Level = "error"
	client, err := sessions.New(sessionsOptions(cfg, newLogger(&app{stderr: io.Discard}, quiet)))
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
	c.reader = client.NewReader(wake)
	c.all.Go(func() { client.Follow(ctx, wake) }) //nolint:errcheck // it ends with its context
	c.all.Go(func() { c.reader.Run(ctx) })        //nolint:errcheck // it ends with its context
	return c, nil
}

func (c *consulOnce) close() {
	c.cancel()
	c.all.Wait()
}

// render renders as soon as all that the template asks for has been read.
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
				l := lags{config: c.config}
				known, _ = l.ask(ctx, v) //nolint:errcheck // then they are not known, as for the proxy
			}
			return topology(c.config, v, templates.Topology{}, known)
		}
		select {
		case <-ctx.Done():
			return templates.Topology{}, errors.Join(fmt.Errorf("read the cluster from Consul: %w", ctx.Err()), v.Err)
		case <-c.changed:
		}
	}
}
