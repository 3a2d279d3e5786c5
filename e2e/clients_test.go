package e2e

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jlaffaye/ftp"
	_ "github.com/lib/pq"
	"github.com/redis/go-redis/v9"
)

// use does with the credentials what an application would: it writes a value and
// reads it back, and fails when the login does not work.
func use(offering string, c map[string]any, value string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	switch offering {
	case "mysql":
		db, err := openMySQL(c)
		if err != nil {
			return err
		}
		defer db.Close()
		return useSQL(ctx, db, value)
	case "postgresql":
		db, err := sql.Open("postgres", c["uri"].(string)+"?sslmode=disable")
		if err != nil {
			return err
		}
		defer db.Close()
		return useSQL(ctx, db, value)
	case "redis":
		return useRedis(ctx, c, value)
	case "ftp":
		return useFTP(c, value)
	case "http":
		return useHTTP(ctx, c, value)
	default:
		return fmt.Errorf("no client for offering %q", offering)
	}
}

func address(c map[string]any) string { return fmt.Sprintf("%s:%.0f", c["host"], c["port"]) }

func openMySQL(c map[string]any) (*sql.DB, error) {
	cfg := mysql.NewConfig()
	cfg.Net, cfg.Addr, cfg.DBName = "tcp", address(c), c["name"].(string)
	cfg.User, cfg.Passwd = c["username"].(string), c["password"].(string)
	cfg.Timeout = 5 * time.Second
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

func useSQL(ctx context.Context, db *sql.DB, value string) error {
	if _, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS used (v varchar(100))"); err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, "INSERT INTO used VALUES ('"+value+"')"); err != nil {
		return err
	}
	var got int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM used WHERE v = '"+value+"'").Scan(&got); err != nil {
		return err
	}
	if got < 1 {
		return fmt.Errorf("%q is not in the table", value)
	}
	return nil
}

func useRedis(ctx context.Context, c map[string]any, value string) error {
	o, err := redis.ParseURL(c["uri"].(string))
	if err != nil {
		return err
	}
	o.MaxRetries = -1
	r := redis.NewClient(o)
	defer r.Close()
	if err := r.Set(ctx, "used", value, 0).Err(); err != nil {
		return err
	}
	got, err := r.Get(ctx, "used").Result()
	if err == nil && got != value {
		err = fmt.Errorf("got %q, want %q", got, value)
	}
	return err
}

func useFTP(c map[string]any, value string) error {
	conn, err := ftp.Dial(address(c), ftp.DialWithTimeout(5*time.Second))
	if err != nil {
		return err
	}
	defer conn.Quit()
	if err := conn.Login(c["username"].(string), c["password"].(string)); err != nil {
		return err
	}
	if err := conn.Stor("used.txt", bytes.NewReader([]byte(value))); err != nil {
		return err
	}
	r, err := conn.Retr("used.txt")
	if err != nil {
		return err
	}
	defer r.Close()
	return sameText(r, value)
}

func useHTTP(ctx context.Context, c map[string]any, value string) error {
	req, err := http.NewRequestWithContext(ctx, "PUT", c["upload_uri"].(string)+"used.txt", bytes.NewReader([]byte(value)))
	if err != nil {
		return err
	}
	req.SetBasicAuth(c["username"].(string), c["password"].(string))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("upload answered %s", res.Status)
	}
	req, err = http.NewRequestWithContext(ctx, "GET", c["uri"].(string)+"used.txt", nil)
	if err != nil {
		return err
	}
	if res, err = client.Do(req); err != nil {
		return err
	}
	defer res.Body.Close()
	return sameText(res.Body, value)
}

func sameText(r io.Reader, want string) error {
	b, err := io.ReadAll(r)
	if err == nil && string(b) != want {
		err = fmt.Errorf("got %q, want %q", b, want)
	}
	return err
}
