package ha

import "testing"

// TestPerZone: any k of the names, no more than that of one zone, are of zones - 1 zones.
func TestPerZone(t *testing.T) {
	for k := 1; k <= 6; k++ {
		for zones := 3; zones <= k+1; zones++ {
			most := perZone(k, zones)
			if spans := (k + most - 1) / most; spans < zones-1 {
				t.Errorf("%d of %d a zone span %d zones, not %d", k, most, spans, zones-1)
			}
			if more := most + 1; (k+more-1)/more >= zones-1 {
				t.Errorf("k=%d, zones=%d: %d a zone would do as well as %d", k, zones, more, most)
			}
		}
	}
	if perZone(1, 2) < 16 {
		t.Error("of two zones any member of the other will do")
	}
}
