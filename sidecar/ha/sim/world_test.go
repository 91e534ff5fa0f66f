package sim

import (
	"fmt"
	"reflect"
	"testing"
)

// TestReset: after a reset nothing is left of the run before, wherever that
// ended: each field is what it is in a new world. (What a run leaves only if it
// ends amid its faults, as one that breaks a promise does, few pairs of runs show.)
func TestReset(t *testing.T) {
	used := NewWorld()
	for seed := uint64(1); seed <= 300; seed++ {
		used.reset(Options{Members: 5, Seed: seed, Outside: AllOutside})
		for range 10 * seed {
			if !used.next() {
				break
			}
		}
		o := Options{Members: 5, Seed: seed + 1000, Outside: AllOutside}
		used.reset(o)
		fresh := NewWorld()
		fresh.reset(o)
		if left := differences("world", reflect.ValueOf(used).Elem(), reflect.ValueOf(fresh).Elem()); len(left) > 0 {
			t.Fatalf("seed %d, ended early, leaves %d differences in the next run: %s", seed, len(left), left[0])
		}
	}
}

// differences are the places at which two values differ. Empty and nil slices are
// the same here, and so are earlier reports that no sequence number finds again.
func differences(at string, a, b reflect.Value) (found []string) {
	switch a.Kind() {
	case reflect.Struct:
		if a.Type() == reflect.TypeFor[sentReport]() && a.FieldByName("seq").IsZero() && b.FieldByName("seq").IsZero() {
			return nil
		}
		for i := range a.NumField() {
			found = append(found, differences(at+"."+a.Type().Field(i).Name, a.Field(i), b.Field(i))...)
		}
	case reflect.Slice, reflect.Array:
		if a.Len() != b.Len() {
			return []string{fmt.Sprintf("%s has %d elements, and %d in a new world", at, a.Len(), b.Len())}
		}
		for i := range a.Len() {
			found = append(found, differences(fmt.Sprintf("%s[%d]", at, i), a.Index(i), b.Index(i))...)
		}
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			if a.IsNil() != b.IsNil() {
				found = append(found, at+" is nil in one of the two")
			}
			return found
		}
		return differences(at, a.Elem(), b.Elem())
	case reflect.Func:
		if a.Pointer() != b.Pointer() {
			found = append(found, at+" is another function")
		}
	default:
		if !a.Equal(b) {
			found = append(found, fmt.Sprintf("%s is %v, and %v in a new world", at, a, b))
		}
	}
	return found
}
