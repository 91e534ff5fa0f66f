package drill

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// serverCertificate is what a server shows, with its key: files in its data directory, where
// PostgreSQL looks for them by default.
type serverCertificate struct {
	der, certificate, key []byte // der is certificate, as a client sees it
}

// newCertificate makes one that signs itself.
func newCertificate() (serverCertificate, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		return serverCertificate{}, fmt.Errorf("make a key: %w", err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(crand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return serverCertificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	inside, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return serverCertificate{}, fmt.Errorf("make a key: %w", err)
	}
	return serverCertificate{der, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: inside})}, nil
}

// install puts it into a member's data directory, each file by a rename, as cert-manager,
// Vault's agent or certbot do.
func (s serverCertificate) install(c Cast, member string) error {
	h, err := c.Lab.Plan().Host(member)
	if err != nil {
		return err
	}
	info, err := os.Stat(h.DataDir())
	if err != nil {
		return fmt.Errorf("install a certificate: %w", err)
	}
	for _, f := range []struct {
		name    string
		content []byte
	}{{"server.key", s.key}, {"server.crt", s.certificate}} {
		path := filepath.Join(h.DataDir(), f.name)
		err := os.WriteFile(path+".new", f.content, 0o600)
		if owner, known := info.Sys().(*syscall.Stat_t); err == nil && known {
			err = os.Chown(path+".new", int(owner.Uid), int(owner.Gid))
		}
		if err == nil {
			err = os.Rename(path+".new", path)
		}
		if err != nil {
			return fmt.Errorf("install a certificate: %w", err)
		}
	}
	return nil
}

// byTLS connects to a member's server, and returns the certificate that it shows.
func byTLS(ctx context.Context, c Cast, member string) (*pgx.Conn, []byte, error) {
	config, err := c.Lab.ConnConfig(lab.ApplicationRole, member)
	if err != nil {
		return nil, nil, err
	}
	var shows []byte
	config.TLSConfig = &tls.Config{InsecureSkipVerify: true, VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error { // which one it is is what is asked
		shows = raw[0]
		return nil
	}}
	conn, err := pgx.ConnectConfig(ctx, config)
	return conn, shows, err
}

// showsNow waits until a member's server shows a certificate.
func (s serverCertificate) showsNow(ctx context.Context, c Cast, member string) error {
	var last error
	_, err := waitUntil(ctx, func() (int, error) {
		conn, shows, err := byTLS(ctx, c, member)
		if last = err; err != nil {
			return 0, nil // it is asked again
		}
		last = errors.New("it shows another")
		if err := conn.Close(ctx); err != nil {
			return 0, nil
		}
		if bytes.Equal(shows, s.der) {
			return 1, nil
		}
		return 0, nil
	}, func(is int) bool { return is == 1 })
	if err != nil {
		return fmt.Errorf("wait until the server of %s shows its new certificate: %w: %w", member, err, last)
	}
	return nil
}

// certificate renews the servers' certificates while clients write, after TLS was turned on
// for it: a session that is open stays, and who connects later sees the new one.
func (o *operator) certificate() Scenario {
	return Scenario{
		Name: "certificate", Why: "TLS is on, and each server's certificate is renewed", Expect: Stays,
		Fault: func(ctx context.Context, c Cast) error {
			members := append([]string{c.Primary}, c.Replicas...)
			if err := renew(ctx, c, members, func() error { return types(ctx, c, o.member(c), "settings", "set", "parameters.ssl=on", "--yes") }); err != nil {
				return err
			}
			conn, _, err := byTLS(ctx, c, c.Primary)
			if err != nil {
				return fmt.Errorf("connect by TLS: %w", err)
			}
			defer conn.Close(ctx) // its end says nothing more
			if err := renew(ctx, c, members, func() error { return nil }); err != nil {
				return err
			}
			if _, err := conn.Exec(ctx, "select 1"); err != nil {
				return fmt.Errorf("use a session that was open before: %w", err)
			}
			return nil
		},
		Undo: func(ctx context.Context, c Cast) error {
			_, err := anywhere(ctx, c, "settings", "set", "parameters.ssl=", "--yes")
			return err
		},
	}
}

// renew gives each member a new certificate, does something, and waits until each shows its
// own.
func renew(ctx context.Context, c Cast, members []string, then func() error) error {
	made := map[string]serverCertificate{}
	for _, member := range members {
		s, err := newCertificate()
		if err == nil {
			err = s.install(c, member)
		}
		if err != nil {
			return err
		}
		made[member] = s
	}
	if err := then(); err != nil {
		return err
	}
	for member, s := range made {
		if err := s.showsNow(ctx, c, member); err != nil {
			return err
		}
	}
	return nil
}
