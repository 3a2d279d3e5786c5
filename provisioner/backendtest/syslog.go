package backendtest

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// askLogs is a script's way to search: nothing but VictoriaLogs listens there.
const askLogs = `exec 3<>/dev/tcp/127.0.0.1/9428; printf "GET /select/logsql/query?query=%s HTTP/1.0\r\n\r\n" "$M" >&3; cat <&3`

var syslogCanaries = []canary{
	{name: "account", plant: `echo "canary:$M:0" >>/var/lib/syslog/users`, find: found(`grep -q canary /var/lib/syslog/users`)},
	{name: "messages", find: found(fmt.Sprintf(`M=$M bash -c '%s' | grep -q "_msg.*$M"`, askLogs))}, // by the session
	{name: "retention", plant: `echo 300 >/var/lib/syslog/retention`, find: found(`grep -q 300 /var/lib/syslog/retention`)},
	{name: "certificate", plant: `echo "# $M" >>/var/lib/syslog/tls/server.pem`, find: found(`grep -q "$M" /var/lib/syslog/tls/server.pem`)},
}

// syslogAt is a port of the log server.
func syslogAt(credentials map[string]any, port string) string {
	return net.JoinHostPort(credentials["hostname"].(string), fmt.Sprint(credentials[port]))
}

// syslogClient verifies the server by what the binding says.
func syslogClient(credentials map[string]any) *http.Client {
	roots := x509.NewCertPool()
	if text, _ := credentials["ca_certificate"].(string); !roots.AppendCertsFromPEM([]byte(text)) {
		roots = x509.NewCertPool()
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
}

// syslogSearch opens a search or a tail.
func syslogSearch(ctx context.Context, client *http.Client, credentials map[string]any, what, query string) (io.ReadCloser, error) {
	u := fmt.Sprintf("https://%s/select/logsql/%s?query=%s", syslogAt(credentials, "https_port"), what, url.QueryEscape(query))
	req, err := http.NewRequestWithContext(ctx, "GET", u, nil)
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth(credentials["username"].(string), credentials["password"].(string))
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%s answers %s", what, resp.Status)
	}
	return resp.Body, nil
}

// syslogLogin tries the old login at a new certificate too: it is not what keeps
// the former tenant out.
func syslogLogin(ctx context.Context, credentials map[string]any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	blind := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	body, err := syslogSearch(ctx, blind, credentials, "query", "*")
	if err == nil {
		body.Close()
	}
	return err
}

// syslogMessage is one with its length before it.
func syslogMessage(text string) string {
	m := fmt.Sprintf("<14>1 %s host app [APP/0] - - %s", time.Now().UTC().Format(time.RFC3339Nano), text)
	return fmt.Sprintf("%d %s", len(m), m)
}

// syslogSession follows live what it sends: the connection with messages and the
// tail stay open.
func syslogSession(t testing.TB, credentials map[string]any, mark string) func() error {
	t.Helper()
	c, err := net.DialTimeout("tcp", syslogAt(credentials, "tcp_port"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	lines := make(chan string, 1000)
	go func() { // nothing comes before the first message, not even a status
		defer close(lines)
		tail, err := syslogSearch(ctx, syslogClient(credentials), credentials, "tail", mark)
		if err != nil {
			return
		}
		defer tail.Close()
		for s := bufio.NewScanner(tail); s.Scan(); {
			lines <- s.Text()
		}
	}()
	n := 0
	alive := func() error {
		n++
		if _, err := io.WriteString(c, syslogMessage(fmt.Sprintf("%s %d.", mark, n))); err != nil {
			return err
		}
		late := time.After(15 * time.Second)
		for {
			select {
			case line, ok := <-lines:
				if !ok {
					return errors.New("the tail has ended")
				}
				if strings.Contains(line, fmt.Sprintf("%s %d.", mark, n)) {
					return nil
				}
			case <-late:
				return errors.New("the tail does not show the message")
			}
		}
	}
	if err := alive(); err != nil {
		t.Fatal(err)
	}
	return alive
}

func syslogUse(t testing.TB, credentials map[string]any) {
	t.Helper()
	syslogSession(t, credentials, newMark())
}
