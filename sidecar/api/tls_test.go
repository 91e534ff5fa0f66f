package api_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue returns a certificate and its key in PEM.
func (a *authority) issue(t *testing.T, name string, serial int64) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1")}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := x509.MarshalECPrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTLS(t *testing.T) {
	ca, dir := newAuthority(t), t.TempDir()
	files := api.TLS{CertFile: filepath.Join(dir, "cert"), KeyFile: filepath.Join(dir, "key"), CAFile: filepath.Join(dir, "ca")}
	install := func(serial int64) {
		cert, key := ca.issue(t, "n1", serial)
		write(t, files.CertFile, cert)
		write(t, files.KeyFile, key)
	}
	install(100)
	write(t, files.CAFile, ca.pem)
	log := &lines{}
	b := newBench(t, viewOf("n1"), func(o *api.Options) { o.TLS, o.Control, o.Logger = files, &control{}, log.logger() })
	address := b.run(t)

	client := func(by *authority) *http.Client {
		config := &tls.Config{RootCAs: x509.NewCertPool()}
		config.RootCAs.AddCert(ca.cert)
		if by != nil {
			cert, key := by.issue(t, "operator", 7)
			pair, err := tls.X509KeyPair(cert, key)
			if err != nil {
				t.Fatal(err)
			}
			// Shown even if the server asks for another authority's.
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		return &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	}
	reload := func(c *http.Client) (int, int64, error) {
		resp, err := c.Post("https://"+address+"/reload", "", nil)
		if err != nil {
			return 0, 0, err
		}
		resp.Body.Close()
		return resp.StatusCode, resp.TLS.PeerCertificates[0].SerialNumber.Int64(), nil
	}
	if status, serial, err := reload(client(nil)); status != 401 || serial != 100 {
		t.Errorf("without certificate: %d, serial %d, %v", status, serial, err)
	}
	if status, _, err := reload(client(ca)); status != 202 {
		t.Errorf("with certificate: %d, %v", status, err)
	}
	if status, _, err := reload(client(newAuthority(t))); err == nil {
		t.Errorf("with a stranger's certificate: %d", status)
	}
	if !strings.Contains(log.all(), "certificate of operator") {
		t.Error("the log does not say who asked")
	}

	later := time.Now().Add(time.Minute) // some file systems have coarse times
	install(101)
	for _, path := range []string{files.CertFile, files.KeyFile} {
		if err := os.Chtimes(path, later, later); err != nil {
			t.Fatal(err)
		}
	}
	b.now.Add(int64(2 * time.Second))
	if _, serial, err := reload(client(nil)); serial != 101 {
		t.Errorf("after a change of the files: serial %d, %v", serial, err)
	}
	write(t, files.CertFile, []byte("half a cert"))
	b.now.Add(int64(2 * time.Second))
	if _, serial, err := reload(client(nil)); serial != 101 || !strings.Contains(log.all(), "certificates were not reloaded") {
		t.Errorf("after a broken change: serial %d, %v", serial, err)
	}
}

// TestClientTLS: a member shows its certificate, checks the other's, and takes
// up new files at once.
func TestClientTLS(t *testing.T) {
	ca, dir := newAuthority(t), t.TempDir()
	files := api.TLS{CertFile: filepath.Join(dir, "cert"), KeyFile: filepath.Join(dir, "key"), CAFile: filepath.Join(dir, "ca"), RequireClient: true}
	cert, key := ca.issue(t, "n1", 1)
	write(t, files.CertFile, cert)
	write(t, files.KeyFile, key)
	write(t, files.CAFile, ca.pem)
	address := newBench(t, viewOf("n1"), func(o *api.Options) { o.TLS, o.Control = files, &control{} }).run(t)

	if api.ClientTLS(api.TLS{}, "") != nil {
		t.Error("TLS without a certificate")
	}
	own := api.TLS{CertFile: filepath.Join(dir, "own.cert"), KeyFile: filepath.Join(dir, "own.key")}
	believed := filepath.Join(dir, "authority")
	config := api.ClientTLS(own, believed)
	ask := func(host string) error {
		_, port, _ := net.SplitHostPort(address)
		client := http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 10 * time.Second}
		resp, err := client.Post("https://"+net.JoinHostPort(host, port)+"/reload", "", nil)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusAccepted {
				t.Errorf("status %d", resp.StatusCode)
			}
		}
		return err
	}
	stranger := newAuthority(t)
	for _, step := range []struct {
		name, host      string
		signs, believed *authority
		good            bool
	}{
		{"good", "127.0.0.1", ca, ca, true},
		{"another name", "localhost", ca, ca, false},
		{"their authority is another", "127.0.0.1", ca, stranger, false},
		{"our authority is another", "127.0.0.1", stranger, ca, false},
		{"good again", "127.0.0.1", ca, ca, true},
	} {
		cert, key := step.signs.issue(t, "n2", 2)
		write(t, own.CertFile, cert)
		write(t, own.KeyFile, key)
		write(t, believed, step.believed.pem)
		if err := ask(step.host); (err == nil) != step.good {
			t.Errorf("%s: %v", step.name, err)
		}
	}
}
