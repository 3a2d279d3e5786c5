package backendtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// inRedis runs commands as the recipe's administrator.
func inRedis(commands string) string {
	return "REDISCLI_AUTH=$MEMBER_SECRET redis-cli --user admin --no-auth-warning <<END\n" + commands + "\nEND\n"
}

func redisSays(command, pattern string) string {
	return "echo \"$(" + inRedis(command) + ")\" | grep -q '" + pattern + "' && echo there"
}

var redisCanaries = []canary{
	{name: "keys", plant: inRedis("SET canary $M\nSELECT 7\nHSET canary-$M f $M"), find: redisSays("INFO keyspace", "^db")},
	{name: "function", plant: inRedis(`FUNCTION LOAD "#!lua name=canary\nredis.register_function('canary', function() return '$M' end)"`), find: redisSays("FUNCTION LIST", "canary")},
	{name: "script", plant: inRedis("SCRIPT LOAD \"return 'canary'\""), find: redisSays("INFO memory", "^number_of_cached_scripts:[1-9]")},
	{name: "ACL user", plant: inRedis("ACL SETUSER canary on >$M ~* &* +@all\nACL SAVE"), find: redisSays("ACL LIST", "canary")},
	{name: "configuration", plant: inRedis("CONFIG SET maxclients 77 slowlog-log-slower-than 0 notify-keyspace-events KEA\nSET slow $M"), find: redisSays("CONFIG GET maxclients", "77")},
	{name: "slow log", find: redisSays("SLOWLOG GET 128", "canary")},
	{name: "rewritten configuration", plant: `echo "# $M" >>/var/lib/redis/local.conf; echo "maxclients 78" >>/var/lib/redis/local.conf`, find: found(`grep -q . /var/lib/redis/local.conf`)},
	{name: "dump", plant: inRedis("SAVE"), find: found(`[ -e /var/lib/redis/data/dump.rdb ]`)},
	{name: "append-only file", plant: inRedis("BGREWRITEAOF") + "sleep 0.2", find: found(`grep -rqsaF "$M" /var/lib/redis/data`)},
	{name: "stream group", plant: inRedis("XADD canary-stream * f $M\nXGROUP CREATE canary-stream g 0"), find: redisSays("XINFO GROUPS canary-stream", "pending")},
}

// redisConn speaks the inline form of the protocol.
type redisConn struct {
	net.Conn
	r *bufio.Reader
}

func (c redisConn) ask(command string) (string, error) {
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintf(c, "%s\r\n", command); err != nil {
		return "", err
	}
	line, err := c.r.ReadString('\n')
	if err == nil && strings.HasPrefix(line, "-") {
		err = errors.New(strings.TrimSpace(line))
	}
	return line, err
}

func redisOpen(ctx context.Context, credentials map[string]any) (redisConn, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	c, err := d.DialContext(ctx, "tcp", hostPort(credentials))
	if err != nil {
		return redisConn{}, err
	}
	r := redisConn{c, bufio.NewReader(c)}
	if _, err := r.ask(fmt.Sprintf("AUTH %s %s", credentials["username"], credentials["password"])); err != nil {
		c.Close()
		return redisConn{}, err
	}
	return r, nil
}

func redisLogin(ctx context.Context, credentials map[string]any) error {
	c, err := redisOpen(ctx, credentials)
	if err == nil {
		c.Close()
	}
	return err
}

func redisSession(t testing.TB, credentials map[string]any, mark string) func() error {
	t.Helper()
	c, err := redisOpen(t.Context(), credentials)
	if err != nil {
		t.Fatalf("open a session: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	for _, command := range []string{"CLIENT SETNAME " + mark, "SUBSCRIBE " + mark} {
		if _, err := c.ask(command); err != nil {
			t.Fatalf("%s: %v", command, err)
		}
	}
	for range 5 { // the rest of the answer to SUBSCRIBE
		_, _ = c.r.ReadString('\n')
	}
	return func() error { _, err := c.ask("PING"); return err }
}

func redisUse(t testing.TB, credentials map[string]any) {
	t.Helper()
	c, err := redisOpen(t.Context(), credentials)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if said, err := c.ask("SET mine 1"); err != nil {
		t.Errorf("a new tenant: %s %v", said, err)
	}
}
