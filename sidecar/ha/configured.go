package ha

// Configured is what the server's configuration says of what is promised of it. It is
// read with each upkeep (5 s) and soon after a change of role, by SQL and from the
// server's log, and shown by the next look.
type Configured struct {
	// ConfigProblem says which of the server's files PostgreSQL refuses to read, and
	// why (postgresql.conf and what it includes, pg_hba.conf, pg_ident.conf,
	// postgresql.auto.conf). For the first two the last that it took hold, also through
	// a restart. Read with each upkeep (5 s) and at each start. Empty: none.
	ConfigProblem string
	// SyncCommit is synchronous_commit of a session for which nothing else is set
	// (on, off, local, remote_write, remote_apply); empty: not read yet.
	SyncCommit string
	// Weak are settings of roles and databases, for people, by which sessions commit
	// without waiting for a standby's flush.
	Weak []string
	// ReadOnly are settings, for people, by which transactions may not write unless they
	// ask to: the server takes writes, and clients' fail.
	ReadOnly []string
	// Reordered are, for people, the databases and collations whose indexes on text were made
	// with another version of a library than this machine has.
	Reordered []string
	// Unarchived is how many files wait to be archived, and UnarchivedSince since when the oldest
	// does (Unix seconds); zero: none. PostgreSQL tries each before it stops.
	Unarchived      int
	UnarchivedSince int64
	// CancelledWaits counts commits whose wait for standbys was cancelled (a cancelled
	// statement, an ended session) since this process began: their rows are visible and
	// perhaps acknowledged, and a failover may lose them.
	CancelledWaits uint64
	Software       Software
	// StreamProblem is why a standby's server receives nothing, in PostgreSQL's words.
	StreamProblem string
	// Misled says what answers at the advertised address that is not this member's server.
	Misled string
}

// Software is what a copy of the data depends on besides the data. The log is
// of one major version; and an index on text is in the order of the libraries of the
// machine that the primary ran on, so that another version of them may not find what is
// in it.
type Software struct {
	Postgres int    `json:"postgres,omitempty"` // server_version_num; zero: not known
	Libc     string `json:"libc,omitempty"`     // version of libc's collations; empty: there is none but C, or not known
	ICU      string `json:"icu,omitempty"`      // of ICU's root collation; empty: the server has no ICU, or not known
}
