package backendtest

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"testing"
	"time"
)

// middleware is what a kind of server can be left with. Scripts of admin
// canaries run with what the recipe's own programs have.
type middleware struct {
	admin []canary
	// login says whether the credentials work from outside.
	login func(ctx context.Context, credentials map[string]any) error
	// session opens a connection as a tenant, leaves in it what only a session
	// can hold, and returns a function that fails when the session has ended.
	session func(t testing.TB, credentials map[string]any, mark string) (alive func() error)
	// use works as a new tenant does.
	use func(t testing.TB, credentials map[string]any)
}

// middlewares by the name of the recipe.
var middlewares = map[string]middleware{
	"mysql":      {admin: mysqlCanaries, login: mysqlLogin, session: mysqlSession, use: mysqlUse},
	"postgresql": {admin: postgresCanaries, login: postgresLogin, session: postgresSession, use: postgresUse},
	"redis":      {admin: redisCanaries, login: redisLogin, session: redisSession, use: redisUse},
	"ftp":        {admin: ftpCanaries, login: ftpLogin, session: ftpSession, use: ftpUse},
	"http":       {admin: httpCanaries, login: httpLogin, session: httpSession, use: httpUse},
	"gateway":    {admin: gatewayCanaries, login: gatewayLogin, session: gatewaySession, use: gatewayUse},
	"volume":     {admin: volumeCanaries, login: volumeLogin, session: volumeSession, use: volumeUse},
	"syslog":     {admin: syslogCanaries, login: syslogLogin, session: syslogSession, use: syslogUse},
}

// sqlSession runs statements in one session; it lives while the session answers.
func sqlSession(t testing.TB, open func(map[string]any) (*sql.DB, error), credentials map[string]any, statements ...string) func() error {
	t.Helper()
	db, err := open(credentials)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatalf("open a session: %v", err)
	}
	for _, s := range statements {
		if _, err := conn.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		var one int
		return conn.QueryRowContext(ctx, "SELECT 1").Scan(&one)
	}
}

// sqlLogin says whether a session can be opened.
func sqlLogin(ctx context.Context, open func(map[string]any) (*sql.DB, error), credentials map[string]any) error {
	db, err := open(credentials)
	if err != nil {
		return err
	}
	defer db.Close()
	return db.PingContext(ctx)
}

// sqlUse makes a table of one's own.
func sqlUse(t testing.TB, open func(map[string]any) (*sql.DB, error), credentials map[string]any) {
	t.Helper()
	db, err := open(credentials)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, s := range []string{"CREATE TABLE mine (a INT)", "INSERT INTO mine VALUES (1)"} {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Errorf("a new tenant: %s: %v", s, err)
		}
	}
}

// hostPort is where the credentials' server is.
func hostPort(credentials map[string]any) string {
	return net.JoinHostPort(credentials["hostname"].(string), fmt.Sprint(credentials["port"]))
}
