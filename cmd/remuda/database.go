package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/postgres"
	"github.com/remuda/remuda/store/sqlite"
)

// storeTime is how long a store may take to show that it is there.
const storeTime = 3 * time.Second

// databaseURL is what database_url says, or its file.
func (c *Config) databaseURL() (string, error) {
	if c.DatabaseURLFile == "" {
		return c.DatabaseURL, nil
	}
	b, err := os.ReadFile(c.DatabaseURLFile)
	if err != nil {
		return "", fmt.Errorf("database_url_file: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// checkDatabase says what is wrong with a URL, without showing it.
func checkDatabase(text string) error {
	scheme, _, _ := strings.Cut(text, ":")
	switch scheme {
	case "", "sqlite", "file":
		if _, err := url.Parse(text); err != nil {
			return errors.New("is not like sqlite:///path/to/file")
		}
		return nil
	case "postgres", "postgresql":
		return postgres.CheckURL(text)
	}
	return errors.New("is neither sqlite:///path/to/file nor postgres://user@host/database")
}

// openStore opens the store. Brokers that share it get what they need for that,
// if they have a PostgreSQL database.
func openStore(ctx context.Context, c Config, shared bool) (store.Store, store.Cluster, error) {
	text, err := c.databaseURL()
	if err != nil {
		return nil, nil, err
	}
	if err := checkDatabase(text); err != nil {
		return nil, nil, fmt.Errorf("database URL: %w", err)
	}
	if !strings.HasPrefix(text, "postgres") {
		s, err := sqlite.Open(ctx, databasePath(text, c.StateDir))
		if err != nil {
			return nil, nil, err
		}
		return s, nil, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, nil, fmt.Errorf("find out the host's name: %w", err)
	}
	o := postgres.Options{URL: text, Name: host + ":" + c.StateDir}
	if !shared {
		o.Lock = filepath.Join(c.StateDir, "database.lock")
	}
	s, err := postgres.Open(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	if !shared {
		return s, nil, nil
	}
	return s, s, nil
}

// databasePath is where SQLite keeps its file.
func databasePath(text, stateDir string) string {
	for _, p := range []string{"sqlite://", "file://", "sqlite:", "file:"} {
		if path, ok := strings.CutPrefix(text, p); ok {
			return path
		}
	}
	return filepath.Join(stateDir, "remuda.db")
}
