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
	content, err := json.Marshal(seen)
	if err != nil {
		return fmt.Errorf("keep the newest record: %w", err)
	}
	return s.write(s.state("record"), append(content, '\n'))
}

// seen is what was kept; nothing, if the file is damaged: it is written anew, and no server is to stop
// for it.
func (s *Server) seen() (ha.RecordSeen, error) {
	var seen ha.RecordSeen
	content, err := s.files.ReadFile(s.state("record"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return seen, fmt.Errorf("read the newest record: %w", err)
	}
	if err := json.Unmarshal(content, &seen); err != nil {
		return ha.RecordSeen{}, nil //nolint:nilerr // as above
	}
	return seen, nil
}
