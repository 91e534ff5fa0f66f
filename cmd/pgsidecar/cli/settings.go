package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/member"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// errSettingsChanged is returned when the settings are no longer those that a
// person has seen.
var errSettingsChanged = errors.New("nothing was stored: somebody else changed the settings meanwhile")

// newSettingsCommand returns `settings` and the commands under it.
func newSettingsCommand(a *Process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "settings",
		Short: "Show or change the settings of all members",
		Long: `Show or change the cluster-wide settings. They are stored in Consul, and each member
takes them over at once; they override the member's pg.hcl.`,
		Args: needCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSettingsShowCommand(a), newSettingsSetCommand(a), newSettingsEditCommand(a), newSettingsHistoryCommand(a))
	return cmd
}

// newSettingsShowCommand returns `settings show`.
func newSettingsShowCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var format output
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the settings of all members",
		Long: `Print the cluster-wide settings, each as "pgsidecar settings set" takes it. What is not
listed is what each member's pg.hcl says.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := openSettings(cmd, &flags)
			if err != nil {
				return err
			}
			all, err := settings.Object(s.shown)
			if err != nil {
				return err
			}
			if !format.forPeople() {
				return format.write(a.Stdout, all)
			}
			words := settingWords("", all)
			if len(words) == 0 {
				words = []string{"no cluster-wide settings; each member's pg.hcl holds"}
			}
			_, err = io.WriteString(a.Stdout, strings.Join(words, "\n")+"\n")
			return err
		},
	}
	flags.add(cmd)
	format.flag(cmd)
	return cmd
}

// settingWords are the words that set what an object has, sorted.
func settingWords(prefix string, object map[string]any) []string {
	var words []string
	for _, key := range slices.Sorted(maps.Keys(object)) {
		switch value := object[key].(type) {
		case map[string]any:
			words = append(words, settingWords(prefix+key+".", value)...)
		case string:
			words = append(words, prefix+key+"="+value)
		default:
			text, err := json.Marshal(value)
			if err != nil {
				panic(err) // it was JSON
			}
			words = append(words, prefix+key+"="+string(text))
		}
	}
	return words
}

// newSettingsHistoryCommand returns `settings history`.
func newSettingsHistoryCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var format output
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List who changed which setting, and when",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.client(cmd)
			if err != nil {
				return err
			}
			st, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			return showChanges(cmd.Context(), c, st, format, a.Stdout)
		},
	}
	flags.add(cmd)
	format.flag(cmd)
	return cmd
}

// hidden hides a command that goes on under its former name.
func hidden(cmd *cobra.Command) *cobra.Command {
	cmd.Hidden = true
	return cmd
}

// withClusterFlag gives `config show` the hidden flag --cluster, which is the former
// name of `settings show`, and with it those by which a member is found.
func withClusterFlag(a *Process, cmd *cobra.Command) *cobra.Command {
	var cluster bool
	api := clientFlags{app: a}
	var its cobra.Command
	api.add(&its)
	its.Flags().BoolVar(&cluster, "cluster", false, "print the cluster-wide settings instead")
	its.Flags().VisitAll(func(f *pflag.Flag) {
		if cmd.Flags().Lookup(f.Name) == nil { // --config is there
			f.Hidden = true
			cmd.Flags().AddFlag(f)
		}
	})
	own := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !cluster {
			return own(cmd, args)
		}
		api.config = cmd.Flag("config").Value.String()
		s, err := openSettings(cmd, &api)
		if err != nil {
			return err
		}
		_, err = a.Stdout.Write(settings.Pretty(s.shown))
		return err
	}
	return cmd
}

// newSettingsSetCommand returns `settings set`.
func newSettingsSetCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var yes bool
	cmd := &cobra.Command{
		Use:   "set KEY=VALUE...",
		Short: "Change cluster-wide settings, of all members at once",
		Long: `Change cluster-wide settings, of all members at once. They are stored in Consul and
