package postgres

import (
	"encoding/json"
	"fmt"

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

func (s *Server) seen() (seen ha.RecordSeen, err error) {
	err = readJSON(s.files, s.state("record"), &seen)
	return seen, err
}
