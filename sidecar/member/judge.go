package member

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
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
	apart := postgres.Apart(cfg.Postgres.StateDir, cfg.Postgres.DataDir)
	if apart != "" {
		apart = "\nnote: " + apart
	}
	return fmt.Sprintf("tried: the parameters (%d), with the PostgreSQL in %s; the files that it names\n"+
		"not tried: whether Consul answers, ports are free, and memory suffices; lines of ident, and of hba where the data directory has no server yet%s", len(cfg.Postgres.Parameters), where, apart)
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
	return checkStandbyCount(set.Durability, before.Durability, members)
}

func checkStandbyCount(d, was *settings.DurabilitySettings, members []string) error {
	if d == nil || d.Standbys == nil || was != nil && was.Standbys != nil && *was.Standbys == *d.Standbys {
		return nil
	}
	if most := len(members) - 1; *d.Standbys > max(most, 1) {
		return fmt.Errorf("durability.standbys %d: the cluster has %d members, so at most %d standbys can hold a commit; add members first", *d.Standbys, len(members), most)
	}
	return nil
}

// checkZones refuses to ask for more zones than the members are in, which would have all
// commits wait.
func checkZones(set, before settings.Settings, o *ha.Observation) error {
	d, was, zones := set.Durability, before.Durability, zonesOf(o, set)
	if d == nil || d.Zones == nil || *d.Zones <= 1 {
		return nil
	}
	if was != nil && was.Zones != nil && *was.Zones >= *d.Zones && maps.Equal(zones, zonesOf(o, before)) {
		return nil // it is so already
	}
	var unknown []string
	of := map[string]bool{}
	for _, m := range sorted(zones) {
		if zones[m] == "" {
			unknown = append(unknown, m)
		}
		of[zones[m]] = true
	}
	if len(unknown) > 0 {
		return fmt.Errorf("durability.zones %d: the zone of %s is not known; set it first: pgsidecar settings set tags.%s.zone=NAME", *d.Zones, strings.Join(unknown, ", "), unknown[0])
	}
	if len(of) < *d.Zones {
		return fmt.Errorf("durability.zones %d: the members are in only %d (%s), so commits would wait; add a member in another zone first", *d.Zones, len(of), strings.Join(sorted(of), ", "))
	}
	return nil
}

// zonesOf are the zones that the members on record say they are in, with the settings' own.
func zonesOf(o *ha.Observation, set settings.Settings) map[string]string {
	zones := map[string]string{}
	for _, m := range o.Consul.Record.Members {
		zones[m] = ""
	}
	zones[o.Self] = o.Policy.Zone
	for i := range o.Peers {
		if p := &o.Peers[i]; p.Report.Tags != nil {
			for _, t := range p.Report.Tags {
				if t.Name == ha.ZoneTag {
					zones[p.Member] = t.Value
				}
			}
		}
	}
	for m, t := range set.Tags {
		if zone, is := t.Own[ha.ZoneTag]; is {
			zones[m] = zone
		}
	}
	return zones
}
