package sqlite

import (
	"fmt"
	"os"
)

// private makes sure that the store's file is there and is nobody else's to
// read. SQLite gives the files beside it the same mode.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	defer f.Close()
	if err := f.Chmod(0o600); err != nil {
		return fmt.Errorf("protect store: %w", err)
	}
	return nil
}
