//go:build !crashpoints

package main

import "github.com/remuda/remuda/store"

// persisted is told of every step that the back end has written down; only the
// build for crash tests listens.
var persisted func()

func withCrashPoints(s store.Store) store.Store { return s }
