package checks

import (
	"context"
	"fmt"
	"maps"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// WhereIs asks another member's server, as a replica does (PostgreSQL documentation,
// "Streaming Replication Protocol"), how far it has flushed its log, and on which
// timelines. Only host, port, user and the further options of the upstream are used.
func WhereIs(ctx context.Context, from Upstream, password func() (string, error)) (ha.Position, error) {
	_, at, err := Identify(ctx, from, password)
	return at, err
}

// Identify is WhereIs, and asks for the server's system identifier as well.
func Identify(ctx context.Context, from Upstream, password func() (string, error)) (systemID string, at ha.Position, err error) {
	systemID, at, err = whereIs(ctx, from, password)
	if err != nil {
		return "", ha.Position{}, fmt.Errorf("ask %s:%d where it is: %w", from.Host, from.Port, err)
	}
	return systemID, at, nil
}

// connect opens a session with another member's server, as a replica does.
func connect(ctx context.Context, from Upstream, password func() (string, error), parameters map[string]string) (*pgconn.PgConn, error) {
	conf, err := pgconn.ParseConfig(ConnInfo(Upstream{Host: from.Host, Port: from.Port, User: from.User, More: from.More}))
	if err != nil {
		return nil, err
	}
	if conf.Password, err = password(); err != nil {
		return nil, err
	}
	// What is for libpq's sockets alone is no parameter of the server.
	conf.RuntimeParams = map[string]string{"application_name": "pgsidecar " + from.Self}
	maps.Copy(conf.RuntimeParams, parameters)
	conf.Database = "postgres"
	conn, err := pgconn.ConnectConfig(ctx, conf)
	if err != nil {
		return nil, kind(err)
	}
	return conn, nil
}

// Survey is what must be known of another member's server to copy it.
type Survey struct {
	Version     int      // server_version_num
	Segment     int64    // bytes of a segment of its log
	Tablespaces []string // their directories
}

// SurveyOf asks another member's server for what a copy of it needs.
func SurveyOf(ctx context.Context, from Upstream, password func() (string, error)) (Survey, error) {
	conn, err := connect(ctx, from, password, nil)
	if err != nil {
		return Survey{}, fmt.Errorf("ask %s:%d what a copy needs: %w", from.Host, from.Port, err)
	}
	defer conn.Close(ctx) // the server ends the session either way
	results, err := conn.Exec(ctx, "show server_version_num; select setting from pg_settings where name = 'wal_segment_size'; "+
		"select l from pg_tablespace, pg_tablespace_location(oid) l where l <> '' order by l").ReadAll()
	if err != nil {
		return Survey{}, fmt.Errorf("ask %s:%d what a copy needs: %w", from.Host, from.Port, kind(err))
	}
	if len(results) != 3 || len(results[0].Rows) != 1 || len(results[1].Rows) != 1 {
		return Survey{}, fmt.Errorf("ask %s:%d what a copy needs: no answer: %w", from.Host, from.Port, ha.ErrSyntax)
	}
	var survey Survey
	survey.Version, err = strconv.Atoi(string(results[0].Rows[0][0]))
	if err == nil {
		survey.Segment, err = strconv.ParseInt(string(results[1].Rows[0][0]), 10, 64)
	}
	if err != nil {
		return Survey{}, fmt.Errorf("ask %s:%d for its version: %w", from.Host, from.Port, err)
	}
	for _, row := range results[2].Rows {
		survey.Tablespaces = append(survey.Tablespaces, string(row[0]))
	}
	return survey, nil
}

func whereIs(ctx context.Context, from Upstream, password func() (string, error)) (string, ha.Position, error) {
	conn, err := connect(ctx, from, password, map[string]string{"replication": "true"})
	if err != nil {
		return "", ha.Position{}, err
	}
	defer conn.Close(ctx) // the server ends the session either way
	return identify(ctx, conn, ha.Position{})
}

// command runs one command of the replication protocol that answers one row.
func command(ctx context.Context, conn *pgconn.PgConn, text string) ([][]byte, error) {
	results, err := conn.Exec(ctx, text).ReadAll()
	if err != nil {
		return nil, kind(err)
	}
	if len(results) == 0 || len(results[0].Rows) != 1 {
		return nil, fmt.Errorf("%s: no answer: %w", text, ha.ErrSyntax)
	}
	return results[0].Rows[0], nil
}
