package postgres

import (
	"os"
	"testing"
)

// TestCloneThroughALink: data_dir is a symbolic link to where the disk is.
func TestCloneThroughALink(t *testing.T) {
	a := newPrimary(t, "n1")
	b := newMember(t, "n2")
	must(t, b.Clone(soon(t), a.source(), nil))
	must(t, os.Rename(b.o.DataDir, b.o.DataDir+".disk"))
	must(t, os.Symlink(b.o.DataDir+".disk", b.o.DataDir))
	must(t, b.Start(soon(t), StartOptions{})) // as adopted, it runs
	b.up()
	must(t, b.Stop(soon(t), false))
	for range 3 {
		err := b.Clone(soon(t), a.source(), nil)
		left, _ := os.ReadDir(b.o.DataDir)
		t.Logf("Clone: %v; files left: %d", err, len(left))
		if err == nil {
			return
		}
		t.Logf("Discard: %v", b.Discard(soon(t)))
	}
	t.Error("the data is gone, and no clone can take its place")
}
