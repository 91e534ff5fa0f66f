package drill

import (
	"cmp"
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Registers overwrites and reads numbered registers through one route, several
// clients on each at once, and remembers all that was done and answered
// (Operations), for a checker that looks for an order in which it can have
// happened. The rows of a Writer say whether a commit is lost; this says whether
// commits also take effect in an order that all clients can agree on.
//
// A read writes back what it found, so that it too is acknowledged by the
// voters: a plain one may be answered by a deposed primary until its lease ends.
type Registers struct {
	Route    Route
	Run      int64
	Clients  int           // 0: 3
	Interval time.Duration // between two operations of a client; 0: none

	mu         sync.Mutex
	operations []Operation
	key        int64 // the register that is in use
	uses       int   // of it
	unknown    int   // of those
	value      int64 // the last one that was written to any

	begun  time.Time
	cancel context.CancelFunc
	wait   sync.WaitGroup
}

// Operation is one write or read of a register, which holds 0 at first. No value
// is written twice.
type Operation struct {
	Client int
	Key    int64
	Write  bool
	Value  int64 // written, or found
	// Called is before it was sent, Returned after its answer was read; since
	// Registers.Start.
	Called, Returned time.Duration
	// Unknown writes were not answered: they may have taken effect since Called,
	// may still do so, or may never. (A read without an answer is not kept.)
	Unknown bool
}

// A register is given up after so many uses, or so many of them without an
// answer: a checker's work grows steeply with what is open.
const (
	registerUses    = 60
	registerUnknown = 6
)

const (
	writeRegister = `INSERT INTO drill.registers (run, key, value) VALUES ($1, $2, $3)
 ON CONFLICT (run, key) DO UPDATE SET value = excluded.value RETURNING value`
	readRegister = `INSERT INTO drill.registers AS r (run, key, value) VALUES ($1, $2, $3)
 ON CONFLICT (run, key) DO UPDATE SET value = r.value RETURNING value`
)

// Start begins.
func (r *Registers) Start() {
	ctx, cancel := context.WithCancel(context.Background()) // ended by Stop
	r.cancel, r.begun = cancel, time.Now()
	for client := range cmp.Or(r.Clients, 3) {
		r.wait.Go(func() {
			p := r.Route.pace()
			for ctx.Err() == nil {
				r.connected(ctx, client, &p)
				sleep(ctx, p.before()+rand.N(20*time.Millisecond))
			}
		})
	}
}

// Stop ends it and waits for that.
func (r *Registers) Stop() {
	r.cancel()
	r.wait.Wait()
}

// Operations returns what was done until now, in the order of the answers.
func (r *Registers) Operations() []Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Operation(nil), r.operations...)
}

// connected is the life of one connection, until something fails.
func (r *Registers) connected(ctx context.Context, client int, p *pace) {
	connecting, cancel := context.WithTimeout(ctx, p.patience(connectTimeout))
	defer cancel()
	conn, err := r.Route.Connect(connecting)
	if err != nil {
		return
	}
	defer closeNow(conn)
	for ctx.Err() == nil {
		operating, cancel := context.WithTimeout(ctx, p.patience(statementTimeout))
		err := r.operate(operating, conn, r.next(client))
		cancel()
		if err != nil {
			return
		}
		p.answer()
		sleep(ctx, r.Interval)
	}
}

// next draws the next operation of a client.
func (r *Registers) next(client int) Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.uses++; r.uses > registerUses || r.unknown >= registerUnknown {
		r.key, r.uses, r.unknown = r.key+1, 1, 0
	}
	o := Operation{Client: client, Key: r.key, Write: rand.IntN(2) == 0}
	if o.Write {
		r.value++
		o.Value = r.value
	}
	return o
}

// operate does one operation, and keeps what came of it.
func (r *Registers) operate(ctx context.Context, conn *pgx.Conn, o Operation) error {
	statement := readRegister
	if o.Write {
		statement = writeRegister
	}
	var found int64
	o.Called = time.Since(r.begun)
	err := conn.QueryRow(ctx, statement, r.Run, o.Key, o.Value).Scan(&found)
	o.Returned = time.Since(r.begun)
	if err != nil && !o.Write {
		return err
	}
	if err == nil {
		o.Value = found
	}
	o.Unknown = err != nil
	r.mu.Lock()
	defer r.mu.Unlock()
	r.operations = append(r.operations, o)
	if o.Unknown && o.Key == r.key {
		r.unknown++
	}
	return err
}
