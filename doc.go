// Package remuda is the root of the module: only the test of the layers is
// here. Start reading at cmd/remuda, or at ARCHITECTURE.md.
package remuda
