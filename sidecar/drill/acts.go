package drill

import (
	"context"
	crand "crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// operator does at random what the people do who run a cluster: by pgsidecar's commands,
// by PostgreSQL's, and with an editor.
type operator struct {
	draw *rand.Rand
}

// acts returns what an operator does. Each act is a scenario: Undo is how he sets right
// what was wrong, and Check what he must be able to see before.
func (o *operator) acts() []Scenario {
	acts := []Scenario{o.setting(), o.wrongSetting(), o.restart(), o.switchover(), o.pause(), o.pauseMember(), o.reinit(), o.sidecar(), o.agents(),
		o.consulMaintenance(), o.pgCtl(), o.wrongFile(), o.wrongConfig(), o.password(), o.certificate(), o.leaves(), o.moves(), o.renamed()}
	for _, s := range byHandScenarios() {
		if s.Name != "replica-written" { // kills the primary
			acts = append(acts, s)
		}
	}
	return acts
}

func one[T any](draw *rand.Rand, of []T) T { return of[draw.IntN(len(of))] }

// member is any of the cast.
func (o *operator) member(c Cast) string {
	return one(o.draw, append([]string{c.Primary}, c.Replicas...))
}

// types runs a command of pgsidecar on a member's host.
func types(ctx context.Context, c Cast, on string, args ...string) error {
	_, err := c.Lab.Pgsidecar(ctx, on, "yes", args...)
	return err
}

// anywhere runs a command of pgsidecar on the first member's host where it is done: what
// another act has broken may keep it from that on one of them.
func anywhere(ctx context.Context, c Cast, args ...string) (said string, err error) {
	for _, on := range append([]string{c.Primary}, c.Replicas...) {
		if said, err = c.Lab.Pgsidecar(ctx, on, "yes", args...); err == nil {
			return said, nil
		}
	}
	return said, err
}

// shown waits until the status that pgsidecar shows has all of the words, with one blank
// between two columns.
func shown(ctx context.Context, c Cast, words ...string) error { return shownOne(ctx, c, words) }

// shownOne waits until it has all words of one of the lists.
func shownOne(ctx context.Context, c Cast, lists ...[]string) error {
	var last string
	var failed error // why it did not say anything, the last time
	_, err := waitUntil(ctx, func() (int, error) {
		said, err := anywhere(ctx, c, "status")
		if err != nil {
			if ctx.Err() == nil {
				failed = err
			}
			return 0, nil // it is asked again
		}
		last, failed = said, nil
		columns := strings.Join(strings.Fields(said), " ")
		lacks := func(word string) bool { return !strings.Contains(columns, word) }
		if slices.ContainsFunc(lists, func(words []string) bool { return !slices.ContainsFunc(words, lacks) }) {
			return 1, nil
		}
		return 0, nil
	}, func(is int) bool { return is == 1 })
	if err != nil {
		return fmt.Errorf("wait until status names %q: %w; it said:\n%s", lists, errors.Join(err, failed), last)
	}
	return nil
}

// setting stores a setting that is right, and takes it back.
func (o *operator) setting() Scenario {
	var key string
	return Scenario{
		Name: "setting", Why: "a setting is stored for all members, and taken back", Expect: Either,
		Fault: func(ctx context.Context, c Cast) error {
			kv := one(o.draw, []string{"parameters.work_mem=8MB", "parameters.log_lock_waits=on", "parameters.max_connections=120", "parameters.max_wal_senders=24",
				"parameters.hot_standby_feedback=on", "parameters.shared_preload_libraries=auto_explain", "durability.standbys=2", "durability.strict=false",
				"failover.max_lag=16MB", "tags." + c.Replicas[0] + ".nofailover=true", "tags." + c.Replicas[0] + ".nosync=true", "tags." + c.Replicas[0] + ".priority=5",
				`hba=["host all nobody 127.0.0.1/32 reject"]`, `slots.other={"type":"physical"}`})
			key, _, _ = strings.Cut(kv, "=")
			return types(ctx, c, o.member(c), "settings", "set", kv, "--yes")
		},
		Undo: func(ctx context.Context, c Cast) error {
			_, err := anywhere(ctx, c, "settings", "set", key+"=", "--yes")
			return err
		},
	}
}

// wrongSetting stores one that must be refused.
func (o *operator) wrongSetting() Scenario {
	return Scenario{
		Name: "setting-wrong", Why: "a setting is stored that is wrong: it is refused", Expect: Stays,
		Fault: func(ctx context.Context, c Cast) error {
			kv := one(o.draw, []string{"parameters.max_conections=1", "parameters.work_mem=12XB", "parameters.session_preload_libraries=nosuch",
				"parameters.shared_preload_libraries=nosuch", "parameters.shared_buffers=900TB", "durability.standbys=9", "failover.lease=1ms", "tags.n77.nofailover=true",
				`hba=["host all all 10.0.0.0/8 sram"]`, "parameters.port=5999", "parameters.max_connections=many", `slots.pgsidecar_n1={"type":"physical"}`})
			err := types(ctx, c, o.member(c), "settings", "set", kv, "--yes")
			if refusal := (*lab.Refusal)(nil); errors.As(err, &refusal) {
				return nil
			}
			return errors.Join(err, fmt.Errorf("settings set %s was not refused", kv))
		},
	}
}

func (o *operator) restart() Scenario {
	return Scenario{
		Name: "restart", Why: "servers are restarted by pgsidecar restart", Away: true, Expect: Either,
		Fault: func(ctx context.Context, c Cast) error {
			return types(ctx, c, o.member(c), append([]string{"restart"}, one(o.draw, [][]string{{c.Primary}, {c.Replicas[0]}, {"--all"}, {"--role", "replica"}, {"--role", "primary"}})...)...)
		},
	}
}

func (o *operator) switchover() Scenario {
	return Scenario{
		Name: "switchover", Why: "the primary is changed by pgsidecar switchover", Expect: Moves,
		Fault: func(ctx context.Context, c Cast) error {
			args := one(o.draw, [][]string{nil, {"--to", c.Replicas[0]}, {"--force", "--drain", "1s"}})
			if err := types(ctx, c, o.member(c), append([]string{"switchover"}, args...)...); err != nil {
				return err
			}
			now, err := c.Lab.Record(ctx)
			if err == nil && slices.Contains(args, "--to") && now.Leader != c.Replicas[0] {
				err = fmt.Errorf("switchover --to %s went to %s", c.Replicas[0], now.Leader)
			}
			return err
		},
	}
}

// pause begins maintenance, and works on a server in it.
func (o *operator) pause() Scenario {
	return Scenario{
		Name: "pause", Why: "maintenance begins, a server is worked on by hand, and it ends", Away: true, Expect: Either,
		Fault: func(ctx context.Context, c Cast) error {
			if err := types(ctx, c, o.member(c), "pause", "--for", "10m", "--reason", "work"); err != nil {
				return err
			}
			return o.byHand(ctx, c, o.member(c))
		},
		Undo: func(ctx context.Context, c Cast) error {
			_, err := anywhere(ctx, c, "resume")
			return err
		},
	}
}

func (o *operator) pauseMember() Scenario {
	return Scenario{
		Name: "pause-member", Why: "one replica is in maintenance, is worked on by hand, and is back", Away: true, Expect: Stays,
		Fault: func(ctx context.Context, c Cast) error {
			if err := types(ctx, c, o.member(c), "pause", c.Replicas[0], "--for", "10m"); err != nil {
				return err
			}
			return o.byHand(ctx, c, c.Replicas[0])
		},
		Undo: func(ctx context.Context, c Cast) error {
			// A pause of the whole cluster, which another act began meanwhile, took its place.
			_, err := anywhere(ctx, c, "resume", c.Replicas[0])
			return accepted(err)
		},
	}
}

// byHand does to a server what no one should.
func (o *operator) byHand(ctx context.Context, c Cast, member string) error {
	switch o.draw.IntN(4) {
	case 0:
		return c.Lab.PgCtl(ctx, member, "restart", "--no-wait")
	case 1:
		return c.Lab.PgCtl(ctx, member, "stop", "--no-wait", "-m", one(o.draw, []string{"fast", "immediate"}))
	case 2:
		return c.Lab.Kill(member, lab.Postgres)
	}
	return nil
}

func (o *operator) pgCtl() Scenario {
	return Scenario{
		Name: "pg_ctl", Why: "a server is stopped, restarted or reloaded beside the sidecar (pg_ctl)", Away: true, Expect: Either,
		Fault: func(ctx context.Context, c Cast) error {
			return c.Lab.PgCtl(ctx, o.member(c), one(o.draw, [][]string{{"restart", "--no-wait"}, {"restart", "--no-wait", "-m", "immediate"}, {"stop", "--no-wait"},
				{"stop", "--no-wait", "-m", "immediate"}, {"reload"}, {"logrotate"}})...)
		},
	}
}

func (o *operator) reinit() Scenario {
	return Scenario{
		Name: "reinit", Why: "a replica is cloned anew by pgsidecar reinit", Away: true, Expect: Stays,
		Fault: func(ctx context.Context, c Cast) error {
			return types(ctx, c, o.member(c), append([]string{"reinit", c.Replicas[0], "--yes"}, one(o.draw, [][]string{nil, {"--detach"}, {"--from", c.Replicas[1]}})...)...)
		},
	}
}

// sidecar restarts a member's sidecar, by its service or by kill.
func (o *operator) sidecar() Scenario {
	var member string
	return Scenario{
		Name: "sidecar", Why: "a sidecar is stopped or killed, and started again", Away: true, Expect: Either,
		Fault: func(ctx context.Context, c Cast) error {
			member = o.member(c)
			if o.draw.IntN(2) == 0 {
				return kill(ctx, c, member, lab.Sidecar)
			}
			return stopSidecar(ctx, c, member)
		},
		Undo: func(ctx context.Context, c Cast) error {
			if err := startAbsent(ctx, c, member, lab.Sidecar); err != nil {
				return err
			}
			// Another act may stop it again: one that has not come up yet leaves its server alone.
			_, err := waitUntil(ctx, func() (int, error) {
				if _, err := c.Lab.StatusOf(ctx, member); err != nil {
					return 0, nil // it is asked again
				}
				return 1, nil
			}, func(is int) bool { return is == 1 })
			return err
		},
	}
}

// stopSidecar stops a member as its service does, and waits until nothing of it runs.
func stopSidecar(ctx context.Context, c Cast, member string) error {
	if err := c.Lab.Signal(member, lab.Sidecar, syscall.SIGTERM); err != nil {
		return err
	}
	return gone(ctx, c, member, lab.Sidecar, lab.Postgres)
}

// agents restarts Consul's agents, one or all, one after the other.
func (o *operator) agents() Scenario {
	return Scenario{
		Name: "agents", Why: "Consul's agents beside the members are restarted, as for an upgrade", Expect: Stays,
		Fault: func(ctx context.Context, c Cast) error {
			hosts := []string{o.member(c)}
			if o.draw.IntN(3) == 0 {
				hosts = append([]string{c.Primary}, c.Replicas...)
			}
			leave := o.draw.IntN(2) == 0
			for _, host := range hosts {
				if leave {
					if err := leaveConsul(ctx, c, host); err != nil {
						return err
					}
				} else if err := stopConsul(ctx, c, host); err != nil {
					return err
				}
				if err := startAbsent(ctx, c, host, lab.Consul); err != nil {
					return err
				}
			}
			return nil
		},
		Undo: func(ctx context.Context, c Cast) error {
			var errs []error
			for _, host := range append([]string{c.Primary}, c.Replicas...) {
				errs = append(errs, startAbsent(ctx, c, host, lab.Consul))
			}
			return errors.Join(errs...)
		},
	}
}

// consulMaintenance puts a member's node out of Consul's answers.
func (o *operator) consulMaintenance() Scenario {
	var member string
	return Scenario{
		Name: "consul-maintenance", Why: "a member's node is in Consul's maintenance mode, and out of it", Away: true, Expect: Either,
		Fault: func(ctx context.Context, c Cast) error {
			member = o.member(c)
			client, err := c.Lab.ConsulClient(member)
			if err != nil {
				return err
			}
			return client.Agent().EnableNodeMaintenance("work")
		},
		Check: func(ctx context.Context, c Cast) error {
			_, err := waitUntil(ctx, func() (int, error) {
				st, err := c.Lab.StatusOf(ctx, member)
				if err == nil && st.Role != ha.RolePrimary && st.Role != ha.RoleReplica {
					return 1, nil // another act keeps its server down, and DNS is not to show it
				}
				if said, err := anywhere(ctx, c, "status"); err == nil && strings.Contains(said, "maintenance mode") {
					return 1, nil
				}
				return 0, nil // it is asked again
			}, func(is int) bool { return is == 1 })
			if err != nil {
				return fmt.Errorf("wait until status names %s's maintenance mode: %w", member, err)
			}
			return nil
		},
		Undo: func(_ context.Context, c Cast) error {
			client, err := c.Lab.ConsulClient(member)
			if err != nil {
				return err
			}
			return client.Agent().DisableNodeMaintenance()
		},
	}
}

// password changes a password file that all members read.
func (o *operator) password() Scenario {
	return Scenario{
		Name: "password", Why: "a password is changed in its file", Expect: Stays,
		Fault: func(_ context.Context, c Cast) error {
			path := c.Lab.Plan().PasswordFile(one(o.draw, []string{lab.SuperuserRole, lab.ReplicationRole}))
			b := make([]byte, 16)
			if _, err := crand.Read(b); err != nil {
				return fmt.Errorf("make a password: %w", err)
			}
			if err := os.WriteFile(path, []byte(hex.EncodeToString(b)+"\n"), 0o600); err != nil {
				return fmt.Errorf("change a password: %w", err)
			}
			return nil
		},
	}
}

// removed has a member removed that does not run. While commits count on it, it cannot go;
// one that was there for a moment only may be no member.
func removed(ctx context.Context, c Cast, member string) error {
	var last string
	if _, err := waitUntil(ctx, func() (int, error) {
		said, refused := c.Lab.Pgsidecar(ctx, c.Primary, member, "remove", member)
		if refused == nil || strings.Contains(said, "there is no member "+member) {
			return 1, nil
		}
		if said != "" {
			last = said
		}
		return 0, nil
	}, func(done int) bool { return done == 1 }); err != nil {
		return fmt.Errorf("remove %s: %w: %s", member, err, last)
	}
	return nil
}

// leaves removes a replica from the cluster for good, and adds it as a new one or as it was.
func (o *operator) leaves() Scenario {
	return Scenario{
		Name: "member-removed", Why: "a replica is stopped and removed, and a member of that name added, with or without its data", Away: true, Expect: Stays,
		Fault: func(ctx context.Context, c Cast) error {
			member := c.Replicas[0]
			if err := stopSidecar(ctx, c, member); err != nil {
				return err
			}
			if err := removed(ctx, c, member); err != nil {
				return err
			}
			if o.draw.IntN(2) == 0 {
				return c.Lab.ReplaceDisk(member)
			}
			return nil
		},
		Undo: func(ctx context.Context, c Cast) error { return startAbsent(ctx, c, c.Replicas[0], lab.Sidecar) },
	}
}
