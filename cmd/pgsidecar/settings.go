package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pgsidecar/pgsidecar/sidecar"
)

// errSettingsChanged is returned when the settings are no longer those that a
// person has seen.
var errSettingsChanged = errors.New("nothing was stored: somebody else changed the settings meanwhile")

// withClusterFlag gives `config show` the flag --cluster, and with it those by
// which a member is found.
func withClusterFlag(a *app, cmd *cobra.Command) *cobra.Command {
	var cluster bool
	api := clientFlags{app: a}
	var its cobra.Command
	api.add(&its)
	its.Flags().VisitAll(func(f *pflag.Flag) {
		if cmd.Flags().Lookup(f.Name) == nil { // --config is there
			cmd.Flags().AddFlag(f)
		}
	})
	cmd.Flags().BoolVar(&cluster, "cluster", false, "print the cluster-wide settings instead, as all members have them from Consul; JSON")
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
		_, err = a.stdout.Write(pretty(s.shown))
		return err
	}
	return cmd
}

// newConfigSetCommand returns `config set`.
func newConfigSetCommand(a *app) *cobra.Command {
	flags := clientFlags{app: a}
	var yes bool
	cmd := &cobra.Command{
		Use:   "set KEY=VALUE...",
		Short: "Change cluster-wide settings, of all members at once",
		Long: `Change cluster-wide settings, of all members at once. They are stored in Consul and
go before each member's pg.hcl. The change is checked, shown, and asked about
before it is stored. KEY= removes a setting: pg.hcl holds again. The keys:

  ` + strings.Join(settingNames(), "\n  "),
		Example: `  pgsidecar config set durability.standbys=2
  pgsidecar config set parameters.work_mem=64MB
  pgsidecar config set 'hba=["host all app 10.0.0.0/8 scram-sha-256"]'      # before those of pg.hcl
  pgsidecar config set 'slots.backup={"type":"physical"}'                  # on every member
  pgsidecar config set tags.n3.nofailover=true tags.n2.priority=10         # of one member, before its pg.hcl
  pgsidecar config set failover.automatic=false
  pgsidecar config set failover.failure_timeout=`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("which setting? For instance: pgsidecar config set durability.standbys=2; see %s --help", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			patch, err := settingsPatch(args)
			if err != nil {
				return err
			}
			s, err := openSettings(cmd, &flags)
			if err != nil {
				return err
			}
			next, err := mergePatch(s.shown, patch)
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

// settings are the cluster-wide settings as one member has them.
type settings struct {
	app     *app
	client  *client
	address string // of the member that is asked
	shown   []byte // what a person has seen
}

// openSettings reads the settings from the leader, or else from the first
// member that answers.
func openSettings(cmd *cobra.Command, flags *clientFlags) (*settings, error) {
	c, err := flags.client(cmd)
	if err != nil {
		return nil, err
	}
	st, err := c.status(cmd.Context())
	if err != nil {
		return nil, err
	}
	s := &settings{app: flags.app, client: c}
	var ok bool
	if s.address, ok = memberAPI(st, st.Member); !ok {
		s.address = c.addresses[0]
	}
	s.shown, err = s.read(cmd.Context())
	return s, err
}

func (s *settings) read(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	text, err := s.client.ask(ctx, http.MethodGet, s.address, "/config", nil)
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	if _, err := object(text); err != nil {
		return nil, fmt.Errorf("read settings of %s: %w", s.address, err)
	}
	return text, nil
}

// change checks the new settings, shows what is different, asks, and stores
// only the difference. It returns errSettingsChanged, with what else has
// changed, if the settings are no longer as shown.
func (s *settings) change(ctx context.Context, next []byte, yes bool) error {
	if _, err := checkSettings(next, 0); err != nil { // the member knows its server's version
		return fmt.Errorf("nothing was stored: %w", err)
	}
	if bytes.Equal(pretty(s.shown), pretty(next)) {
		_, err := fmt.Fprintln(s.app.stdout, "the settings are so already; nothing to change")
		return err
	}
	if !yes {
		if err := confirm(s.app, difference(pretty(s.shown), pretty(next))+"All members take this over at once.", "yes"); err != nil {
			return err
		}
	}
	now, err := s.read(ctx)
	if err != nil {
		return err
	}
	if !bytes.Equal(pretty(s.shown), pretty(now)) {
		return fmt.Errorf("%w. What they changed:\n%sRun the command again to see yours on top of it", errSettingsChanged,
			difference(pretty(s.shown), pretty(now)))
	}
	patch, err := patchBetween(s.shown, next)
	if err != nil {
		return err
	}
	if _, err := s.client.ask(ctx, http.MethodPatch, s.address, "/config", patch); err != nil {
		return fmt.Errorf("store settings: %w", err)
	}
	_, err = fmt.Fprintln(s.app.stdout, "stored; the members take it over by themselves")
	return err
}

// settingKeys are the settings that may be set one by one, by their keys with
// dots, as Settings has them. A map's key ends with a dot: names follow.
func settingKeys() map[string]reflect.Type {
	keys := map[string]reflect.Type{}
	var walk func(prefix string, t reflect.Type)
	walk = func(prefix string, t reflect.Type) {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch t.Kind() {
		case reflect.Struct:
			for f := range t.Fields() {
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				// The others have commands of their own.
				if key := prefix + name; key != "version" && key != "paused" && key != "switchover" {
					walk(key+".", f.Type)
				}
			}
		case reflect.Map:
			keys[prefix] = t.Elem()
		default:
			keys[strings.TrimSuffix(prefix, ".")] = t
		}
	}
	walk("", reflect.TypeFor[sidecar.Settings]())
	return keys
}

// settingNames are the keys for people, sorted.
func settingNames() []string {
	var names []string
	for key, kind := range settingKeys() {
		if !strings.HasSuffix(key, ".") {
			names = append(names, key+"="+kindName(kind))
			continue
		}
		if kind.Kind() != reflect.Struct {
			names = append(names, key+"NAME="+kindName(kind))
			continue
		}
		for f := range kind.Fields() {
			field, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			_, _, of := fieldOf(kind, "NAME."+field)
			names = append(names, key+"NAME."+field+"="+kindName(of))
		}
	}
	slices.Sort(names)
	return names
}

func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true|false"
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return "NUMBER"
	case reflect.String:
		return "TEXT"
	}
	return "JSON"
}

// settingsPatch turns words like durability.standbys=2 into a merge patch.
func settingsPatch(words []string) ([]byte, error) {
	keys := settingKeys()
	patch := map[string]any{}
	for _, word := range words {
		key, text, is := strings.Cut(word, "=")
		if !is {
			return nil, usage("%q: expected KEY=VALUE, or KEY= to remove the setting", word)
		}
		kind, path := keys[key], strings.Split(key, ".")
		if kind == nil || strings.HasSuffix(key, ".") {
			// A parameter's own name may have dots.
			group, name, _ := strings.Cut(key, ".")
			if kind = keys[group+"."]; kind == nil || name == "" {
				return nil, unknownSetting(key)
			}
			path = []string{group, name}
			if owner, field, of := fieldOf(kind, name); of != nil {
				path, kind = []string{group, owner, field}, of
			}
		}
		value, err := settingValue(kind, text)
		if err != nil {
			return nil, usage("%s: %w", word, err)
		}
		at := patch
		for _, step := range path[:len(path)-1] {
			inner, ok := at[step].(map[string]any)
			if !ok {
				inner = map[string]any{}
				at[step] = inner
			}
			at = inner
		}
		at[path[len(path)-1]] = value
	}
	return json.Marshal(patch)
}

// fieldOf splits a name like n1.nofailover, whose first part may have dots, where
// values of the kind have fields; its type is nil where they have not that one.
func fieldOf(kind reflect.Type, name string) (owner, field string, of reflect.Type) {
	i := strings.LastIndexByte(name, '.')
	if kind.Kind() != reflect.Struct || i <= 0 {
		return "", "", nil
	}
	for f := range kind.Fields() {
		if key, _, _ := strings.Cut(f.Tag.Get("json"), ","); key == name[i+1:] {
			of = f.Type
			if of.Kind() == reflect.Pointer {
				of = of.Elem()
			}
			return name[:i], key, of
		}
	}
	return "", "", nil
}

// unknownSetting says which settings there are, or which command is meant.
func unknownSetting(key string) error {
	switch group, _, _ := strings.Cut(key, "."); group {
	case "paused":
		return usage("%s is not set like this; type pgsidecar pause, or pgsidecar resume", key)
	case "switchover":
		return usage("%s is not set like this; type pgsidecar switchover --at TIME", key)
	}
	return usage("there is no setting %q; there are:\n  %s", key, strings.Join(settingNames(), "\n  "))
}

// settingValue reads a value of the kind that the setting has. An empty text
// is null, which removes the setting.
func settingValue(kind reflect.Type, text string) (any, error) {
	if text == "" {
		return nil, nil
	}
	switch kindName(kind) {
	case "true|false":
		value, err := strconv.ParseBool(text)
		if err != nil {
			return nil, errors.New("expected true or false")
		}
		return value, nil
	case "NUMBER":
		value, err := strconv.Atoi(text)
		if err != nil {
			return nil, errors.New("expected a whole number")
		}
		return value, nil
	case "TEXT":
		return text, nil
	}
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		if kind.Kind() == reflect.Slice {
			return nil, errors.New(`expected JSON: a list of lines, such as '["first line", "second line"]'`)
		}
		return nil, fmt.Errorf("expected JSON: %w", err)
	}
	return value, nil
}

