package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
)

// clientFlags are how a command finds a member's API, and who it says it is.
type clientFlags struct {
	app                                  *Process
	api, config                          string
	consul, cluster, service             string
	tokenFile, caFile, certFile, keyFile string
}

// connectionFlag marks flags that are explained once, by `pgsidecar help connection`.
const connectionFlag = "connection"

func (f *clientFlags) add(cmd *cobra.Command) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.StringVar(&f.api, "api", "", "`addresses` of members' APIs, tried in turn: host:port or https://host:port, with commas (default $PGSIDECAR_API, else from --config, else 127.0.0.1:8008)")
	flags.StringVar(&f.config, "config", "pg.hcl", "a member's configuration `file`, for its API's address and token, and for Consul, which names the others")
	flags.StringVar(&f.consul, "consul", "", "`addresses` of Consul, which names the members where no --api or --config does, or none of those answers (default $PGSIDECAR_CONSUL); Consul's own variables, such as CONSUL_HTTP_TOKEN, are read")
	flags.StringVar(&f.cluster, "consul-cluster", "pg", "the cluster's `name`, with --consul")
	flags.StringVar(&f.service, "consul-service", "", "the service's `name` in Consul, with --consul (default: the cluster's)")
	flags.StringVar(&f.tokenFile, "token-file", "", "`file` with the API's token (default $PGSIDECAR_TOKEN_FILE, else $PGSIDECAR_TOKEN, else from --config)")
	flags.StringVar(&f.caFile, "ca-file", "", "`file` with the authority of the API's certificates (default: from --config)")
	flags.StringVar(&f.certFile, "cert-file", "", "`file` with a client certificate (default: the member's own, from --config)")
	flags.StringVar(&f.keyFile, "key-file", "", "`file` with its key")
	flags.VisitAll(func(flag *pflag.Flag) { flag.Annotations = map[string][]string{connectionFlag: {}} })
	cmd.Flags().AddFlagSet(flags)
}

// client returns what asks the members.
func (f *clientFlags) client(cmd *cobra.Command) (*client.Client, error) {
	var o client.Options
	list := cmp.Or(f.api, f.app.Getenv("PGSIDECAR_API"))
	if file := cmp.Or(f.tokenFile, f.app.Getenv("PGSIDECAR_TOKEN_FILE")); file != "" {
		token, err := config.ReadSecretFile(file)
		if err != nil {
			return nil, usage("token: %w", err)
		}
		o.Token = token
	} else {
		o.Token = f.app.Getenv("PGSIDECAR_TOKEN")
	}
	o.Registry = f.registry()
	if list == "" {
		var err error
		if list, err = f.fromConfig(cmd, &o); err != nil {
			return nil, err
		}
	}
	for _, address := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		address = strings.TrimSuffix(address, "/")
		if rest, secure := strings.CutPrefix(address, "https://"); secure {
			address, o.Secure = rest, true
		}
		o.Addresses = append(o.Addresses, strings.TrimPrefix(address, "http://"))
	}
	if f.caFile != "" {
		o.Secure = true // and Consul names no scheme
	}
	var err error
	if o.TLS, err = client.TLSFiles(f.caFile, f.certFile, f.keyFile); err != nil {
		return nil, usageError{err}
	}
	return client.New(o), nil
}

// fromConfig takes address and token from the configuration file. That the
// file is not there matters only if it was named.
func (f *clientFlags) fromConfig(cmd *cobra.Command, o *client.Options) (string, error) {
	if _, err := os.Stat(f.config); errors.Is(err, fs.ErrNotExist) && !cmd.Flags().Changed("config") {
		if o.Registry != nil {
			return "", nil
		}
		o.Hint = "; say where one is: --api HOST:8008, --config /etc/pgsidecar/pg.hcl, or --consul HOST:8500"
		return "127.0.0.1:8008", nil
	}
	cfg, err := config.Load(f.config, process.Environment())
	if err != nil && o.Registry != nil && !cmd.Flags().Changed("config") {
		// One that happens to lie here: --consul names the members.
		fmt.Fprintf(f.app.Stderr, "pgsidecar: %s is not used, as it has faults (see them: pgsidecar config validate --config %s)\n", f.config, f.config)
		return "", nil
	}
	if err != nil {
		return "", reportFaults(f.app, err)
	}
	if o.Token == "" {
		o.Token = cfg.API.Token.Reveal()
	}
	if o.Registry == nil {
		o.Registry = registryOf(cfg)
	}
	if t := cfg.API.TLS; t.CertFile != "" {
		f.caFile = cmp.Or(f.caFile, t.Authority())
		if f.certFile == "" && f.keyFile == "" && readable(t.KeyFile) {
			f.certFile, f.keyFile = t.CertFile, t.KeyFile // the member's own
		}
		return "https://" + cfg.API.Advertise, nil
	}
	return cfg.API.Advertise, nil
}

// readable reports whether this user may read the file.
func readable(path string) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	file.Close()
	return true
}

// confirm asks a person to type a word before something that cannot be undone.
func confirm(a *Process, what, word string) error {
	fmt.Fprintf(a.Stderr, "%s\nType %s to continue: ", what, word)
	var typed string
	if _, err := fmt.Fscanln(a.Stdin, &typed); err != nil || typed != word {
		return errors.New("nothing was done; --yes skips this question")
	}
	return nil
}

// registryOf is what the configuration says of Consul.
func registryOf(cfg *config.Config) *client.Registry {
	return client.NewRegistry(process.Consul(cfg, hclog.NewNullLogger()))
}

// registry is what --consul and Consul's own environment variables say; nil: they
// say nothing.
func (f *clientFlags) registry() *client.Registry {
	list := cmp.Or(f.consul, f.app.Getenv("PGSIDECAR_CONSUL"))
	if list == "" {
		return nil
	}
	return client.RegistryAt(list, f.cluster, cmp.Or(f.service, f.cluster), f.app.Getenv)
}