override each member's pg.hcl. The change is checked, shown, and asked about
before it is stored. KEY= removes a setting: pg.hcl holds again. The keys:

  ` + strings.Join(settings.Names(), "\n  "),
		Example: `  pgsidecar settings set durability.standbys=2
  pgsidecar settings set parameters.work_mem=64MB
  pgsidecar settings set 'hba=["host all app 10.0.0.0/8 scram-sha-256"]'      # before pg.hcl's
  pgsidecar settings set 'slots.backup={"type":"physical"}'                  # on each member
  pgsidecar settings set tags.n3.nofailover=true tags.n2.priority=10
  pgsidecar settings set failover.automatic=false
  pgsidecar settings set failover.failure_timeout=`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("which setting? For instance: pgsidecar settings set durability.standbys=2; see %s --help", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			patch, err := settings.ParseWords(args)
			if err != nil {
				return usageError{err}
			}
			s, err := openSettings(cmd, &flags)
			if err != nil {
				return err
			}
			next, err := settings.Merge(s.shown, patch)
			if err != nil {
				return err
			}
			return s.change(cmd.Context(), next, yes)
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// clusterSettings are the cluster-wide settings as one member has them.
type clusterSettings struct {
	app     *Process
	client  *client.Client
	address string // of the member that is asked
	shown   []byte // what a person has seen
	untried string // members that do not answer, so that they have tried nothing
}

// openSettings reads the settings from the leader, or else from the first
// member that answers.
func openSettings(cmd *cobra.Command, flags *clientFlags) (*clusterSettings, error) {
	c, err := flags.client(cmd)
	if err != nil {
		return nil, err
	}
	st, err := c.Status(cmd.Context())
	if err != nil {
		return nil, err
	}
	s := &clusterSettings{app: flags.app, client: c, address: c.Answered(st)}
	var silent []string
	for _, m := range st.Members {
		if m.Link == "silent" || m.Link == "refused" {
			silent = append(silent, m.Member)
		}
	}
	if len(silent) > 0 {
		s.untried = "; not tried on " + strings.Join(silent, ", ") + ", which cannot be reached"
	}
	s.shown, err = s.read(cmd.Context())
	return s, err
}

func (s *clusterSettings) read(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, client.AskTimeout)
	defer cancel()
	text, err := s.client.Ask(ctx, http.MethodGet, s.address, "/config", nil)
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	if _, err := settings.Object(text); err != nil {
		return nil, fmt.Errorf("read settings of %s: %w", s.address, err)
	}
	return text, nil
}

// change checks the new settings, shows what is different, asks, and stores
// only the difference. It returns errSettingsChanged, with what else has
// changed, if the settings are no longer as shown.
func (s *clusterSettings) change(ctx context.Context, next []byte, yes bool) error {
	if _, err := member.CheckSettings(next, 0); err != nil { // the member knows its server's version
		return fmt.Errorf("nothing was stored: %w", err)
	}
	if bytes.Equal(settings.Pretty(s.shown), settings.Pretty(next)) {
		_, err := fmt.Fprintln(s.app.Stdout, "already set; nothing to change")
		return err
	}
	if !yes {
		if err := confirm(s.app, settings.Difference(settings.Pretty(s.shown), settings.Pretty(next))+"All members take this over at once.", "yes"); err != nil {
			return err
		}
	}
	now, err := s.read(ctx)
	if err != nil {
		return err
	}
	if !bytes.Equal(settings.Pretty(s.shown), settings.Pretty(now)) {
		return fmt.Errorf("%w. What they changed:\n%sRun the command again to see yours on top of it", errSettingsChanged,
			settings.Difference(settings.Pretty(s.shown), settings.Pretty(now)))
	}
	patch, err := settings.PatchBetween(s.shown, next)
	if err != nil {
		return err
	}
	if _, err := s.client.Ask(ctx, http.MethodPatch, s.address, "/config", patch); err != nil {
		return fmt.Errorf("store settings: %w", err)
	}
	_, err = fmt.Fprintln(s.app.Stdout, "stored; the members take it over by themselves"+s.untried)
	return err
}
