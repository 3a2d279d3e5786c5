package agent

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func init() {
	helpers["sink"] = func(args []string) error { // reads everything, then answers one byte
		l, err := net.Listen("tcp", "127.0.0.1:"+args[0])
		if err != nil {
			return err
		}
		for {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 128<<10)
				for {
					if _, err := c.Read(buf); err != nil {
						_, _ = c.Write([]byte{1})
						return
					}
				}
			}()
		}
	}
}

// BenchmarkDoor compares a door with the way straight to the server. Agent,
// server and client are three processes; everything shares this machine's CPUs.
func BenchmarkDoor(b *testing.B) {
	m := serveMember(b)
	echoPort, sinkPort := 7000, 7001
	must(b, m.Start(b.Context(), StartRequest{User: "nobody", Ports: []int{echoPort, sinkPort}, Processes: []Process{
		{Name: "echo", Command: []string{m.binary, "helper:echo", strconv.Itoa(echoPort)}},
		{Name: "sink", Command: []string{m.binary, "helper:sink", strconv.Itoa(sinkPort)}},
	}}))
	var doors []Door
	var sockets []*os.File
	for _, target := range []int{echoPort, sinkPort} {
		s, port := boundSocket(b)
		doors, sockets = append(doors, Door{Name: fmt.Sprint(target), Port: port, Target: target}), append(sockets, s)
	}
	must(b, m.SendDoors(b.Context(), doors, sockets))
	must(b, m.OpenDoors(b.Context(), OpenRequest{Poll: true}))

	direct := func(port int) func(b *testing.B) net.Conn {
		return func(b *testing.B) net.Conn { return dialIn(b, m.pid, port) }
	}
	through := func(i int) func(b *testing.B) net.Conn {
		return func(b *testing.B) net.Conn {
			c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(doors[i].Port))
			must(b, err)
			return c
		}
	}
	for _, way := range []struct {
		name       string
		echo, sink func(b *testing.B) net.Conn
	}{{"direct", direct(echoPort), direct(sinkPort)}, {"door", through(0), through(1)}} {
		b.Run(way.name+"/roundtrip", func(b *testing.B) {
			c := way.echo(b)
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			buf := []byte{0}
			defer agentCPU(b, m.pid)()
			for b.Loop() {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(way.name+"/connect", func(b *testing.B) {
			for b.Loop() {
				c := way.echo(b)
				roundTrip(b, c, "x")
				_ = c.(*net.TCPConn).SetLinger(0)
				_ = c.Close()
			}
		})
		b.Run(way.name+"/bulk", func(b *testing.B) {
			c := way.sink(b)
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			buf := make([]byte, 128<<10)
			b.SetBytes(int64(len(buf)))
			defer agentCPU(b, m.pid)()
			for b.Loop() {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			_ = c.(*net.TCPConn).CloseWrite()
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			_, _ = io.ReadFull(c, buf[:1])
		})
	}
}

// agentCPU reports how much CPU time and how many sleeps the agent spent: on a
// busy machine they say more than the time that passed.
func agentCPU(b *testing.B, pid int) func() {
	read := func() (ns, sleeps float64) {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		for _, task := range tasks {
			var v float64
			data, _ := os.ReadFile(task + "/schedstat")
			_, _ = fmt.Sscan(string(data), &v)
			ns += v
			data, _ = os.ReadFile(task + "/status")
			if _, after, ok := strings.Cut(string(data), "\nvoluntary_ctxt_switches:"); ok {
				_, _ = fmt.Sscan(after, &v)
				sleeps += v
			}
		}
		return ns, sleeps
	}
	ns0, sleeps0 := read()
	return func() {
		ns, sleeps := read()
		b.ReportMetric((ns-ns0)/float64(b.N), "agent-ns/op")
		b.ReportMetric((sleeps-sleeps0)/float64(b.N), "agent-sleeps/op")
	}
}

// BenchmarkWayOut is bulk to an application, by an egress in the host's network, and by one in another pod.
func BenchmarkWayOut(b *testing.B) {
	l, err := net.Listen("tcp", outside(b)+":0")
	must(b, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(struct{ io.Writer }{io.Discard}, c) }()
		}
	}()
	app := l.Addr().String()
	bulk := func(b *testing.B, conn net.Conn) {
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		_, err := io.WriteString(conn, request(app))
		must(b, err)
		chunk := make([]byte, 1<<20)
		b.SetBytes(int64(len(chunk)))
		for b.Loop() {
			_, err := conn.Write(chunk)
			must(b, err)
		}
	}
	b.Run("directly", func(b *testing.B) {
		conn, err := net.Dial("tcp", app)
		must(b, err)
		defer conn.Close()
		bulk(b, conn)
	})
	b.Run("host", func(b *testing.B) {
		_, door := wayOut(b, Egress{})
		bulk(b, dialOut(b, door, app))
	})
	b.Run("pod", func(b *testing.B) {
		p := joined(b)
		bulk(b, dialOut(b, p.Port, app))
	})
}
