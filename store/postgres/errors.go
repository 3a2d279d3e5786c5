package postgres

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/lib/pq"

	"github.com/remuda/remuda/store"
)

// lost says that the connection is of no use any more, or that the server cannot
// do now what it can do later, perhaps another server at the same address. See
// "PostgreSQL Error Codes".
func lost(err error) bool {
	var answer *pq.Error
	if errors.As(err, &answer) {
		switch code := string(answer.Code); {
		case strings.HasPrefix(code, "08"), // connection exception
			strings.HasPrefix(code, "53"),  // insufficient resources: too many connections, disk full
			strings.HasPrefix(code, "57P"), // the server shuts down, has crashed, or starts
			strings.HasPrefix(code, "58"),  // system error
			code == "57014",                // statement timeout
			code == "55P03",                // lock timeout
			code == "25006",                // read-only: not the primary any more
			code == "25P03",                // idle in transaction for too long
			code == "40001", code == "40P01":
			return true
		}
		return answer.Fatal()
	}
	var network net.Error
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, errLost) || errors.As(err, &network)
}

var errLost = errors.New("connection lost")

// certain says that the server has answered a COMMIT with an error, and so has
// not done it.
func certain(err error) bool {
	var answer *pq.Error
	return errors.As(err, &answer) && !answer.Fatal()
}

// failed names an error. It never has values in it.
func failed(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrUnavailable):
		return err
	case lost(err):
		return fmt.Errorf("%w: %s: %w", store.ErrUnavailable, what, err)
	}
	return fmt.Errorf("store: %s: %w", what, err)
}
