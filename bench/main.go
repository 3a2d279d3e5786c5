// Command bench measures what the broker promises about speed and size, and says
// which promises hold on this machine. 'make bench' runs it.
//
// It is a program of its own, beside the benchmarks of the packages, because a
// promise is about the whole: the built broker runs as a process, is asked over
// HTTP by real clients, and its containers are real. Numbers of different
// machines cannot be compared, so everything is set against a plain way to do
// the same, measured in the same run, in alternating order.
//
// It needs root. It works in network and mount namespaces of its own and in one
// folder, and removes all that it made.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner/image"
)

func main() {
	out := flag.String("o", "", "`file` for the results as JSON")
	only := flag.String("run", "", "`regex` of the measurements to run; all by default")
	quick := flag.Bool("quick", false, "fewer repetitions: for trying out, not for judging")
	binary := flag.String("binary", "bin/remuda", "the built broker; built anew when it is not there")
	profile := flag.String("cpuprofile", "", "`file` for a profile of this process, in which provision and instances run the broker")
	flag.Parse()
	keepGoing, err := isolate()
	if !keepGoing {
		exit(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	if *profile != "" {
		stop = profiled(*profile, stop)
	}
	err = run(ctx, *out, *only, *binary, *quick)
	stop()
	exit(err)
}

// profiled writes a profile until the returned function is called, which then
// calls stop.
func profiled(file string, stop func()) func() {
	f, err := os.Create(file)
	if err == nil {
		err = pprof.StartCPUProfile(f)
	}
	if err != nil {
		exit(err)
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
		stop()
	}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// bench is what all measurements share.
type bench struct {
	dir      string // for everything that is written
	binary   string // the built broker
	imageDir string
	rootfs   string
	recipes  map[string]catalog.Recipe
	quick    bool
}

// measurement fills one part of the report.
type measurement struct {
	name string
	run  func(*bench, context.Context) ([]Row, error)
}

var measurements = []measurement{
	{"first-query", (*bench).firstQuery},
	{"provision", (*bench).provision},
	{"instances", (*bench).instances},
	{"read", (*bench).read},
	{"reset", (*bench).reset},
	{"door", (*bench).door},
	{"gateway", (*bench).gateway},
	{"syslog", (*bench).syslog},
	{"memory", (*bench).memory},
	{"hundred", (*bench).hundred},
	{"postgres", (*bench).postgres},
}

func run(ctx context.Context, out, only, binary string, quick bool) (err error) {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	b, err := prepare(ctx, binary, quick)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.remove()) }()
	report := newReport(quick)
	for _, m := range measurements {
		if !wanted.MatchString(m.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring %s …\n", m.name)
		began := time.Now()
		rows, merr := m.run(b, ctx)
		for i := range rows {
			rows[i].Measurement = m.name
		}
		report.Rows = append(report.Rows, rows...)
		if merr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", m.name, merr))
		}
		fmt.Fprintf(os.Stderr, "  took %s\n", time.Since(began).Round(100*time.Millisecond))
		if ctx.Err() != nil {
			break
		}
	}
	report.print(os.Stdout)
	if out != "" {
		err = errors.Join(err, report.write(out))
	}
	return err
}

// prepare makes the working folder, and image and binary if they are missing.
func prepare(ctx context.Context, binary string, quick bool) (_ *bench, err error) {
	b := &bench{imageDir: os.Getenv("REMUDA_IMAGE_DIR"), quick: quick, recipes: map[string]catalog.Recipe{}}
	if b.imageDir == "" {
		b.imageDir = "/var/cache/remuda"
	}
	recipes, err := catalog.Builtin()
	if err != nil {
		return nil, err
	}
	for _, r := range recipes {
		b.recipes[r.Name] = r
	}
	img, err := image.Ensure(ctx, image.OptionsFor(b.imageDir, recipes, os.Stderr))
	if err != nil {
		return nil, err
	}
	b.rootfs = img.Path
	// Not the folder for temporary files, which may be in memory: disks matter.
	if b.dir, err = os.MkdirTemp("/var/tmp", "remuda-bench-"); err != nil {
		return nil, err
	}
	if err := os.Chmod(b.dir, 0o711); err != nil { // servers below it have users of their own
		return nil, err
	}
	if b.binary, err = filepath.Abs(binary); err != nil {
		return nil, err
	}
	if _, err := os.Stat(b.binary); err == nil {
		return b, nil
	}
	b.binary = filepath.Join(b.dir, "remuda")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", b.dir, "github.com/remuda/remuda/cmd/remuda", "github.com/remuda/remuda/cmd/remuda-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("build the broker: %w\n%s", err, said), b.remove())
	}
	return b, nil
}

// times is how often something is measured.
func (b *bench) times(full, quick int) int {
	if b.quick {
		return quick
	}
	return full
}
