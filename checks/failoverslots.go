package checks

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// From PostgreSQL 17 on a standby copies the logical slots that were made with
// failover = true, while sync_replication_slots is on there (the setting
// failover_slots). Two things are not PostgreSQL's to do:
//
//   - A logical consumer must not be ahead of a new primary: what it has from a lost one
//     could never be taken back, and it would leave out what comes in its place. So
//     synchronized_standby_slots has the slots of the voters, in the same file and by
//     the same reload as synchronous_standby_names: a consumer is given what all of them
//     have flushed, and a new primary has what one of them had.
//   - A server that led has its own slots, which are no copies. The worker that copies
//     gives up at the first name that is there already, so those that the leader has
//     too are dropped on a standby.

// syncedSlots names the setting; PostgreSQL before 17 has none such.
const syncedSlots = "synchronized_standby_slots"

// consumersWait is the setting that keeps logical consumers behind the standbys of set,
// if it is not so already; nothing where no slots are copied. It is not waited for: until
// all have read it a consumer waits for the earlier standbys. PostgreSQL 17 refuses the
// name of a slot that is not there: such a standby comes with the next upkeep.
func consumersWait(ctx context.Context, conn *pgx.Conn, set ha.SyncSetting) ([]setting, error) {
	var copies, now string
	var slots []string
	err := conn.QueryRow(ctx, `select coalesce(current_setting('sync_replication_slots', true), ''),
		coalesce(current_setting('synchronized_standby_slots', true), ''),
		array(select slot_name::text from pg_replication_slots where slot_type = 'physical')`).Scan(&copies, &now, &slots)
	if err != nil || copies == "" {
		return nil, err
	}
	var wanted []string
	if copies == "on" && set.K > 0 {
		for _, name := range set.Names {
			if slot := SlotName(name); slices.Contains(slots, slot) {
				wanted = append(wanted, slot)
			}
		}
		if len(wanted) == 0 {
			return nil, nil
		}
	}
	want := strings.Join(wanted, ", ")
	// Without voters it is the user's own, unless it is left from when there were some.
	if want == now || want == "" && !strings.HasPrefix(now, slotPrefix) {
		return nil, nil
	}
	return []setting{{syncedSlots, want}}, nil
}

// LogicalSlots are the logical slots that standbys copy.
type LogicalSlots struct {
	// Offered are a primary's, with what each holds back.
	Offered []SlotAt
	// Copied are a standby's copies that would serve if it led now.
	Copied []string
	// Own are a standby's from when it led: no copies.
	Own []string
}

// LogicalSlots reads them, and sees to it that a primary's consumers wait for its
// voters. Before PostgreSQL 17 there are none.
func (c *Conn) LogicalSlots(ctx context.Context) (l LogicalSlots, err error) {
	err = c.work.do(ctx, func(conn *pgx.Conn) error {
		standby := false
		if l, standby, err = readLogicalSlots(ctx, conn); err != nil || standby {
			return err
		}
		select {
		case c.sync.turn <- struct{}{}:
			defer c.sync.give()
		default:
			return nil // SetSync does it
		}
		return c.keepConsumersBehind(ctx, conn)
	})
	if err != nil {
		return l, fmt.Errorf("look after logical slots: %w", err)
	}
	return l, nil
}

func readLogicalSlots(ctx context.Context, conn *pgx.Conn) (l LogicalSlots, standby bool, err error) {
	// The columns are looked up by name, as they are not there before 17.
	rows, err := conn.Query(ctx, `select slot_name::text, coalesce(restart_lsn - '0/0', 0)::bigint, pg_is_in_recovery(),
		coalesce((to_jsonb(s)->>'synced')::bool, false), active, temporary,
		coalesce(wal_status = 'lost', false) or to_jsonb(s)->>'invalidation_reason' is not null
		from pg_replication_slots s where slot_type = 'logical' and (to_jsonb(s)->>'failover')::bool`)
	if err != nil {
		return l, false, err
	}
	var name string
	var at int64
	var copied, active, temporary, lost bool
	_, err = pgx.ForEachRow(rows, []any{&name, &at, &standby, &copied, &active, &temporary, &lost}, func() error {
		switch {
		case !standby && !lost && !temporary:
			l.Offered = append(l.Offered, SlotAt{name, ha.LSN(at)})
		case standby && copied && !temporary && !lost:
			l.Copied = append(l.Copied, name)
		case standby && !copied && !active && !temporary:
			l.Own = append(l.Own, name)
		}
		return nil
	})
	if err == nil && len(l.Offered)+len(l.Copied)+len(l.Own) == 0 {
		err = conn.QueryRow(ctx, "select pg_is_in_recovery()").Scan(&standby)
	}
	return l, standby, err
}

// keepConsumersBehind mends the setting where it is not what the present voters ask for:
// failover_slots was set while this server leads, or somebody has changed it.
func (c *Conn) keepConsumersBehind(ctx context.Context, conn *pgx.Conn) error {
	var names string
	if err := conn.QueryRow(ctx, "select current_setting('synchronous_standby_names')").Scan(&names); err != nil {
		return err
	}
	set := parseSync(names)
	if set.K < 0 || slices.Contains(set.Names, nobody) {
		return nil // SetSync comes first
	}
	want, err := consumersWait(ctx, conn, set)
	if err != nil || len(want) == 0 {
		return err
	}
	_, err = c.change(ctx, conn, want)
	return err
}
