package process

import (
	"io"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/nomad"
	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
)

func Logger(cfg config.Log, to io.Writer) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Level: hclog.LevelFromString(cfg.Level), JSONFormat: cfg.Format == "json", Output: to,
		TimeFormat: LogTime,
	})
}

func Consul(cfg *config.Config, log hclog.Logger) sessions.Options {
	scheme := "http"
	if cfg.Consul.Secure {
		scheme = "https"
	}
	return sessions.Options{
		Addresses: cfg.Consul.Addresses, CAFile: cfg.Consul.TLS.CAFile, CertFile: cfg.Consul.TLS.CertFile,
		KeyFile: cfg.Consul.TLS.KeyFile, ServerName: cfg.Consul.TLS.ServerName, Insecure: cfg.Consul.TLS.Insecure, Scheme: scheme, Datacenter: cfg.Consul.Datacenter,
		Token: cfg.Consul.Token.Reveal(), TokenFile: cfg.Consul.TokenFile,
		Prefix: cfg.Consul.Prefix, Cluster: cfg.Cluster, Member: cfg.Member, Service: cfg.Service.Name,
		TTL: cfg.Consul.SessionTTL, Now: guard.Now, Logger: log,
	}
}

// Password reads an account's password: from its file, which may have changed.
func Password(account config.Account) (string, error) {
	if account.PasswordFile == "" {
		return account.Password.Reveal(), nil
	}
	return config.ReadSecretFile(account.PasswordFile)
}

// LogTime is how each line of a log begins.
const LogTime = "2006-01-02T15:04:05.000Z07:00"

// Environment is this process's environment, and what its Nomad allocation says
// if it is in one.
func Environment() config.Environment {
	env := config.OSEnvironment()
	env.BinDir = postgres.BinDir
	// A wrong value is said by run (newTask); all others need none of those.
	a, in, _ := nomad.FromEnvironment(env.Getenv)
	if !in {
		return env
	}
	env.Task = &config.Task{
		Cluster: a.Cluster(), DataDir: a.DataDir(), Member: a.Member, Port: a.Port, Secret: a.Secret, StopTimeout: a.StopTimeout(),
	}
	return env
}
