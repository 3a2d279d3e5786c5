package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	_ "github.com/lib/pq" // driver "postgres"

	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/postgres"
	"github.com/remuda/remuda/store/postgres/postgrestest"
)

// postgres measures how many warm groups brokers that share a PostgreSQL server
// claim in a second, with all that a provision writes, against the plain way to
// take each item of a list once: SELECT … FOR UPDATE SKIP LOCKED, one by one, on
// the same server. It also counts groups that were given away twice.
func (b *bench) postgres(ctx context.Context) (rows []Row, err error) {
	server, err := postgrestest.New(b.dir)
	if err != nil {
		return nil, err
	}
	defer server.Close()
	n := b.times(6000, 600)
	bare, plain, ours := map[int][]float64{}, map[int][]float64{}, map[[2]int][]float64{}
	double := 0
	for range b.times(3, 1) {
		for _, clients := range []int{1, 8, 16} {
			for into, prepare := range map[*map[int][]float64]func(context.Context, *postgrestest.Server, int) (*sql.DB, [3]string, error){
				&bare: bareTables, &plain: sameTables,
			} {
				rate, err := plainClaims(ctx, server, prepare, clients, n/3)
				if err != nil {
					return nil, err
				}
				(*into)[clients] = append((*into)[clients], rate)
			}
		}
		for _, c := range [][2]int{{1, 1}, {1, 16}, {2, 1}, {2, 8}} {
			rate, twice, err := brokerClaims(ctx, server, c[0], c[1], n)
			if err != nil {
				return nil, err
			}
			ours[c] = append(ours[c], rate)
			double += twice
		}
	}
	row := func(brokers, clients, against int, rates map[int][]float64, name string) Row {
		r := Row{What: fmt.Sprintf("provisions, %d broker(s) with %d client(s) each", brokers, clients),
			Value: median(ours[[2]int{brokers, clients}]), Unit: "/s",
			Against: fmt.Sprintf("SKIP LOCKED%s, %d client(s)", name, against), Plain: median(rates[against])}
		r.Ratio = r.Value / r.Plain
		return r
	}
	const noCounts = " without counts and audit"
	return []Row{
		row(2, 8, 16, plain, "").atLeast(2), row(2, 8, 8, plain, "").atLeast(2), row(1, 16, 16, plain, "").atLeast(2),
		row(2, 1, 1, plain, ""), row(1, 1, 1, plain, ""), row(2, 8, 16, bare, noCounts), row(1, 1, 1, bare, noCounts),
		Row{What: "groups claimed twice", Value: float64(double), Unit: "groups"}.goal("0", double == 0),
	}, nil
}

// each does something n times with so many clients at once, and returns how
// often in a second.
func each(n, clients int, do func(client, i int) error) (perSecond float64, err error) {
	var next atomic.Int64
	var mu sync.Mutex
	var all sync.WaitGroup
	began := time.Now()
	for c := range clients {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if e := do(c, i); e != nil {
					mu.Lock()
					err = errors.Join(err, e)
					mu.Unlock()
					return
				}
			}
		})
	}
	all.Wait()
	return float64(n) / time.Since(began).Seconds(), err
}

// bareTables has a list of groups and one of instances, and nothing else.
func bareTables(ctx context.Context, server *postgrestest.Server, n int) (db *sql.DB, queries [3]string, err error) {
	name, err := server.NewDatabase(ctx)
	if err == nil {
		db, err = sql.Open("postgres", server.URL(name))
	}
	if err != nil {
		return nil, queries, err
	}
	_, err = db.ExecContext(ctx, `
		CREATE TABLE groups (id text PRIMARY KEY, fingerprint text NOT NULL, state text NOT NULL, since bigint NOT NULL, body text NOT NULL);
		CREATE INDEX ON groups (fingerprint, since) WHERE state = 'warm';
		CREATE TABLE instances (id text PRIMARY KEY, group_id text NOT NULL, body text NOT NULL);
		INSERT INTO groups SELECT 'g' || i, 'f', 'warm', i, repeat('x', 300) FROM generate_series(1, `+fmt.Sprint(n)+`) i; ANALYZE groups`)
	return db, [3]string{nextPlain, claimPlain, `INSERT INTO instances VALUES ($1, $2, repeat('x', 500))`}, err
}

