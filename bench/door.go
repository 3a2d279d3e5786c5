package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// way to a server: through the published address, or straight to it.
type way struct {
	name string
	dial dial
}

// door measures what the way through the agent costs a tenant, against a client
// that connects to the server from within the member's network namespace. The
// agent's work counts against the plan's CPU limit, as a tenant would have it.
func (b *bench) door(ctx context.Context) (rows []Row, err error) {
	s, err := b.serve(ctx, "door", `offerings: [mysql, http]
pools: {default: {floor: 0}, mysql/small: {floor: 1}, mysql/medium: {floor: 1}, http/medium: {floor: 1}}
`)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	for _, name := range []string{"mysql/small", "mysql/medium"} {
		more, err := b.mysqlDoor(ctx, s, name)
		rows = append(rows, more...)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", name, err)
		}
	}
	more, err := b.httpDoor(ctx, s, "http/medium")
	return append(rows, more...), err
}

// tenant makes an instance and returns the two ways to it.
func (b *bench) tenant(ctx context.Context, s *server, name string, port int) (credentials, []way, error) {
	if err := s.settled(ctx, name, 1); err != nil {
		return nil, nil, err
	}
	id := s.newID()
	if err := s.provision(ctx, id, name, true); err != nil {
		return nil, nil, err
	}
	c, err := s.bind(ctx, id, name)
	if err != nil {
		return nil, nil, err
	}
	g, err := s.groupOf(ctx, name, id)
	if err != nil {
		return nil, nil, err
	}
	return c, []way{{"door", published}, {"direct", inside(g.Members[0].PID, port)}}, nil
}

// perSecond lets connections work for a time, both ways in turn, and returns
// the median rates of the door and of the direct way.
func (b *bench) perSecond(ctx context.Context, ways []way, conns int, open func(way) (work func() (float64, error), end func(), err error)) (door, direct float64, err error) {
	rates := map[string][]float64{}
	for range b.times(9, 3) {
		for _, w := range ways {
			rate, err := burst(ctx, 400*time.Millisecond, conns, func() (func() (float64, error), func(), error) { return open(w) })
			if err != nil {
				return 0, 0, err
			}
			rates[w.name] = append(rates[w.name], rate)
		}
	}
	return median(rates["door"]), median(rates["direct"]), nil
}

// burst opens connections and lets them work for so long.
func burst(ctx context.Context, length time.Duration, conns int, open func() (func() (float64, error), func(), error)) (rate float64, err error) {
	works := make([]func() (float64, error), conns)
	for i := range works {
		work, end, err := open()
		if err != nil {
			return 0, err
		}
		defer end()
		works[i] = work
	}
	var all sync.WaitGroup
	done, errs := make([]float64, conns), make([]error, conns)
	began := time.Now()
	for i, work := range works {
		all.Go(func() {
			for time.Since(began) < length && ctx.Err() == nil && errs[i] == nil {
				var n float64
				n, errs[i] = work()
				done[i] += n
			}
		})
	}
	all.Wait()
	took := time.Since(began).Seconds()
	for _, n := range done {
		rate += n / took
	}
	return rate, errors.Join(errs...)
}

func (b *bench) mysqlDoor(ctx context.Context, s *server, name string) (rows []Row, err error) {
	c, ways, err := b.tenant(ctx, s, name, 3306)
	if err != nil {
		return nil, err
	}
	for _, m := range []struct {
		what, unit, query string
		conns             int
		each              float64
	}{
		{"SELECT 1, 1 connection", "/s", "SELECT 1", 1, 1},
		{"SELECT 1, 8 connections", "/s", "SELECT 1", 8, 1},
		{"4 MB in one answer", "MB/s", "SELECT REPEAT('x', 4000000)", 1, 4},
	} {
		door, direct, err := b.perSecond(ctx, ways, m.conns, func(w way) (func() (float64, error), func(), error) {
			db, err := openSQL("mysql", c, w.dial)
			if err != nil {
				return nil, nil, err
			}
			conn, err := db.Conn(ctx)
			if err != nil {
				return nil, nil, errors.Join(err, db.Close())
			}
			work := func() (float64, error) {
				var got sql.RawBytes
				rows, err := conn.QueryContext(ctx, m.query)
				if err != nil {
					return 0, err
				}
				defer rows.Close()
				for rows.Next() {
					if err := rows.Scan(&got); err != nil {
						return 0, err
					}
				}
				return m.each, rows.Err()
			}
			return work, func() { conn.Close(); db.Close() }, nil
		})
		if err != nil {
			return rows, err
		}
		rows = append(rows, Row{What: name + ", " + m.what, Value: door, Unit: m.unit, Against: "inside the member", Plain: direct}.atLeast(0.7))
	}
	return rows, nil
}

// httpDoor measures files: what nginx can send, with sendfile, is the hardest
// for a door to keep up with.
func (b *bench) httpDoor(ctx context.Context, s *server, name string) (rows []Row, err error) {
	port := b.recipes["http"].Endpoints[0].Port
	c, ways, err := b.tenant(ctx, s, name, port)
	if err != nil {
		return nil, err
	}
	const size = 16 << 20
	r, err := http.NewRequestWithContext(ctx, "PUT", c.text("upload_uri")+"file", io.LimitReader(rand.Reader, size))
	if err != nil {
		return nil, err
	}
	r.ContentLength = size
	r.SetBasicAuth(c.text("username"), c.text("password"))
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	res.Body.Close()
	if res.StatusCode/100 != 2 {
		return nil, fmt.Errorf("upload: %s", res.Status)
	}
	door, direct, err := b.perSecond(ctx, ways, 1, func(w way) (func() (float64, error), func(), error) {
		t := &http.Transport{DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return w.dial(ctx, address) }, ReadBufferSize: 256 << 10}
		client := &http.Client{Transport: t}
		work := func() (float64, error) {
			res, err := client.Get(c.text("uri") + "file")
			if err != nil {
				return 0, err
			}
			defer res.Body.Close()
			n, err := io.Copy(onlyWriter{}, res.Body)
			if err == nil && n != size {
				err = fmt.Errorf("download: %s, %d bytes", res.Status, n)
			}
			return float64(n) / 1e6, err
		}
		return work, t.CloseIdleConnections, nil
	})
	return []Row{Row{What: name + ", download", Value: door, Unit: "MB/s", Against: "inside the member", Plain: direct}.atLeast(0.7)}, err
}

// onlyWriter throws away with large reads; io.Discard reads 8 KiB at a time.
type onlyWriter struct{}

var buffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

func (onlyWriter) Write(p []byte) (int, error) { return len(p), nil }

func (onlyWriter) ReadFrom(r io.Reader) (n int64, err error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		m, err := r.Read(*buf)
		n += int64(m)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}
