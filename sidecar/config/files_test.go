package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
)

// certificate writes a certificate for an address, and its key.
func certificate(t *testing.T, dir, name, address string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.ParseIP(address)}}
	cert, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".crt": {Type: "CERTIFICATE", Bytes: cert}, name + ".key": {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFiles: certificates that are gone, do not belong together, or do not have the
// address by which the others come, are refused before anything starts.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	certificate(t, dir, "right", "10.0.0.7")
	certificate(t, dir, "other", "10.0.0.8")
	for _, c := range []struct{ cert, key, ca, says string }{
		{"right.crt", "right.key", "right.crt", ""},
		{"right.crt", "other.key", "right.crt", "other.key is not the key of"},
		{"other.crt", "other.key", "right.crt", "does not cover 10.0.0.7"},
		{"right.crt", "gone.key", "right.crt", "gone.key: no such file"},
		{"right.crt", "right.key", "right.key", "has no certificate"},
		{"right.key", "right.key", "right.crt", "right.key"},
		{".", "right.key", "right.crt", "not a regular file"},
	} {
		tls := fmt.Sprintf("  tls {\n    cert_file = %q\n    key_file = %q\n    ca_file = %q\n", filepath.Join(dir, c.cert), filepath.Join(dir, c.key), filepath.Join(dir, c.ca))
		text := "member = \"n1\"\npostgres {\n  data_dir = \"/d\"\n  listen = \"10.0.0.7:5432\"\n  superuser { password = env(\"REPLICATION_PASSWORD\") }\n" +
			"  replication { password = env(\"REPLICATION_PASSWORD\") }\n" + tls + "    require = true\n  }\n}\napi {\n  listen = \"10.0.0.7:8008\"\n" + tls + "  }\n}\n"
		_, err := config.Parse("pg.hcl", []byte(text), environment().Look())
		if (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s with %s, %s: %v", c.cert, c.key, c.ca, err)
		}
		if _, err := config.Parse("pg.hcl", []byte(text), environment()); err != nil {
			t.Errorf("nobody looks, and it is refused: %v", err)
		}
	}
}
