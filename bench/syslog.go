package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	logStreams = 4
	logSize    = 300 // bytes of a message
	logGoal    = 20000
)

// syslog measures how many messages a second a log server takes over TCP. Loss is
// what a search does not find afterwards; there must be none.
func (b *bench) syslog(ctx context.Context) (rows []Row, err error) {
	s, err := b.serve(ctx, "syslog", "offerings: [syslog]\npools: {syslog/small: {floor: 1}, syslog/medium: {floor: 1}}\n")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	for _, plan := range []string{"syslog/medium", "syslog/small"} {
		sent, found, took, err := b.flood(ctx, s, plan)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", plan, err)
		}
		row := Row{What: plan + ", messages of 300 bytes over TCP", Value: float64(sent) / took.Seconds(), Unit: "/s",
			Note: fmt.Sprintf("%d of %d messages were lost; %d connections for %s", sent-found, sent, logStreams, took.Round(100*time.Millisecond))}
		if plan == "syslog/medium" {
			row = row.goal(fmt.Sprintf("≥ %d, no loss", logGoal), row.Value >= logGoal && found == sent)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// flood sends as fast as the log server takes it, until it has all of it.
func (b *bench) flood(ctx context.Context, s *server, plan string) (sent, found int, took time.Duration, err error) {
	if err := s.settled(ctx, plan, 1); err != nil {
		return 0, 0, 0, err
	}
	id := s.newID()
	if err := s.provision(ctx, id, plan, true); err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, s.deprovision(context.WithoutCancel(ctx), id, plan)) }()
	c, err := s.bind(ctx, id, plan)
	if err != nil {
		return 0, 0, 0, err
	}
	type result struct {
		sent int
		err  error
	}
	length := time.Duration(b.times(10, 3)) * time.Second
	done := make(chan result, logStreams)
	began := time.Now()
	for n := range logStreams {
		go func() {
			sent, err := sendLogs(ctx, net.JoinHostPort(c.text("host"), c.text("tcp_port")), n, began.Add(length))
			done <- result{sent, err}
		}()
	}
	for range logStreams {
		r := <-done
		sent, err = sent+r.sent, errors.Join(err, r.err)
	}
	took = time.Since(began)
	if err != nil {
		return sent, 0, took, err
	}
	// What has just come is found a few seconds later.
	patience := time.Now().Add(20 * time.Second)
	err = wait(ctx, time.Minute, time.Second, "all messages are found", func() (bool, error) {
		var err error
		found, err = countLogs(ctx, c)
		return found == sent || time.Now().After(patience), err
	})
	return sent, found, took, err
}

// sendLogs sends until the end, and returns when the other side has read everything.
func sendLogs(ctx context.Context, address string, stream int, end time.Time) (sent int, err error) {
	c, err := published(ctx, address)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	var block []byte
	for time.Now().Before(end) {
		block = block[:0]
		at := time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")
		for n := range 100 {
			m := fmt.Appendf(nil, "<14>1 %s org.space.bench bench [APP/PROC/WEB/%d] - - GET /path/%d/%d 200 ", at, stream, stream, sent+n)
			for i := 0; len(m) < logSize; i++ {
				m = append(m, "the quick brown fox jumps over the lazy dog "[(sent+n+i)%44])
			}
			block = append(fmt.Appendf(block, "%d ", len(m)), m...)
		}
		if _, err := c.Write(block); err != nil {
			return sent, err
		}
		sent += 100
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return sent, err
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	_, err = io.Copy(io.Discard, c)
	return sent, err
}

// countLogs asks with a search how many messages there are.
func countLogs(ctx context.Context, c credentials) (n int, err error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(c.text("ca_certificate")))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}, Timeout: 40 * time.Second}
	r, err := http.NewRequestWithContext(ctx, "GET", c.text("query_url")+"?query="+url.QueryEscape(`app_name:="bench" | stats count() n`), nil)
	if err != nil {
		return 0, err
	}
	r.SetBasicAuth(c.text("username"), c.text("password"))
	res, err := client.Do(r)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	var row struct{ N string }
	if err := json.Unmarshal(text, &row); err != nil {
		return 0, fmt.Errorf("the search answers %s %s", res.Status, strings.TrimSpace(string(text)))
	}
	_, err = fmt.Sscan(row.N, &n)
	return n, err
}
