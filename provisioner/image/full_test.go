package image_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/catalog"
)

// TestFullDisk fills the disk as a tenant and then unbinds him: that has to
// work, and the others have to be able to make room again.
func TestFullDisk(t *testing.T) {
	tests := map[string]struct {
		user, line      string // a shell in the member, with $user and $password
		fill, use, free string // its standard input
	}{
		"mysql": {"mysql", `MYSQL_PWD=$password mariadb --no-defaults -h127.0.0.1 -u$user --batch -N app`,
			"CREATE TABLE t (a LONGBLOB);\nDELIMITER //\nBEGIN NOT ATOMIC LOOP INSERT INTO t VALUES (REPEAT('x', 1000000)); END LOOP; END //\n", "SELECT 1;", "DROP TABLE t; CREATE TABLE t (a INT); INSERT INTO t VALUES (1);"},
		"postgresql": {"postgres", `set -- /usr/lib/postgresql/*/bin/psql; PGPASSWORD=$password "$1" -XAtq -h 127.0.0.1 -U $user -d app -v ON_ERROR_STOP=1`,
			"CREATE TABLE t (a text); ALTER TABLE t ALTER a SET STORAGE EXTERNAL;\nDO $$ BEGIN LOOP INSERT INTO t VALUES (repeat('x', 1000000)); COMMIT; END LOOP; END $$;\n", "SELECT 1;", "TRUNCATE t; INSERT INTO t VALUES (1);"},
		"redis": {"redis", `REDISCLI_AUTH=$password redis-cli --user $user --no-auth-warning; true`, "", "PING", "SET a 1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := onDisk(t, name, 192*catalog.MiB)
			first, second := m.bind(1), m.bind(2)
			run := func(who map[string]any, stdin string) (string, error) {
				return m.ask(test.user, fmt.Sprintf("user=%s password=%s; %s", who["username"], who["password"], test.line), stdin)
			}
			if test.fill == "" { // anything else that fills the disk
				_ = m.sh(test.user, "cat /dev/zero >"+m.role.Paths[0].Path+"/filler")
			} else if out, err := run(first, test.fill); err == nil {
				t.Errorf("the disk is not full: %s", out)
			} else {
				t.Logf("%.200s", err)
			}
			m.waitFor("the server", func() error { // it may be in recovery, or end only now
				if m.sh("root", "pgrep -x 'postgres|mariadbd|redis-server' >/dev/null") != nil {
					t.Log("the server ended")
					m.startProcess(m.role.Processes[0]) // as the agent does
				}
				return m.run(m.role.Ready, m.values)
			})
			begin := time.Now()
			m.unbind(1)
			t.Logf("unbinds took %d ms", time.Since(begin).Milliseconds())
			if out, err := run(first, test.use); err == nil && !strings.Contains(out, "AUTH") {
				t.Errorf("an unbound user gets in: %s", out)
			}
			if test.fill == "" {
				_ = m.sh(test.user, "rm "+m.role.Paths[0].Path+"/filler")
				time.Sleep(1200 * time.Millisecond)
			}
			if out, err := run(second, test.free); err != nil || strings.Contains(out, "ERR") {
				t.Errorf("no room can be made: %s, %v", out, err)
			}
		})
	}
}
