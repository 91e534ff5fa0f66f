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
	fresh.reset(o)
	used.reset(o)
	copy(used.members[o.Members:], fresh.members[o.Members:]) // not of this run
	compare(t, "World", reflect.ValueOf(fresh).Elem(), reflect.ValueOf(used).Elem())
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
	case reflect.Slice:
		for i := range v.Len() {
			fill(v.Index(i))
		}
		if v.Len() == 0 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			fill(v.Index(0))
		}
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

// kept is memory that is used again: what is in it is not read before it is written.
var kept = map[string]bool{"World.members.sidecar.sent": true, "World.core.Decide": true, "World.core.Report": true, "World.queue.heap": true}

// compare finds what differs in two worlds, where a slice of nothing is as good as none.
func compare(t *testing.T, name string, fresh, used reflect.Value) {
	if kept[name] {
		return
	}
	switch fresh.Kind() {
	case reflect.Struct:
		for i := range fresh.NumField() {
			compare(t, name+"."+fresh.Type().Field(i).Name, fresh.Field(i), used.Field(i))
		}
	case reflect.Array, reflect.Slice:
		if fresh.Len() != used.Len() {
			t.Errorf("%s has %d, and %d in a used world", name, fresh.Len(), used.Len())
			return
		}
		for i := range fresh.Len() {
			compare(t, name, fresh.Index(i), used.Index(i))
		}
	case reflect.Pointer, reflect.Func, reflect.Map:
		if fresh.IsNil() != used.IsNil() {
			t.Errorf("%s is nil: %t, and %t in a used world", name, fresh.IsNil(), used.IsNil())
		}
	default:
		if !fresh.Equal(used) {
			t.Errorf("%s is %v, and %v in a used world", name, fresh, used)
		}
	}
}