// object reads a JSON object, its numbers as they are written.
func object(text []byte) (map[string]any, error) {
	var fields map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&fields); err != nil {
		return nil, fmt.Errorf("expected a JSON object: %w", err)
	}
	return fields, nil
}

// pretty writes an object with sorted keys, one a line. What is none it leaves.
func pretty(text []byte) []byte {
	fields, err := object(text)
	if err != nil {
		return text
	}
	b, err := json.MarshalIndent(fields, "", "  ")
	if err != nil {
		return text
	}
	return append(b, '\n')
}

// patchBetween is the merge patch (RFC 7396) that turns one object into another.
func patchBetween(from, to []byte) ([]byte, error) {
	old, err := object(from)
	if err != nil {
		return nil, err
	}
	next, err := object(to)
	if err != nil {
		return nil, err
	}
	return json.Marshal(changes(old, next))
}

func changes(old, next map[string]any) map[string]any {
	patch := map[string]any{}
	for key := range old {
		if _, kept := next[key]; !kept {
			patch[key] = nil
		}
	}
	for key, value := range next {
		before, was := old[key]
		inner, isObject := value.(map[string]any)
		outer, wasObject := before.(map[string]any)
		switch {
		case was && reflect.DeepEqual(before, value):
		case isObject && wasObject:
			patch[key] = changes(outer, inner)
		default:
			patch[key] = value
		}
	}
	return patch
}

// difference shows two texts as one: lines that go with a minus, lines that
// come with a plus, and all others.
func difference(old, next []byte) string {
	a, b := strings.Split(strings.TrimSuffix(string(old), "\n"), "\n"), strings.Split(strings.TrimSuffix(string(next), "\n"), "\n")
	// common[i][j] is how many lines a[i:] and b[j:] have in common, in order.
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			common[i][j] = max(common[i+1][j], common[i][j+1])
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	var out strings.Builder
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out.WriteString("  " + a[i] + "\n")
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			out.WriteString("- " + a[i] + "\n")
			i++
		default:
			out.WriteString("+ " + b[j] + "\n")
			j++
		}
	}
	return out.String()
}
