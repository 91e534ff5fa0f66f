//go:build race

package guard_test

// raceDetector needs memory of its own.
const raceDetector = true
