package checks

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// CertificateFiles returns the files of the server's certificate, and of the authorities and
// the lists by which it checks its clients', as its settings name them, relative to the data
// directory or absolute. None: it does without TLS.
func (c *Conn) CertificateFiles(ctx context.Context) ([]string, error) {
	var files []string
	err := c.work.do(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `select setting from pg_settings
			where name in ('ssl_cert_file', 'ssl_key_file', 'ssl_ca_file', 'ssl_crl_file', 'ssl_dh_params_file') and setting <> ''
			and current_setting('ssl') = 'on' order by name`)
		if err != nil {
			return err
		}
		files, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask for the certificate's files: %w", err)
	}
	return files, nil
}
