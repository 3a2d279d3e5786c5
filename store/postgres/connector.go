package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/lib/pq"
)

// silence is how long a server may not answer. It is longer than any statement
// may take; so the network is gone.
const silence = 25 * time.Second

// ErrURL says that the URL is none, without showing it: it may hold a password.
var ErrURL = errors.New("the database URL is not like postgres://user@host/database?sslmode=verify-full")

// CheckURL says whether a URL can be used.
func CheckURL(text string) error {
	_, _, err := newConnector(text)
	return err
}

func newConnector(text string) (*pq.Connector, string, error) {
	if u, err := url.Parse(text); err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, "", ErrURL
	}
	settings, err := pq.ParseURL(text)
	if err != nil {
		return nil, "", ErrURL
	}
	for _, s := range [][2]string{{"connect_timeout", "5"}, {"application_name", "remuda"}} {
		if !strings.Contains(settings, s[0]+"=") {
			settings += " " + s[0] + "=" + s[1]
		}
	}
	connector, err := pq.NewConnector(settings)
	if err != nil {
		return nil, "", fmt.Errorf("database URL: %s", strings.ReplaceAll(err.Error(), text, "…"))
	}
	connector.Dialer(dialer{})
	return connector, settings, nil
}

// dialer makes connections on which nothing waits for ever.
type dialer struct {
	made func(net.Conn) // is told of each, if it is there
}

func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

func (d dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if d.made != nil {
		d.made(c)
	}
	return impatient{c}, nil
}

type impatient struct{ net.Conn }

func (c impatient) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c impatient) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}
