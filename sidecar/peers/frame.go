package peers

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// MaxFrame is the largest report that is sent or read, in bytes of JSON.
const MaxFrame = 64 << 10

// Errors of a stream. Each ends it; each is a cause in Mesh.Refusals.
var (
	ErrOversized       = errors.New("frame is larger than allowed")
	ErrForged          = errors.New("frame is not authentic") // changed, replayed, reordered or reflected
	ErrMalformed       = errors.New("report cannot be read")
	ErrReplayed        = errors.New("report is older than the last")
	ErrUnauthenticated = errors.New("no proof of the shared secret")
	ErrCluster         = errors.New("member of another cluster")
	ErrName            = errors.New("member has another name than expected")
	ErrDuplicate       = errors.New("two processes have the same member name")
	ErrProtocol        = errors.New("not the protocol of this version")
	ErrBusy            = errors.New("too many handshakes at once")
	ErrSecret          = errors.New("shared secret cannot be read")
)

const (
	lengthSize = 4
	macSize    = sha256.Size
)

// frameSeal numbers frames and computes their HMAC; one for each end of a
// stream. The number is never sent: both ends count.
type frameSeal struct {
	mac hash.Hash
	seq uint64
	sum []byte
}

func newFrameSeal(key []byte) *frameSeal {
	return &frameSeal{mac: hmac.New(sha256.New, key), sum: make([]byte, 0, macSize)}
}

// next returns the HMAC of the next frame. It is overwritten by the next call.
func (s *frameSeal) next(payload []byte) []byte {
	var seq [8]byte
	binary.BigEndian.PutUint64(seq[:], s.seq)
	s.seq++
	s.mac.Reset()
	s.mac.Write(seq[:])
	s.mac.Write(payload)
	s.sum = s.mac.Sum(s.sum[:0])
	return s.sum
}

// frameWriter writes frames; not for concurrent use.
type frameWriter struct {
	w    io.Writer
	seal *frameSeal
	buf  []byte
}

// write sends one frame with a single call of the underlying Write.
func (f *frameWriter) write(payload []byte) error {
	f.buf = binary.BigEndian.AppendUint32(f.buf[:0], uint32(len(payload)))
	f.buf = append(f.buf, payload...)
	f.buf = append(f.buf, f.seal.next(payload)...)
	_, err := f.w.Write(f.buf)
	return err
}

// frameReader reads frames; not for concurrent use.
type frameReader struct {
	r    *bufio.Reader
	seal *frameSeal
	buf  []byte
}

// read returns the payload of the next frame, which is valid until the next
// call. It returns ErrOversized before it reads such a frame, ErrForged, or the
// error of the connection.
func (f *frameReader) read() ([]byte, error) {
	var head [lengthSize]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxFrame {
		return nil, ErrOversized
	}
	size := int(n) + macSize
	if cap(f.buf) < size {
		f.buf = make([]byte, size)
	}
	f.buf = f.buf[:size]
	if _, err := io.ReadFull(f.r, f.buf); err != nil {
		return nil, err
	}
	payload := f.buf[:n]
	if !hmac.Equal(f.buf[n:], f.seal.next(payload)) {
		return nil, ErrForged
	}
	return payload, nil
}

// decodeReport reads an authenticated payload as a report of member that is
// newer than last. It returns ErrMalformed, ErrName or ErrReplayed. Fields that
// it does not know are ignored: a newer version may send them.
func decodeReport(payload []byte, member string, last uint64) (ha.Report, error) {
	var r ha.Report
	if err := json.Unmarshal(payload, &r); err != nil {
		// The decoder's own text would quote the report.
		return ha.Report{}, fmt.Errorf("decode report: %w", ErrMalformed)
	}
	switch {
	case r.Member != member:
		return ha.Report{}, fmt.Errorf("check report: %w", ErrName)
	case r.Seq <= last:
		return ha.Report{}, fmt.Errorf("check report: %w", ErrReplayed)
	}
	return r, nil
}