// sameTables has those of the store, which count groups and instances for limits.
func sameTables(ctx context.Context, server *postgrestest.Server, n int) (db *sql.DB, queries [3]string, err error) {
	name, err := server.NewDatabase(ctx)
	if err != nil {
		return nil, queries, err
	}
	s, err := postgres.Open(ctx, postgres.Options{URL: server.URL(name)})
	if err != nil {
		return nil, queries, err
	}
	err = errors.Join(fillGroups(ctx, s, n), s.Close())
	if err == nil {
		db, err = sql.Open("postgres", server.URL(name))
	}
	return db, [3]string{nextPlain, claimPlain, `INSERT INTO instances (id, fingerprint, state, group_id, created, service_id, plan_id, org, space, body)
		VALUES ($1, 'f', 'ready', $2, 1, 'service', 'plan', 'org', 'space', repeat('x', 500))`}, err
}

const (
	nextPlain  = `SELECT id FROM groups WHERE fingerprint = $1 AND state = 'warm' ORDER BY since LIMIT 1 FOR UPDATE SKIP LOCKED`
	claimPlain = `UPDATE groups SET state = 'claimed' WHERE id = $1`
)

func plainClaims(ctx context.Context, server *postgrestest.Server, prepare func(context.Context, *postgrestest.Server, int) (*sql.DB, [3]string, error), clients, n int) (float64, error) {
	db, queries, err := prepare(ctx, server, n)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	db.SetMaxIdleConns(clients)
	var prepared [3]*sql.Stmt
	for i, text := range queries {
		if prepared[i], err = db.PrepareContext(ctx, text); err != nil {
			return 0, err
		}
	}
	claim, update, insert := prepared[0], prepared[1], prepared[2]
	return each(n, clients, func(_, i int) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback() //nolint:errcheck // after a commit it does nothing
		var id string
		if err := tx.StmtContext(ctx, claim).QueryRowContext(ctx, "f").Scan(&id); err != nil {
			return err
		}
		if _, err := tx.StmtContext(ctx, update).ExecContext(ctx, id); err != nil {
			return err
		}
		if _, err := tx.StmtContext(ctx, insert).ExecContext(ctx, fmt.Sprint("i", i), id); err != nil {
			return err
		}
		return tx.Commit()
	})
}

func brokerClaims(ctx context.Context, server *postgrestest.Server, brokers, clients, n int) (perSecond float64, twice int, err error) {
	name, err := server.NewDatabase(ctx)
	if err != nil {
		return 0, 0, err
	}
	var stores []store.Store
	for range brokers {
		s, err := postgres.Open(ctx, postgres.Options{URL: server.URL(name)})
		if err != nil {
			return 0, 0, err
		}
		defer s.Close()
		stores = append(stores, s)
	}
	if err := fillGroups(ctx, stores[0], n); err != nil {
		return 0, 0, err
	}
	var mu sync.Mutex
	tenants := map[string]string{}
	perSecond, err = each(n, brokers*clients, func(client, i int) error {
		id := fmt.Sprint("instance-", i)
		group, err := provisionRow(ctx, stores[client%brokers], id)
		mu.Lock()
		defer mu.Unlock()
		if err == nil && tenants[group] != "" {
			twice++
		}
		tenants[group] = id
		return err
	})
	return perSecond, twice, err
}

func fillGroups(ctx context.Context, s store.Store, n int) error {
	return s.Update(ctx, func(tx store.Tx) error {
		for i := range n {
			g := store.Group{ID: fmt.Sprint("g", i), Fingerprint: "f", State: store.GroupWarm, Generation: 1, CreatedAt: time.Now(), Since: time.Now(),
				Endpoints: []store.Endpoint{{Name: "mysql", Host: "10.0.0.1", Port: 30000}}}
			if err := tx.Groups().Put(g); err != nil {
				return err
			}
		}
		return nil
	})
}

// provisionRow is the transaction of a warm hit.
func provisionRow(ctx context.Context, s store.Store, id string) (group string, err error) {
	err = s.Update(ctx, func(tx store.Tx) error {
		if _, err := tx.Instances().Get(id); !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("instance exists: %w", err)
		}
		now := time.Now()
		g, err := tx.Groups().ClaimWarm("f", id, now)
		if err != nil {
			return err
		}
		group = g.ID
		inst := store.Instance{ID: id, ServiceID: "service", PlanID: "plan", Fingerprint: "f", State: store.InstanceReady, GroupID: g.ID,
			OrgGUID: "org", SpaceGUID: "space", Context: []byte(`{"platform":"cloudfoundry"}`), Digest: "digest", CreatedAt: now}
		if err := tx.Instances().Put(inst); err != nil {
			return err
		}
		_, err = tx.Audit().Append(store.AuditRecord{Time: now, RequestID: "request", User: "broker", Address: "10.0.0.1",
			Operation: string(store.OpProvision), InstanceID: id, ServiceID: inst.ServiceID, PlanID: inst.PlanID, Status: 201, Result: "created"})
		return err
	})
	return group, err
}
