package checks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// SiteServer is what a server of another cluster says of itself.
type SiteServer struct {
	SystemID string
	Major    int // version of PostgreSQL; 0: not said
	Standby  bool
	Position ha.Position // how far it has flushed its log
}

// SiteConn is a session with a server of another site's cluster, as a replica has one. It
// is used by one goroutine at a time.
type SiteConn struct {
	conn *pgconn.PgConn
	at   ha.Position // what it last said: each timeline's history is read once
}

// DialSite opens the session.
func DialSite(ctx context.Context, to Upstream, password func() (string, error)) (*SiteConn, error) {
	conn, err := connect(ctx, to, password, map[string]string{"replication": "true"})
	if err != nil {
		return nil, fmt.Errorf("connect to %s:%d: %w", to.Host, to.Port, err)
	}
	return &SiteConn{conn: conn}, nil
}

// Ask asks the server what it is. Whether it is a standby the server tells by itself, at
// the start and when that changes (in_hot_standby, PostgreSQL 14 and later).
func (s *SiteConn) Ask(ctx context.Context) (SiteServer, error) {
	systemID, at, err := identify(ctx, s.conn, s.at)
	if err != nil {
		return SiteServer{}, fmt.Errorf("ask what it is: %w", err)
	}
	s.at = at
	major, _, _ := strings.Cut(s.conn.ParameterStatus("server_version"), ".")
	n, _ := strconv.Atoi(major) // a version without a point is of no release
	return SiteServer{SystemID: systemID, Major: n, Standby: s.conn.ParameterStatus("in_hot_standby") != "off", Position: at}, nil
}

// Wait waits until ctx is done, which leaves the session as it is, or the session has ended,
// and returns why then.
func (s *SiteConn) Wait(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := s.conn.WaitForNotification(ctx); s.conn.IsClosed() {
			return kind(err)
		}
	}
	return nil
}

// EnsureSlot makes a physical slot that keeps log from now on, if there is none of the
// name.
func (s *SiteConn) EnsureSlot(ctx context.Context, name string) error {
	_, err := s.conn.Exec(ctx, "CREATE_REPLICATION_SLOT "+quoteName(name)+" PHYSICAL RESERVE_WAL").ReadAll()
	if hasCode(err, codeDuplicate) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make the slot %s: %w", name, kind(err))
	}
	return nil
}

// DropSlot drops a slot that nobody uses; one that is in use, or is not there, stays as
// it is.
func (s *SiteConn) DropSlot(ctx context.Context, name string) error {
	_, err := s.conn.Exec(ctx, "DROP_REPLICATION_SLOT "+quoteName(name)).ReadAll()
	if hasCode(err, codeUndefined) || hasCode(err, codeInUse) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("drop the slot %s: %w", name, kind(err))
	}
	return nil
}

// Close ends the session.
func (s *SiteConn) Close(ctx context.Context) error { return s.conn.Close(ctx) }

// identify asks a server for its system identifier and position. The history of a timeline
// never changes, so it is taken from what was known.
func identify(ctx context.Context, conn *pgconn.PgConn, known ha.Position) (systemID string, at ha.Position, err error) {
	row, err := command(ctx, conn, "IDENTIFY_SYSTEM")
	if err != nil {
		return "", at, err
	}
	if len(row) < 3 {
		return "", at, fmt.Errorf("IDENTIFY_SYSTEM answers %d columns: %w", len(row), ha.ErrSyntax)
	}
	tli, err := strconv.ParseUint(string(row[1]), 10, 32)
	if err != nil {
		return "", at, err
	}
	at.TLI = ha.TLI(tli)
	if at.LSN, err = ha.ParseLSN(string(row[2])); err != nil {
		return "", at, err
	}
	switch {
	case known.TLI == at.TLI:
		at.History = known.History
	case tli > 1:
		row, err := command(ctx, conn, "TIMELINE_HISTORY "+strconv.FormatUint(tli, 10))
		if err != nil {
			return "", at, err
		}
		if len(row) < 2 {
			return "", at, fmt.Errorf("TIMELINE_HISTORY answers %d columns: %w", len(row), ha.ErrSyntax)
		}
		if at.History, err = parseHistory(string(row[1])); err != nil {
			return "", at, err
		}
	}
	return string(row[0]), at, nil
}

// SiteSlot is the slot, on the other site's primary, of the member that streams from it.
// The other site's members have names of their own, which may be the same.
func SiteSlot(cluster, member string) string {
	const prefix = "site_"
	return prefix + SlotName(cluster + "_" + member)[len(slotPrefix):]
}

// Brief is an error of a connection in a few words, in one line.
func Brief(err error) string {
	var refused *pgconn.PgError
	var network *net.OpError
	switch {
	case errors.As(err, &refused):
		return refused.Message
	case errors.As(err, &network):
		return network.Err.Error()
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	return text
}
