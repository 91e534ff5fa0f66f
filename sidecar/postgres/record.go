package postgres

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// NoteSeen keeps what this member knows of the cluster's newest record (ha.Files.Seen), beside
// its promise. Nobody waits for it.
func (s *Server) NoteSeen(seen ha.RecordSeen) error {
	was, err := s.seen()
	if err != nil {
		return err
	}
	since := seen.Term
	if was.System == seen.System && was.Term != 0 {
		since = was.Since
	}
	content, err := json.Marshal(ha.RecordKept{RecordSeen: seen, Since: since})
	if err != nil {
		return fmt.Errorf("keep the newest record: %w", err)
	}
	return s.write(s.state("record"), append(content, '\n'))
}

// seen is what was kept; nothing, if the file is damaged: it is written anew, and no server is to stop
// for it.
func (s *Server) seen() (ha.RecordKept, error) {
	var seen ha.RecordKept
	content, err := s.files.ReadFile(s.state("record"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return seen, fmt.Errorf("read the newest record: %w", err)
	}
	if err := json.Unmarshal(content, &seen); err != nil {
		return ha.RecordKept{}, nil //nolint:nilerr // as above
	}
	if seen.Since == 0 { // an earlier version did not write it
		seen.Since = seen.Term
	}
	return seen, nil
}
