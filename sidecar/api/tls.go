package api

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TLS names the files of the server's certificate. They are looked at again
// once per second, at a handshake, and read when one has changed; files that
// cannot be used change nothing.
type TLS struct {
	CertFile string // PEM; empty: no TLS
	KeyFile  string // PEM
	// CAFile signs clients' certificates; empty: clients have none.
	CAFile string
	// RequireClient refuses clients without a certificate, load balancers too.
	RequireClient bool
}

func (t TLS) enabled() bool { return t.CertFile != "" || t.KeyFile != "" || t.CAFile != "" }

// lookAgain is how often the files are looked at.
const lookAgain = time.Second

// certificates keeps the newest usable configuration.
type certificates struct {
	files  TLS
	now    func() ha.Instant
	logger hclog.Logger

	mu       sync.Mutex
	current  *tls.Config
	stamps   [3]stamp
	lookedAt ha.Instant
}

// stamp tells two states of a file apart.
type stamp struct {
	size  int64
	mtime time.Time
}

func newCertificates(files TLS, now func() ha.Instant, logger hclog.Logger) (*certificates, error) {
	c := &certificates{files: files, now: now, logger: logger, lookedAt: now()}
	var err error
	c.stamps = c.look()
	if c.current, err = c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

// config is the configuration of the listener: it asks for the newest at each
// handshake.
func (c *certificates) config() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.newest(), nil },
	}
}

// newest returns the configuration, read again if a file has changed.
func (c *certificates) newest() *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if c.lookedAt.Within(lookAgain, now) {
		return c.current
	}
	c.lookedAt = now
	stamps := c.look()
	if stamps == c.stamps {
		return c.current
	}
	c.stamps = stamps
	next, err := c.load()
	if err != nil {
		c.logger.Error("certificates were not reloaded; the old ones hold", "error", err)
		return c.current
	}
	c.current = next
	c.logger.Info("certificates reloaded")
	return c.current
}

func (c *certificates) look() (stamps [3]stamp) {
	for i, path := range []string{c.files.CertFile, c.files.KeyFile, c.files.CAFile} {
		if info, err := os.Stat(path); err == nil {
			stamps[i] = stamp{info.Size(), info.ModTime()}
		}
	}
	return stamps
}

func (c *certificates) load() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(c.files.CertFile, c.files.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"},
	}
	if c.files.CAFile == "" {
		if c.files.RequireClient {
			return nil, fmt.Errorf("load client authority: no file is named, but clients' certificates are required")
		}
		return config, nil
	}
	pem, err := os.ReadFile(c.files.CAFile)
	if err != nil {
		return nil, fmt.Errorf("load client authority: %w", err)
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load client authority: %s has no certificate in PEM", c.files.CAFile)
	}
	config.ClientAuth = tls.VerifyClientCertIfGiven
	if c.files.RequireClient {
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return config, nil
}

// ClientTLS is how a member reaches the others' APIs: it shows its own
// certificate, and checks theirs against the authority in the file (empty: the
// machine's). Files are read at each connection, so that new ones count at once.
// Nil: files names no certificate, so there is no TLS.
func ClientTLS(files TLS, authority string) *tls.Config {
	if !files.enabled() {
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("load certificate: %w", err)
			}
			return &pair, nil
		},
		// Not insecure: VerifyConnection does the same with the newest authority.
		InsecureSkipVerify: true,
		VerifyConnection: func(c tls.ConnectionState) error {
			options := x509.VerifyOptions{DNSName: c.ServerName, Intermediates: x509.NewCertPool()}
			if authority != "" {
				pem, err := os.ReadFile(authority)
				if err != nil {
					return fmt.Errorf("load authority: %w", err)
				}
				options.Roots = x509.NewCertPool()
				if !options.Roots.AppendCertsFromPEM(pem) {
					return fmt.Errorf("load authority: %s has no certificate in PEM", authority)
				}
			}
			for _, cert := range c.PeerCertificates[1:] {
				options.Intermediates.AddCert(cert)
			}
			_, err := c.PeerCertificates[0].Verify(options)
			return err
		},
	}
}
