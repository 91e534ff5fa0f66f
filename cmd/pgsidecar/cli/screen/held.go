package screen

import (
	"fmt"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
)

// muchHeld is how much log one slot may keep before it is worth a line: a replica that
// restarts needs less.
const muchHeld = 1 << 30

// writeHeld says for whom the member that answers keeps log, and which slots are used up.
func writeHeld(b *strings.Builder, st *api.Status) {
	for _, slot := range st.Held {
		member, own := strings.CutPrefix(slot.Name, "pgsidecar_")
		whose := fmt.Sprintf("slot %s", slot.Name)
		if own {
			whose = fmt.Sprintf("slot %s, of member %s", slot.Name, member)
		}
		drop := fmt.Sprintf("if nobody needs it any more, drop it: select pg_drop_replication_slot('%s')", slot.Name)
		if own {
			drop = "if that member does not come back: pgsidecar remove " + member
		}
		switch {
		case slot.Lost && !own:
			fmt.Fprintf(b, "\n%s: %s is used up: the log it kept is gone (max_slot_wal_keep_size), and its consumer must begin anew. To drop it: select pg_drop_replication_slot('%s')\n",
				st.Member, whose, slot.Name)
		case !slot.Lost && slot.Bytes >= muchHeld:
			idle := "is read from and "
			if !slot.Active {
				idle = "is not read from and "
			}
			fmt.Fprintf(b, "\n%s: %s, %skeeps %s of log on this member's disk; %s\n", st.Member, whose, idle, BytesWords(uint64(slot.Bytes)), drop)
		}
	}
}
