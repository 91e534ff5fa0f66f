package proxy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/templates"
)

func topology(cfg *config.Config, v sessions.View, prior templates.Topology, lags map[string]uint64) (templates.Topology, error) {
	src := templates.Source{Cluster: cfg.Cluster, Service: cfg.Service.Name, Record: v.Consul.Record, Prior: prior, Lags: lags}
	for _, m := range v.Members {
		src.Registered = append(src.Registered, templates.Registration{
			Name: m.Name, Postgres: m.Postgres, API: m.API, Tags: m.Tags, Status: m.Status, Meta: m.Meta,
		})
	}
	return templates.Build(src)
}

func templateSettings(cfg *config.Config) (templates.Settings, error) {
	h := cfg.HAProxy
	settings := templates.HAProxySettings{
		Bind: h.Bind, PrimaryPort: h.PrimaryPort, ReplicaPort: h.ReplicaPort, StatsPort: h.StatsPort,
		Socket: h.Socket, AgentBind: h.AgentSocket, MaxConn: h.MaxConn, ConnectTimeout: h.ConnectTimeout,
		QueueTimeout: h.QueueTimeout, IdleTimeout: h.IdleTimeout, Resolvers: h.Resolvers, Global: h.Global,
		CheckCAFile: h.CheckCAFile, CheckCertFile: h.CheckCertFile,
	}
	// Where the state file is written is where HAProxy is to read it. Without a template
	// of its own it stands beside haproxy.cfg: after the machine's start HAProxy needs
	// both before we run, and what is beside its socket in /run is gone.
	for _, t := range cfg.Templates {
		switch {
		case t.Builtin == stateFile:
			settings.StateFile = t.Destination
		case t.ConfiguresHAProxy() && settings.StateFile == "":
			settings.StateFile = filepath.Join(filepath.Dir(t.Destination), cfg.Service.Name+".state")
		}
	}
	settings, err := settings.Complete(cfg.Service.Name)
	return templates.Settings{HAProxy: settings, PgBouncer: templates.PgBouncerSettings{Database: cfg.PgBouncer.Database}}, err
}

// stateFile is the built-in template that haproxy.cfg's cannot do without.
const stateFile = "haproxy.state"

// newPerms are the mode of a file that was not there, unless its template block says
// another: it may hold a password.
const newPerms = 0o640

// templateFiles reads the configured templates, and adds the state file of a
// built-in haproxy.cfg that comes without one.
func templateFiles(cfg *config.Config, s templates.Settings) ([]templates.File, error) {
	wanted := slices.Clone(cfg.Templates)
	isState := func(t config.Template) bool { return t.Builtin == stateFile }
	if i := slices.IndexFunc(wanted, config.Template.ConfiguresHAProxy); i >= 0 && !slices.ContainsFunc(wanted, isState) {
		wanted = slices.Insert(wanted, i, config.Template{Name: wanted[i].Name + "-state", Builtin: stateFile, Destination: s.HAProxy.StateFile})
	}
	var files []templates.File
	for _, t := range wanted {
		text, err := templateText(t)
		if err != nil {
			return nil, config.Fault("template %q: %w", t.Name, err)
		}
		parsed, err := templates.ParseTemplate(t.Name, text, templates.Delimiters{})
		if err != nil {
			return nil, config.Fault("template %q: %w", t.Name, err)
		}
		files = append(files, templates.File{
			Name: t.Name, Template: parsed, Destination: t.Destination, Check: t.Check, Command: t.Command,
			Timeout: t.Timeout, Perms: t.Perms, NewPerms: newPerms, User: t.User, Group: t.Group,
		})
	}
	return files, nil
}

func templateText(t config.Template) (string, error) {
	if t.Builtin != "" {
		text, err := templates.BuiltinText(t.Builtin)
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("there is no builtin %q; expected one of %s", t.Builtin, strings.Join(templates.Builtin(), ", "))
		}
		return text, err
	}
	b, err := os.ReadFile(t.Source)
	if err != nil {
		return "", fmt.Errorf("read it: %w", err)
	}
	return string(b), nil
}

// CheckBuiltins refuses a template of the configuration that this program has not.
func CheckBuiltins(cfg *config.Config) error {
	for _, t := range cfg.Templates {
		if t.Builtin != "" && !slices.Contains(templates.Builtin(), t.Builtin) {
			return fmt.Errorf("template %q: there is no builtin %q; expected one of %s", t.Name, t.Builtin, strings.Join(templates.Builtin(), ", "))
		}
	}
	return nil
}
