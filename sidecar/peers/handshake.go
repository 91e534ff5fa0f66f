package peers

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/url"
)

// protocol is the Upgrade token; its number changes when frames or handshake do.
const protocol = "pgsidecar-peer/1"

const (
	headerCluster = "Pgsidecar-Cluster"
	headerMember  = "Pgsidecar-Member"
	headerProcess = "Pgsidecar-Process"
	headerNonce   = "Pgsidecar-Nonce"

	nonceSize = 32
	maxName   = 255 // bytes of a member's or cluster's name
)

// hello is what each end says of itself before anything is proved.
type hello struct {
	cluster string
	member  string
	process string // random, one for each life of a process: tells a second process of the same name from a new stream of the first
	nonce   []byte
}

func newNonce() []byte {
	b := make([]byte, nonceSize)
	rand.Read(b) // never fails
	return b
}

func (h hello) setHeader(header http.Header) {
	header.Set(headerCluster, url.QueryEscape(h.cluster))
	header.Set(headerMember, url.QueryEscape(h.member))
	header.Set(headerProcess, url.QueryEscape(h.process))
	header.Set(headerNonce, base64.RawURLEncoding.EncodeToString(h.nonce))
}

// readHello returns ErrProtocol if the header is not a hello.
func readHello(header http.Header) (hello, error) {
	var h hello
	for _, f := range []struct {
		name string
		to   *string
	}{{headerCluster, &h.cluster}, {headerMember, &h.member}, {headerProcess, &h.process}} {
		v, err := url.QueryUnescape(header.Get(f.name))
		if err != nil || v == "" || len(v) > maxName {
			return hello{}, fmt.Errorf("read header %s: %w", f.name, ErrProtocol)
		}
		*f.to = v
	}
	nonce, err := base64.RawURLEncoding.DecodeString(header.Get(headerNonce))
	if err != nil || len(nonce) != nonceSize {
		return hello{}, fmt.Errorf("read header %s: %w", headerNonce, ErrProtocol)
	}
	h.nonce = nonce
	return h, nil
}

// streamKeys are made for one stream and never used for another.
type streamKeys struct {
	proof []byte // what the subscriber sends to show that it has the secret
	frame []byte // key of the publisher's frames
}

// newStreamKeys derives a stream's keys from the secret and from all that both
// ends said, so that nothing recorded on one stream is good on another.
func newStreamKeys(secret []byte, subscriber, publisher hello) streamKeys {
	mac := hmac.New(sha256.New, secret)
	field := func(b []byte) {
		var n [lengthSize]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(b)))
		mac.Write(n[:])
		mac.Write(b)
	}
	field([]byte(protocol))
	for _, h := range []hello{subscriber, publisher} {
		field([]byte(h.cluster))
		field([]byte(h.member))
		field([]byte(h.process))
		field(h.nonce)
	}
	master := mac.Sum(nil)
	derive := func(label string) []byte {
		m := hmac.New(sha256.New, master)
		m.Write([]byte(label))
		return m.Sum(nil)
	}
	return streamKeys{proof: derive("subscriber's proof"), frame: derive("publisher's frames")}
}
