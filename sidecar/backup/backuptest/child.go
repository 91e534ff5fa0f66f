package backuptest

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
)

// Main runs a package's tests; or, where the variable env has a T as JSON, it runs that and
// ends the process: one that a test can kill.
func Main[T any](m *testing.M, env string, run func(T) error) {
	text := os.Getenv(env)
	if text == "" {
		os.Exit(m.Run())
	}
	var c T
	err := json.Unmarshal([]byte(text), &c)
	if err == nil {
		err = run(c)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}
