package main

import (
	"fmt"
	"os"
)

// agentBinary is the program that members start: remuda-agent beside this binary, or this one.
func agentBinary() (string, error) {
	own, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find own binary: %w", err)
	}
	if st, err := os.Stat(own + "-agent"); err == nil && st.Mode().IsRegular() {
		return own + "-agent", nil
	}
	return own, nil
}
