package member

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/parameters"
	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// judge is one for the process: it keeps what PostgreSQL's programs answered.
var judge parameters.Judge

// environment is the process's, in which a configuration is held against the machine
// too: the files that it names, and what PostgreSQL's program makes of its parameters.
func environment() config.Environment {
	env := process.Environment().Look()
	env.Refused = func(binDir string, set map[string]string) (map[string]error, error) {
		return judge.Refused(context.Background(), binDir, set)
	}
	return env
}

// Validate reads a file and makes its member as `run` does, and runs nothing: what one
// refuses the other does, with the same words.
func Validate(path, version string) (*config.Config, error) {
	m, err := New(path, version, io.Discard)
	if err != nil {
		return nil, err
	}
	files, err := postgres.New(serverOptions(m.config, nil, m.log))
	if err != nil {
		return nil, asFault(path, err)
	}
	err = files.TryRules(context.Background(), postgres.Settings{HBA: m.config.Postgres.HBA})
	if errors.Is(err, postgres.ErrSetting) {
		return nil, asFault(path, err)
	}
	return m.config, nil
}

// Tried says what Validate has tried, for people.
func Tried(cfg *config.Config) string {
	where := cfg.Postgres.BinDir
	if where == "" {
		where = "the directories on PATH"
	}
	return fmt.Sprintf("tried: the parameters (%d), with the PostgreSQL in %s; the files that it names\n"+
		"not tried: whether Consul answers, ports are free, and memory suffices; lines of ident, and of hba where the data directory has no server yet", len(cfg.Postgres.Parameters), where)
}

// JudgeSettings checks cluster-wide settings before they are stored, as CheckSettings
// does, and asks the server program in a directory about the parameters: it refuses what
// Validate refuses, with the same words.
func JudgeSettings(ctx context.Context, raw []byte, version int, binDir string) (settings.Settings, error) {
	set, err := CheckSettings(raw, version)
	if err != nil {
		return set, err
	}
	refused, err := judge.Refused(ctx, binDir, set.Parameters)
	return set, cmp.Or(err, parameters.First(refused))
}

// asFault makes an error of what a configuration asks for one of the configuration:
// both `run` and `config validate` then end with status 2.
func asFault(path string, err error) error {
	if err == nil || errors.Is(err, config.ErrConfig) {
		return err
	}
	return config.Fault("%s: %w", path, err)
}

// checkMembers refuses settings that name members which the cluster does not have, and
// more standbys than it has. What was stored before is not looked at again.
func checkMembers(set, before settings.Settings, members []string) error {
	there := fmt.Sprintf("there are %s", strings.Join(members, ", "))
	for _, name := range sorted(set.Tags) {
		if _, old := before.Tags[name]; !old && !slices.Contains(members, name) {
			return fmt.Errorf("tags.%s: there is no member %s; %s. Tags of a member that is to come belong into its pg.hcl", name, name, there)
		}
		from, was := set.Tags[name].ReplicateFrom, before.Tags[name].ReplicateFrom
		if from != nil && *from != "" && !slices.Contains(members, *from) && (was == nil || *was != *from) {
			return fmt.Errorf("tags.%s.replicatefrom: there is no member %s; %s", name, *from, there)
		}
	}
	d, was := set.Durability, before.Durability
	if d == nil || d.Standbys == nil || was != nil && was.Standbys != nil && *was.Standbys == *d.Standbys {
		return nil
	}
	if most := len(members) - 1; *d.Standbys > max(most, 1) {
		return fmt.Errorf("durability.standbys %d: the cluster has %d members, so at most %d standbys can hold a commit; add members first", *d.Standbys, len(members), most)
	}
	return nil
}
