package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"os"
)

// checkFiles holds the files that the configuration names to what is to be done with
// them. One that this user may not read is left to the one who may.
func (r *reader) checkFiles(c *Config) {
	if r.env.ReadFile == nil {
		return
	}
	for i := range c.Templates {
		t := &c.Templates[i]
		r.file("template."+t.Name+".source", t.Source)
	}
	r.authority("haproxy.check_ca_file", c.HAProxy.CheckCAFile)
	r.file("haproxy.check_cert_file", c.HAProxy.CheckCertFile)
	r.authority("consul.tls.ca_file", c.Consul.TLS.CAFile)
	r.pair("consul.tls", c.Consul.TLS.CertFile, c.Consul.TLS.KeyFile, "")
	p, a := &c.Postgres.TLS, &c.API.TLS
	r.authority("postgres.tls.ca_file", p.CAFile)
	reached := ""
	if p.Require {
		reached = c.Postgres.Advertise
	}
	r.pair("postgres.tls", p.CertFile, p.KeyFile, reached)
	r.authority("api.tls.ca_file", a.CAFile)
	r.authority("api.tls.client_ca_file", a.ClientCAFile)
	r.pair("api.tls", a.CertFile, a.KeyFile, c.API.Advertise)
}

// file reads a file that must be there; nil: it was not read.
func (r *reader) file(path, name string) []byte {
	if name == "" {
		return nil
	}
	content, err := r.env.ReadFile(name)
	switch {
	case err == nil:
		return content
	case !errors.Is(err, fs.ErrPermission):
		r.refuse(path, "%s: %v", name, unwrapPath(err))
	}
	return nil
}

// authority reads the certificates of an authority.
func (r *reader) authority(path, name string) {
	if content := r.file(path, name); content != nil && !x509.NewCertPool().AppendCertsFromPEM(content) {
		r.refuse(path, "%s has no certificate; expected one or more in PEM", name)
	}
}

// pair reads a certificate and its key. Where others check it, it must have the host by
// which they reach this member.
func (r *reader) pair(path, certFile, keyFile, reached string) {
	if certFile == "" || keyFile == "" {
		return // said already, if it is wrong
	}
	cert, key := r.file(path+".cert_file", certFile), r.file(path+".key_file", keyFile)
	if cert == nil {
		return
	}
	block, _ := pem.Decode(cert)
	if block == nil {
		r.refuse(path+".cert_file", "%s has no certificate; expected one in PEM", certFile)
		return
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		r.refuse(path+".cert_file", "%s: %v", certFile, err)
		return
	}
	if key != nil {
		if _, err := tls.X509KeyPair(cert, key); err != nil {
			r.refuse(path+".key_file", "%s is not the key of %s: %v", keyFile, certFile, err)
		}
	}
	host, _, err := net.SplitHostPort(reached)
	if err == nil && leaf.VerifyHostname(host) != nil {
		r.refuse(path+".cert_file", "%s does not cover %s, by which the others reach this member; expected a certificate with that name or address", certFile, host)
	}
}

// readRegular reads a file that is one: a directory or a socket would be read for ever,
// or not at all.
func readRegular(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(name)
}

// Look makes an environment one whose files, users and groups are looked at.
func (env Environment) Look() Environment {
	env.ReadFile, env.Account = readRegular, account
	return env
}
