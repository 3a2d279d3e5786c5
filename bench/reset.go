package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// reset measures how long a group needs from the tenant's DELETE until it is
// warm again, against the plainest way to the same state: kill the server, give
// it a fresh overlay on the pristine data, start it until it answers.
func (b *bench) reset(ctx context.Context) (rows []Row, err error) {
	// One group each, or others would be made and closed meanwhile.
	s, err := b.serve(ctx, "reset", "offerings: [mysql, postgresql]\n"+
		"pools: {default: {floor: 0}, mysql/small: {floor: 1, ceiling: 1}, postgresql/small: {floor: 1, ceiling: 1}}\n")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	for _, offering := range []string{"mysql", "postgresql"} {
		ours, hand, err := b.resets(ctx, s, offering)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", offering, err)
		}
		rows = append(rows, Row{What: offering + ", DELETE to warm again", Value: ours.median(), Unit: "ms",
			Against: "kill, fresh overlay on ext4, start", Plain: hand.median()}.atMost(2))
	}
	return rows, nil
}

// resets alternates the two ways.
func (b *bench) resets(ctx context.Context, s *server, offering string) (ours, hand series, err error) {
	name := offering + "/small"
	p, err := b.plain(offering, "small")
	if err != nil {
		return nil, nil, err
	}
	root, err := p.root()
	if err != nil {
		return nil, nil, err
	}
	lower, err := p.pristine(ctx, root)
	if err != nil {
		return nil, nil, fmt.Errorf("pristine data: %w", err)
	}
	o := &overlay{p: p, root: root, lower: lower}
	if err := o.fresh(ctx); err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, o.end()) }()
	for range b.times(15, 4) {
		if err := s.settled(ctx, name, 1); err != nil {
			return nil, nil, err
		}
		id := s.newID()
		if err := s.provision(ctx, id, name, true); err != nil {
			return nil, nil, err
		}
		c, err := s.bind(ctx, id, name)
		if err == nil {
			err = leaveTraces(ctx, offering, c)
		}
		if err != nil {
			return nil, nil, err
		}
		time.Sleep(time.Second) // as tenants do at least; the next disk is prepared meanwhile
		began := time.Now()
		if err := s.deprovision(ctx, id, name); err != nil {
			return nil, nil, err
		}
		if err := s.settled(ctx, name, 1); err != nil {
			return nil, nil, err
		}
		ours = append(ours, time.Since(began))

		if err := leaveTraces(ctx, offering, p.creds); err != nil {
			return nil, nil, err
		}
		began = time.Now()
		if err := o.fresh(ctx); err != nil {
			return nil, nil, err
		}
		hand = append(hand, time.Since(began))
	}
	return ours, hand, nil
}

// leaveTraces does what a tenant would have done.
func leaveTraces(ctx context.Context, offering string, c credentials) error {
	db, err := openSQL(offering, c, published)
	if err != nil {
		return err
	}
	defer db.Close()
	for _, q := range []string{"CREATE TABLE traces (v varchar(100))", "INSERT INTO traces VALUES ('left')"} {
		if _, err := db.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// overlay is the server by hand on a fresh upper folder for each generation.
type overlay struct {
	p           *plain
	root, lower string
	server      *process
	generation  int
}

// fresh kills the server and starts it with pristine data until it answers.
func (o *overlay) fresh(ctx context.Context) error {
	if err := o.end(); err != nil {
		return err
	}
	o.generation++
	dir := filepath.Join(o.p.dir, fmt.Sprintf("generation-%d", o.generation))
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	if err := errors.Join(os.MkdirAll(upper, 0o700), os.Chown(upper, o.p.uid, o.p.gid), os.Mkdir(work, 0o700)); err != nil {
		return err
	}
	options := "lowerdir=" + o.lower + ",upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", o.root+o.p.data(), "overlay", 0, options); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	var err error
	if o.server, err = o.p.start(o.root); err != nil {
		return err
	}
	if err := answers(ctx, o.p.recipe.Name, o.p.creds); err != nil {
		return fmt.Errorf("%w\n%s", err, o.server.said.String())
	}
	return nil
}

// end kills the server and removes its generation.
func (o *overlay) end() error {
	if o.server == nil {
		return nil
	}
	o.server.stop(syscall.SIGKILL)
	o.server = nil
	if err := unix.Unmount(o.root+o.p.data(), 0); err != nil {
		return fmt.Errorf("unmount overlay: %w", err)
	}
	return os.RemoveAll(filepath.Join(o.p.dir, fmt.Sprintf("generation-%d", o.generation)))
}
