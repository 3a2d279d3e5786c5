package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/lib/pq"
	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/internal/ownthread"
)

// credentials as a binding has them.
type credentials map[string]any

func (c credentials) text(key string) string { return fmt.Sprint(c[key]) }

// dial connects to the address that the credentials name, or to somewhere else.
type dial func(ctx context.Context, address string) (net.Conn, error)

// published is the way a tenant comes.
func published(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", address)
}

// inside connects to a port within the network namespace of a process, with
// nothing between client and server.
func inside(pid, port int) dial {
	return func(ctx context.Context, _ string) (net.Conn, error) {
		var conn net.Conn
		err := ownthread.In(pid, []string{"net"}, func() (err error) {
			conn, err = dialHere(port)
			return err
		})
		return conn, err
	}
}

// dialHere makes its socket in this thread, which the net package would not promise.
func dialHere(port int) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "tcp")
	defer f.Close()
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return nil, err
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return conn, conn.(*net.TCPConn).SetNoDelay(true)
}

// openSQL prepares connections with the credentials; it makes none yet.
func openSQL(offering string, c credentials, d dial) (*sql.DB, error) {
	address := c.text("host") + ":" + c.text("port")
	var connector driver.Connector
	var err error
	switch offering {
	case "mysql":
		cfg := mysql.NewConfig()
		cfg.Net, cfg.Addr, cfg.DBName = "tcp", address, c.text("name")
		cfg.User, cfg.Passwd = c.text("username"), c.text("password")
		cfg.MaxAllowedPacket, cfg.Logger = 0, quiet{}
		cfg.DialFunc = func(ctx context.Context, _, address string) (net.Conn, error) { return d(ctx, address) }
		connector, err = mysql.NewConnector(cfg)
	case "postgresql":
		var p *pq.Connector
		if p, err = pq.NewConnector(c.text("uri") + "?sslmode=disable"); err == nil {
			p.Dialer(pqDialer{d})
			connector = p
		}
	default:
		err = fmt.Errorf("no SQL client for %q", offering)
	}
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

// quiet keeps silent about servers that are not there yet.
type quiet struct{}

func (quiet) Print(...any) {}

// pqDialer is a dial as lib/pq wants it.
type pqDialer struct{ dial dial }

func (d pqDialer) Dial(_, address string) (net.Conn, error) {
	return d.dial(context.Background(), address)
}

func (d pqDialer) DialTimeout(_, address string, limit time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return d.dial(ctx, address)
}

func (d pqDialer) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	return d.dial(ctx, address)
}

// selectOne logs in on a new connection and asks the simplest question.
func selectOne(ctx context.Context, offering string, c credentials) error {
	db, err := openSQL(offering, c, published)
	if err != nil {
		return err
	}
	defer db.Close()
	var one int
	return db.QueryRowContext(ctx, "SELECT 1").Scan(&one)
}

// answers waits until the first SELECT 1 succeeds.
func answers(ctx context.Context, offering string, c credentials) error {
	var last error
	err := wait(ctx, time.Minute, 2*time.Millisecond, offering+" answers", func() (bool, error) {
		last = selectOne(ctx, offering, c)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%w: %w", err, last)
	}
	return nil
}
