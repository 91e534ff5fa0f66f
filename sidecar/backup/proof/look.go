package proof

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/backup/program"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// look checks the server that came out.
func (s *scratch) look(ctx context.Context, r *Report) error {
	if err := s.facts(ctx, r); err != nil {
		return err
	}
	if s.o.Mark != "" {
		if err := s.mark(ctx, r); err != nil {
			return err
		}
	}
	if err := s.amcheck(ctx, r); err != nil {
		return err
	}
	return s.checksums(ctx, r)
}

// facts reads how much log was replayed, and that the server is the cluster's.
func (s *scratch) facts(ctx context.Context, r *Report) error {
	conn, err := s.connect(ctx, "postgres")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var system, lsn, checksums string
	err = conn.QueryRow(ctx, `select system_identifier::text, pg_current_wal_lsn()::text, current_setting('data_checksums')
  from pg_control_system()`).Scan(&system, &lsn, &checksums)
	if err != nil {
		return fmt.Errorf("%w: ask the scratch server: %w", ErrFailed, err)
	}
	if r.Backup.SystemID != "" && system != r.Backup.SystemID {
		return fmt.Errorf("%w: its system identifier is %s, and the backup's is %s", ErrFailed, system, r.Backup.SystemID)
	}
	r.Checksums = checksums == "on"
	end, err := ha.ParseLSN(lsn)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFailed, err)
	}
	r.LogBytes = max(0, int64(end-r.Backup.StartLSN))
	return nil
}

// mark reads the newest moment that the primary wrote.
func (s *scratch) mark(ctx context.Context, r *Report) error {
	conn, err := s.connect(ctx, s.o.MarkDatabase)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var at *time.Time
	if err := conn.QueryRow(ctx, s.o.Mark).Scan(&at); err != nil {
		return fmt.Errorf("%w: read the mark: %w", ErrFailed, err)
	}
	if at == nil {
		return fmt.Errorf("%w: the mark that the primary writes is not in it", ErrFailed)
	}
	r.Mark, r.RPO = at.UTC(), max(0, r.Began.Sub(*at))
	return nil
}

// amcheck reads all tables and indexes of all databases. The extension is made in
// the scratch server alone.
func (s *scratch) amcheck(ctx context.Context, r *Report) error {
	count, found := 0, ""
	c := program.Command{User: s.o.User, Background: true, Args: []string{s.o.BinDir + "/pg_amcheck", "-h", s.o.Folder, "-p", fmt.Sprint(port),
		"-U", s.superuser(), "--no-password", "--all", "--install-missing", "--verbose"},
		Line: func(line string) {
			switch {
			case strings.Contains(line, "checking heap table"):
				count++
			case found == "" && !strings.HasPrefix(line, "pg_amcheck: "): // its own words; the rest is what it found
				found = line
			}
		}}
	_, err := s.sole.With(c).Run(ctx)
	var f *program.Failed
	if errors.As(err, &f) {
		return fmt.Errorf("%w: pg_amcheck: %s", ErrFailed, cmp.Or(found, f.Said))
	}
	if err != nil {
		return fmt.Errorf("run pg_amcheck: %w", err)
	}
	r.Tables = count
	return nil
}

// checksums stops the server and reads each page.
func (s *scratch) checksums(ctx context.Context, r *Report) error {
	if err := s.stop(ctx, "fast"); err != nil || !r.Checksums {
		return err
	}
	_, err := s.sole.With(s.command("pg_checksums", "--check", "-D", s.data())).Run(ctx)
	var f *program.Failed
	if errors.As(err, &f) {
		return fmt.Errorf("%w: pg_checksums: %s", ErrFailed, f.Said)
	}
	if err != nil {
		return fmt.Errorf("run pg_checksums: %w", err)
	}
	return nil
}
