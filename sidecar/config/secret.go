package config

import "fmt"

// Secret is a password, token or key. It prints as "(secret)" whatever the
// verb, and in JSON; only Reveal returns it.
type Secret struct{ value string }

// NewSecret returns a Secret.
func NewSecret(value string) Secret { return Secret{value} }

// Reveal returns the secret itself, for the one call that needs it.
func (s Secret) Reveal() string { return s.value }

// Empty reports whether there is no secret.
func (s Secret) Empty() bool { return s.value == "" }

// String returns "(secret)", or "" if there is none.
func (s Secret) String() string {
	if s.Empty() {
		return ""
	}
	return "(secret)"
}

// Format implements fmt.Formatter, so that no verb, %#v included, reaches the
// value.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// MarshalText keeps the secret out of JSON.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Secrets are the member's own passwords, tokens and keys that came with the file or the
// environment, and not in a file of their own: nobody else may get them.
func (c *Config) Secrets() []string {
	var own []string
	for _, s := range []Secret{c.Consul.Token, c.API.Token, c.Peers.Key, c.Postgres.Superuser.Password, c.Postgres.Replication.Password} {
		if !s.Empty() {
			own = append(own, s.Reveal())
		}
	}
	return own
}
