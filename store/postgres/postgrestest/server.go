// Package postgrestest runs a real PostgreSQL server, of Debian's package, for
// tests and measurements: in a folder of its own, as an unprivileged user, on
// loopback and a unix socket.
package postgrestest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// ErrMissing says that the package is not installed.
var ErrMissing = errors.New("no PostgreSQL server is installed; scripts/deps test installs it")

// Server is one server.
type Server struct {
	Dir      string // also of the unix socket
	Port     int
	Password string // of the user "postgres"

	programs   string // folder
	credential *syscall.Credential
	process    *exec.Cmd
	ended      chan struct{} // closed when it has
	databases  atomic.Int64
}

// New makes a server below the folder parent ("" is the one for temporary files),
// starts it, and returns when it answers. Settings such as "max_connections=20"
// are added to those it has.
func New(parent string, settings ...string) (_ *Server, err error) {
	all, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(all) == 0 {
		return nil, ErrMissing
	}
	slices.Sort(all)
	s := &Server{programs: filepath.Dir(all[len(all)-1]), Password: rand.Text()}
	if s.Dir, err = os.MkdirTemp(parent, "remuda-pg-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if os.Geteuid() == 0 {
		if err := s.drop(); err != nil {
			return nil, err
		}
	}
	if err := s.make(settings); err != nil {
		return nil, err
	}
	return s, s.Start()
}

// drop makes the server run as a user without rights.
func (s *Server) drop() error {
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return err
		}
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	s.credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(s.Dir, uid, gid)
}

func (s *Server) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.programs, program), args...)
	cmd.Dir = s.Dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.credential, Setpgid: true}
	return cmd
}

func (s *Server) make(settings []string) error {
	secret := filepath.Join(s.Dir, "password")
	if err := os.WriteFile(secret, []byte(s.Password+"\n"), 0o644); err != nil {
		return err
	}
	out, err := s.command("initdb", "-D", s.data(), "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync",
		"-A", "scram-sha-256", "--pwfile", secret).CombinedOutput()
	if err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.Port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	conf := fmt.Sprintf("listen_addresses = '127.0.0.1'\nport = %d\nunix_socket_directories = '%s'\nfsync = on\n", s.Port, s.Dir)
	conf += strings.Join(settings, "\n") + "\n"
	f, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(conf)
	return errors.Join(err, f.Close())
}

func (s *Server) data() string { return filepath.Join(s.Dir, "data") }

// Start starts the server, and returns when it answers.
func (s *Server) Start() error {
	for range 50 {
		if err := s.launch(); err != nil {
			return err
		}
		for range 600 {
			if s.command("pg_isready", "-q", "-h", s.Dir, "-p", strconv.Itoa(s.Port)).Run() == nil {
				return nil
			}
			select {
			case <-s.ended: // after a kill its children may still be there
			case <-time.After(25 * time.Millisecond):
				continue
			}
			break
		}
		s.Stop(syscall.SIGQUIT)
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("PostgreSQL did not start: %s", s.Log())
}

func (s *Server) launch() error {
	log, err := os.OpenFile(filepath.Join(s.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := s.command("postgres", "-D", s.data())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT // when the thread that started it ends
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(ended)
		}
	}()
	s.process, s.ended = cmd, ended
	return <-started
}

// Stop stops the server: with SIGTERM (when all have gone), SIGINT (their
// transactions are undone), SIGQUIT (at once), or SIGKILL.
func (s *Server) Stop(signal syscall.Signal) {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Signal(signal)
	<-s.ended
	s.process = nil
}

// Close ends the server and removes it.
func (s *Server) Close() {
	s.Stop(syscall.SIGQUIT)
	for range 50 { // its children may end a little later
		if os.RemoveAll(s.Dir) == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Log is what the server has written lately.
func (s *Server) Log() string {
	b, _ := os.ReadFile(filepath.Join(s.Dir, "log"))
	return string(b[max(0, len(b)-4000):])
}

// URL is that of a database over loopback.
func (s *Server) URL(database string) string { return s.URLAt(database, s.Port) }

// URLAt is URL with another port, of a proxy.
func (s *Server) URLAt(database string, port int) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword("postgres", s.Password), Host: "127.0.0.1:" + strconv.Itoa(port),
		Path: database, RawQuery: "sslmode=disable"}
	return u.String()
}

// SocketURL is that of a database over the unix socket.
func (s *Server) SocketURL(database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword("postgres", s.Password), Path: "/" + database}
	u.RawQuery = url.Values{"host": {s.Dir}, "port": {strconv.Itoa(s.Port)}, "sslmode": {"disable"}}.Encode()
	return u.String()
}

// NewDatabase makes an empty database, and returns its name.
func (s *Server) NewDatabase(ctx context.Context) (string, error) {
	name := fmt.Sprintf("d%d", s.databases.Add(1))
	_, err := s.Query(ctx, "postgres", "CREATE DATABASE "+name)
	return name, err
}

// Query runs SQL with psql, and returns what it prints.
func (s *Server) Query(ctx context.Context, database, sql string) (string, error) {
	cmd := s.command("psql", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", s.Dir, "-p", strconv.Itoa(s.Port), "-U", "postgres", "-d", database)
	cmd.Env = append(cmd.Env, "PGPASSWORD="+s.Password)
	cmd.Stdin = strings.NewReader(sql)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		return "", err
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })()
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("psql: %w: %s", err, stderr.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}
