package settings

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// Copy is a member's copy of the stored settings, on disk: a member that starts while
// Consul is away uses it.
type Copy struct {
	path string

	mu   sync.Mutex // guards what follows
	kept kept
	have bool // there is one
}

// kept is the content of the file.
type kept struct {
	At    time.Time `json:"at"` // when Consul was known to have them
	Index uint64    `json:"index"`
	Raw   string    `json:"settings"` // as Consul has them; empty: there are none
}

// OpenCopy reads the copy in a directory. One that is damaged is an error, and no copy.
func OpenCopy(dir string) (*Copy, error) {
	c := &Copy{path: filepath.Join(dir, "settings.json")}
	content, err := rights.OwnerOf(dir).ReadOwn(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(content, &c.kept)
	}
	if err != nil {
		return c, fmt.Errorf("read the copy of the cluster's settings: %w", err)
	}
	c.have = true
	return c, nil
}

// Last returns what the copy has, as far as it can be read; Unread if there is none.
func (c *Copy) Last(r *Reader) Stored {
	c.mu.Lock()
	k, have := c.kept, c.have
	c.mu.Unlock()
	if !have {
		return Stored{Unread: true}
	}
	stored := r.Read([]byte(k.Raw), k.Index)
	stored.CopiedAt = k.At
	return stored
}

// refreshEvery is how old the date of a copy may be that nothing else has changed in.
const refreshEvery = time.Minute

// Keep writes what Consul has, if that is news or the copy's date is old. Settings with
// which something is wrong are not kept: what was right before is worth more.
func (c *Copy) Keep(s Stored, now time.Time) error {
	if s.Err != nil || s.Unread || !s.CopiedAt.IsZero() {
		return nil
	}
	next := kept{At: now, Index: s.Index, Raw: string(s.Raw)}
	c.mu.Lock()
	same := c.have && c.kept.Index == next.Index && c.kept.Raw == next.Raw && now.Sub(c.kept.At) < refreshEvery
	c.mu.Unlock()
	if same {
		return nil
	}
	content, err := json.Marshal(next)
	if err == nil {
		err = rights.OwnerOf(filepath.Dir(c.path)).ReplaceSync(c.path, append(content, '\n'))
	}
	if err != nil {
		return fmt.Errorf("keep a copy of the cluster's settings: %w", err)
	}
	c.mu.Lock()
	c.kept, c.have = next, true
	c.mu.Unlock()
	return nil
}
