package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// memory measures what an idle warm group of each offering takes: the
// proportional set size of its processes, which counts shared pages once.
func (b *bench) memory(ctx context.Context) (rows []Row, err error) {
	s, err := b.serve(ctx, "memory", "pools: {default: {floor: 0}, mysql/small: {floor: 1}, postgresql/small: {floor: 1}, "+
		"redis/small: {floor: 1}, ftp/small: {floor: 1}, http/small: {floor: 1}, gateway/small: {floor: 1}}\n")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	offerings := []string{"mysql", "postgresql", "redis", "ftp", "http", "gateway"}
	for _, offering := range offerings {
		if err := s.settled(ctx, offering+"/small", 1); err != nil {
			return nil, err
		}
	}
	if err := sleep(ctx, 15*time.Second); err != nil { // idle, probed at least once
		return nil, err
	}
	for _, offering := range offerings {
		g, err := s.groupOf(ctx, offering+"/small", "")
		if err != nil {
			return nil, err
		}
		agent, servers := 0, 0
		for _, m := range g.Members {
			a, s, err := memberPSS(m.PID)
			if err != nil {
				return nil, err
			}
			agent, servers = agent+a, servers+s
		}
		rows = append(rows, Row{What: offering + ", PSS of an idle warm group", Value: float64(agent+servers) / 1024, Unit: "MB",
			Note: fmt.Sprintf("agent %.1f MB, servers %.1f MB", float64(agent)/1024, float64(servers)/1024)})
	}
	return rows, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// memberPSS adds up the processes of a member in kB: PID 1, which is the agent,
// and all others of its PID namespace.
func memberPSS(pid int) (agent, servers int, err error) {
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return 0, 0, err
	}
	all, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	if err != nil {
		return 0, 0, err
	}
	for _, path := range all {
		if ns, err := os.Readlink(path); err != nil || ns != own {
			continue
		}
		process := filepath.Dir(filepath.Dir(path))
		kb, err := pss(process)
		if err != nil {
			continue // it has ended just now
		}
		if filepath.Base(process) == strconv.Itoa(pid) {
			agent = kb
		} else {
			servers += kb
		}
	}
	return agent, servers, nil
}

func pss(process string) (kb int, err error) {
	text, err := os.ReadFile(process + "/smaps_rollup")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			_, err := fmt.Sscan(rest, &kb)
			return kb, err
		}
	}
	return 0, errors.New("no Pss in " + process)
}

// available is the memory of this machine that can still be used, in MB.
func available() float64 {
	text, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			var kb float64
			_, _ = fmt.Sscan(rest, &kb)
			return kb / 1024
		}
	}
	return 0
}
