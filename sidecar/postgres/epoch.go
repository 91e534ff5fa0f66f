package postgres

import "strconv"

// NoteEpoch keeps the epoch of sites in which this server's cluster was last seen to take
// writes (ha.Files.Epoch). It never goes back.
func (s *Server) NoteEpoch(epoch uint64) error {
	known, err := s.epoch()
	if err != nil || epoch <= known {
		return err
	}
	return s.write(s.state("epoch"), []byte(strconv.FormatUint(epoch, 10)+"\n"))
}

func (s *Server) epoch() (epoch uint64, err error) {
	err = readJSON(s.files, s.state("epoch"), &epoch)
	return epoch, err
}
