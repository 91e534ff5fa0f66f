package checks

import (
	"context"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// slotPrefix marks the slots that are ours to drop.
const slotPrefix = "pgsidecar_"

// SlotName is the replication slot of a member. Slots allow lower-case letters,
// digits and underscores; another name gets a checksum so that it stays one of
// its own.
func SlotName(member string) string {
	plain := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '_'
	}, member)
	if plain == member && len(member) <= 50 {
		return slotPrefix + member
	}
	return fmt.Sprintf("%s%.40s_%08x", slotPrefix, plain, crc32.ChecksumIEEE([]byte(member)))
}

// Slot is a physical replication slot that is to be there.
type Slot struct {
	Name string
	// Has is what its consumer has, as far as is known; zero: not known. A
	// standby's slot goes on to there, and keeps what follows.
	Has ha.LSN
}

// MemberSlot is the slot of a member that has received the log up to has.
func MemberSlot(member string, has ha.LSN) Slot { return Slot{Name: SlotName(member), Has: has} }

// archiveSlot is longer than any member's (SlotName), so that it is nobody's.
const archiveSlot = slotPrefix + "log_that_the_archive_of_backups_has_not_received_yet"

// ArchiveSlot keeps what the primary has not archived up to has: if that is lost,
// the next leader archives it.
func ArchiveSlot(has ha.LSN) Slot { return Slot{Name: archiveSlot, Has: has} }

// SlotAt is how far a slot's consumer has come.
type SlotAt struct {
	Name string
	At   ha.LSN
}

// EnsureSlots makes the physical slots, drops the members' slots that are not
// wanted and not in use, makes those anew that are of no use (renewed), and moves a
// standby's on. A standby's slots are there so that their consumers can go on
// from it the moment it leads: each keeps what its consumer is not known to have.
// max_slot_wal_keep_size bounds what one that stays away costs.
// It returns where the physical slots are.
func (c *Conn) EnsureSlots(ctx context.Context, want []Slot) ([]SlotAt, error) {
	var at []SlotAt
	err := c.work.do(ctx, func(conn *pgx.Conn) (err error) {
		at, err = ensureSlots(ctx, conn, want)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("keep replication slots: %w", err)
	}
	return at, nil
}

// slotRow is a physical slot as it is.
type slotRow struct {
	Name    string
	Active  bool
	Lost    bool
	Pins    bool  // it has the horizon of a standby's queries
	Restart int64 // from the log's beginning, in bytes
}

// slotState is what there is to keep slots by.
type slotState struct {
	have     []slotRow
	standby  bool
	replayed ha.LSN // by a standby
	redo     ha.LSN // where a slot that is made now begins
}

func readSlots(ctx context.Context, conn *pgx.Conn) (s slotState, err error) {
	rows, err := conn.Query(ctx, `select slot_name::text, active, coalesce(wal_status = 'lost', false), xmin is not null,
		coalesce(restart_lsn - '0/0', 0)::bigint from pg_replication_slots where slot_type = 'physical' and not temporary`)
	if err != nil {
		return s, err
	}
	if s.have, err = pgx.CollectRows(rows, pgx.RowToStructByPos[slotRow]); err != nil {
		return s, err
	}
	var replayed, redo int64
	err = conn.QueryRow(ctx, `select pg_is_in_recovery(), (redo_lsn - '0/0')::bigint,
		coalesce(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() - '0/0' end, 0)::bigint
		from pg_control_checkpoint()`).Scan(&s.standby, &redo, &replayed)
	s.replayed, s.redo = ha.LSN(replayed), ha.LSN(redo)
	return s, err
}

// renewed says of a slot that is wanted whether it is to be made anew: one that has
// lost its log, and on a standby one that has the horizon of queries from when this
// server led. That one would hold back the cleaning up on the new primary for ever
// (hot_standby_feedback); it stays only while its consumer may need older log than
// a new one would keep.
func (s *slotState) renewed(h slotRow, w Slot) bool {
	return h.Lost || s.standby && h.Pins && w.Has >= s.redo
}

func ensureSlots(ctx context.Context, conn *pgx.Conn, want []Slot) ([]SlotAt, error) {
	s, err := readSlots(ctx, conn)
	if err != nil {
		return nil, err
	}
	kept := map[string]ha.LSN{}
	for _, h := range s.have {
		drop := strings.HasPrefix(h.Name, slotPrefix)
		if i := slices.IndexFunc(want, func(w Slot) bool { return w.Name == h.Name }); i >= 0 {
			drop = s.renewed(h, want[i])
		}
		if h.Active || !drop {
			kept[h.Name] = ha.LSN(h.Restart)
			continue
		}
		if _, err := conn.Exec(ctx, "select pg_drop_replication_slot($1)", h.Name); err != nil {
			return nil, fmt.Errorf("drop slot %s: %w", h.Name, err)
		}
	}
	var at []SlotAt
	for _, w := range want {
		restart, is := kept[w.Name]
		if !is {
			_, err := conn.Exec(ctx, "select pg_create_physical_replication_slot($1, true)", w.Name)
			if err != nil && !hasCode(err, codeDuplicate) {
				return nil, fmt.Errorf("make slot %s: %w", w.Name, err)
			}
		}
		if to := min(w.Has, s.replayed); is && s.standby && to > restart {
			if _, err := conn.Exec(ctx, `select pg_replication_slot_advance(slot_name, $2::text::pg_lsn) from pg_replication_slots
				where slot_name = $1 and not active`, w.Name, to.String()); err != nil {
				return nil, fmt.Errorf("move slot %s on: %w", w.Name, err)
			}
			restart = to
		}
		at = append(at, SlotAt{w.Name, restart})
	}
	return at, nil
}

// DropSlot removes a slot of another program that is wanted no more. That it is
// not there, or is in use, is no error: then it stays.
func (c *Conn) DropSlot(ctx context.Context, name string) error {
	err := c.work.do(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1 and not active", name)
		return err
	})
	if err != nil {
		return fmt.Errorf("drop slot %s: %w", name, err)
	}
	return nil
}

// WrongLines returns what the server says of the lines of pg_hba.conf and, from
// PostgreSQL 15 on, pg_ident.conf that it cannot read. It then uses the lines
// that it had read before.
func (c *Conn) WrongLines(ctx context.Context) ([]string, error) {
	var wrong []string
	err := c.work.do(ctx, func(conn *pgx.Conn) error {
		var mappings bool
		if err := conn.QueryRow(ctx, "select to_regclass('pg_catalog.pg_ident_file_mappings') is not null").Scan(&mappings); err != nil {
			return err
		}
		// What only cannot match (hostssl without ssl) is no reason for it to refuse the file.
		query := "select 'hba: ' || error from pg_hba_file_rules where error is not null and error not like '%record cannot match because%'"
		if mappings {
			query += " union all select 'ident: ' || error from pg_ident_file_mappings where error is not null"
		}
		rows, err := conn.Query(ctx, query)
		if err != nil {
			return err
		}
		wrong, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("check pg_hba.conf: %w", err)
	}
	return wrong, nil
}
