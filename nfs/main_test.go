package nfs

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test binary be a server that can be killed.
func TestMain(m *testing.M) {
	if where := os.Getenv("NFS_TEST_SERVER"); where != "" {
		words := strings.Split(where, " ")
		o := Options{Address: words[0], Data: words[1], State: words[2], Control: words[3], Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
		if err := Serve(context.Background(), o); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// killed is a server in a process of its own.
type killed struct {
	cmd *exec.Cmd
	out bytes.Buffer
}

func startKilled(t *testing.T, o Options) *killed {
	t.Helper()
	k := &killed{cmd: exec.Command(os.Args[0])}
	k.cmd.Env = append(os.Environ(), "NFS_TEST_SERVER="+strings.Join([]string{o.Address, o.Data, o.State, o.Control}, " "))
	k.cmd.Stderr = &k.out
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *killed) kill() {
	_ = k.cmd.Process.Kill()
	_ = k.cmd.Wait()
}

// A server that is killed in the middle of work comes back with all that it had
// answered.
func TestKill(t *testing.T) {
	f := newFixture(t, nil)
	f.stop()
	for round := range 3 {
		k := startKilled(t, f.o)
		t.Cleanup(k.kill)
		f.change(Order{Login: "first", Token: token, Write: true, UID: 2000, GID: 2000})
		f.change(Order{Login: fmt.Sprint("round ", round)[:5], Token: fmt.Sprint("token-of-a-round-0123456789-", round), Write: true, UID: 5000, GID: 5000})
		p := f.dial(token)
		file := p.make(p.root, fmt.Sprint("f", round), "kept", 0o604)
		done := make(chan int)
		go func() {
			for i := 0; ; i++ {
				r, err := p.send(at(p.root), arg(opCreate, uint32(kindFolder), fmt.Sprint(round, " ", i), fattr(0o751)))
				if err != nil || r.status != ok {
					done <- i
					return
				}
			}
		}()
		time.Sleep(100 * time.Millisecond)
		k.kill()
		made := <-done
		k = startKilled(t, f.o)
		t.Cleanup(k.kill)
		f.change(Order{Login: "nobody"}) // waits for it
		p = f.dial(token)
		if text, st := p.read(file, anonymous); text != "kept" || p.number(file, attrMode) != 0o604 {
			t.Errorf("round %d: %q %d", round, text, st)
		}
		for i := range made {
			h, st := p.find(p.root, fmt.Sprint(round, " ", i))
			if st != ok || p.number(h, attrMode) != 0o751 {
				t.Fatalf("round %d: folder %d of %d: %d", round, i, made, st)
			}
		}
		f.dial(fmt.Sprint("token-of-a-round-0123456789-", round))
		k.kill()
		if strings.Contains(k.out.String(), "token-of") {
			t.Error("a token is in the log")
		}
	}
}

// The tools of libnfs, which is another implementation of the protocol.
func TestTools(t *testing.T) {
	for _, tool := range []string{"nfs-ls", "nfs-cp", "nfs-cat"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed (package libnfs-utils)", tool)
		}
	}
	f := newFixture(t, nil)
	run := func(tool string, words ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, tool, words...).CombinedOutput()
		return string(out), err
	}
	url := func(token, file string) string {
		_, port, _ := strings.Cut(f.o.Address, ":")
		return fmt.Sprintf("nfs://127.0.0.1/%s/%s?version=4&nfsport=%s", token, file, port)
	}
	from := t.TempDir() + "/from"
	if err := os.WriteFile(from, []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run("nfs-cp", from, url(token, "to.txt")); err != nil {
		t.Errorf("nfs-cp: %v %s", err, out)
	}
	if out, err := run("nfs-cat", url(otherToken, "to.txt")); err == nil {
		t.Errorf("a file of mode 0660 can be read by others: %q", out)
	}
	if out, err := run("nfs-cat", url(token, "to.txt")); err != nil || out != "hello\n" {
		t.Errorf("nfs-cat: %v %q", err, out)
	}
	if out, err := run("nfs-ls", url(otherToken, "")); err != nil || !strings.Contains(out, " 2000  2000            6 to.txt") {
		t.Errorf("nfs-ls: %v %s", err, out)
	}
	for _, nowhere := range []string{"", "token-of-nobody-0123456789", token[:20]} {
		if out, err := run("nfs-ls", url(nowhere, "")); err == nil {
			t.Errorf("nfs-ls %q: %s", nowhere, out)
		}
	}
}
