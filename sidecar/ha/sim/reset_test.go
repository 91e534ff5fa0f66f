package sim

import (
	"reflect"
	"testing"
	"unsafe"
)

// TestResetForgets fills a used world's every field, and finds nothing of it in the world
// that a run begins with: else a run depends on those before it in the same world.
func TestResetForgets(t *testing.T) {
	o := Options{Seed: 7, Members: 3}
	fresh, used := NewWorld(), NewWorld()
	used.reset(o)
	fill(reflect.ValueOf(used).Elem())
	for i := range used.members {
		used.members[i].sidecar.sent = nil // memory, which is made where there is none
	}
	fresh.reset(o)
	used.reset(o)
	copy(used.members[o.Members:], fresh.members[o.Members:]) // not of this run
	if left := differences("world", reflect.ValueOf(used).Elem(), reflect.ValueOf(fresh).Elem()); len(left) > 0 {
		t.Errorf("%d differences in the next run: %q", len(left), left)
	}
}

// fill writes something into each field that is not a pointer or a function.
func fill(v reflect.Value) {
	v = reflect.NewAt(v.Type(), unsafe.Pointer(v.UnsafeAddr())).Elem() // fields of other packages too
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i))
		}
	case reflect.Slice: // a new one: what it had may be the package's, as names are
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.String:
		v.SetString("before")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	}
}
