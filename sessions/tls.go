package sessions

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// newTLS is how Consul is reached by HTTPS. Its files are read at each connection,
// so that new ones count without a restart; they are read once now, so that wrong
// ones are found at once.
func newTLS(o Options) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: o.ServerName}
	if o.CertFile != "" || o.KeyFile != "" {
		own := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("load certificate for Consul: %w", err)
			}
			return &pair, nil
		}
		if _, err := own(); err != nil {
			return nil, err
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own() }
	}
	if o.Insecure {
		config.InsecureSkipVerify = true
		return config, nil
	}
	if o.CAFile == "" {
		return config, nil
	}
	authority := func() (*x509.CertPool, error) {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("load Consul's authority: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("load Consul's authority: %s has no certificate in PEM", o.CAFile)
		}
		return pool, nil
	}
	if _, err := authority(); err != nil {
		return nil, err
	}
	// Not insecure: VerifyConnection does the same with the newest authority.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(c tls.ConnectionState) error {
		roots, err := authority()
		if err != nil {
			return err
		}
		options := x509.VerifyOptions{DNSName: c.ServerName, Roots: roots, Intermediates: x509.NewCertPool()}
		for _, cert := range c.PeerCertificates[1:] {
			options.Intermediates.AddCert(cert)
		}
		_, err = c.PeerCertificates[0].Verify(options)
		return err
	}
	return config, nil
}
