package image_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestMySQL(t *testing.T) {
	m := recipeMember(t, "mysql")
	first, second := m.bind(1), m.bind(2)
	sql := func(who map[string]any, text string) (string, error) {
		line := fmt.Sprintf("MYSQL_PWD=%s mariadb --no-defaults -h127.0.0.1 -u%s --batch -N %s", who["password"], who["username"], "app")
		return m.ask("mysql", line, text)
	}
	must := func(who map[string]any, text string) string {
		t.Helper()
		out, err := sql(who, text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		return strings.TrimSpace(out)
	}
	refused := func(who map[string]any, text string) {
		t.Helper()
		if out, err := sql(who, text); err == nil {
			t.Errorf("%s works: %s", text, out)
		}
	}
	must(first, `CREATE TABLE t (a INT PRIMARY KEY, b TEXT); INSERT INTO t VALUES (1,'x'); CREATE VIEW v AS SELECT a FROM t;
CREATE PROCEDURE p() SELECT COUNT(*) FROM t; CREATE FUNCTION f() RETURNS INT DETERMINISTIC RETURN 7;
CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.b = CONCAT(NEW.b, '!');
CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO DELETE FROM t WHERE a < 0; CREATE TEMPORARY TABLE tmp (a INT); LOCK TABLES t WRITE; UNLOCK TABLES;`)
	if got := must(second, "SHOW DATABASES"); got != "app\ninformation_schema" {
		t.Errorf("databases are %q", got)
	}
	for _, text := range []string{
		"CREATE DATABASE other", "CREATE DATABASE appx", "SELECT * FROM mysql.global_priv", "SELECT * FROM mysql.proc", "CREATE USER x", "SELECT 1 INTO OUTFILE '/tmp/x'",
		"SELECT 1 INTO OUTFILE '/var/lib/mysql/none/x'", "SET GLOBAL max_connections=1", "CREATE DEFINER='mysql'@'localhost' VIEW bad AS SELECT 1", "GRANT SELECT ON app.* TO 'mariadb.sys'@'localhost'",
		"INSTALL SONAME 'x'", "SHOW BINARY LOGS", "SHUTDOWN", "CREATE FUNCTION u RETURNS INTEGER SONAME 'x.so'", "SET PASSWORD FOR 'mysql'@'localhost' = PASSWORD('x')",
		"CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (HOST 'x')", "FLUSH TABLES WITH READ LOCK", "LOAD DATA INFILE '/etc/passwd' INTO TABLE t",
	} {
		refused(second, text)
	}
	if got, err := sql(second, "SELECT LENGTH(LOAD_FILE('/etc/passwd'))"); err == nil && strings.TrimSpace(got) != "NULL" {
		t.Errorf("files can be read: %s", got)
	}
	if _, err := m.ask("mysql", "mariadb --no-defaults -h127.0.0.1 -umysql -e 'SELECT 1'", ""); err == nil {
		t.Error("the administrator gets in by TCP")
	}
	sleeper := make(chan error, 1)
	go func() {
		_, err := sql(first, "SELECT SLEEP(20)")
		sleeper <- err
	}()
	time.Sleep(300 * time.Millisecond)
	m.unbind(1)
	select {
	case <-sleeper:
	case <-time.After(3 * time.Second):
		t.Error("the session of an unbound account lives on")
	}
	refused(first, "SELECT 1")
	third := m.bind(3)
	must(second, "INSERT INTO t VALUES (2,'y')")
	if got := must(third, "SELECT b FROM t WHERE a=2; SELECT COUNT(*) FROM v; CALL p(); SELECT f()"); got != "y!\n2\n2\n7" {
		t.Errorf("views, routines and triggers give %q", got)
	}
	if got := must(third, "SHOW CREATE PROCEDURE p"); !strings.Contains(got, "COUNT(*)") {
		t.Errorf("another binding cannot read a routine: %s", got)
	}
	for _, text := range []string{
		"ALTER VIEW v AS SELECT a, b FROM t", "CREATE OR REPLACE VIEW v AS SELECT b FROM t", "DROP TRIGGER tr", "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.b = 'z'",
		"ALTER PROCEDURE p COMMENT 'mine'", "CREATE OR REPLACE PROCEDURE p() SELECT 1", "DROP PROCEDURE p", "DROP FUNCTION f", "ALTER EVENT e DISABLE", "DROP EVENT e", "ALTER TABLE t ADD c INT", "DROP VIEW v", "DROP TABLE t",
	} {
		must(third, text)
	}
	m.unbind(9) // was never bound
}

func TestRedis(t *testing.T) {
	m := recipeMember(t, "redis")
	first, second := m.bind(1), m.bind(2)
	cli := func(who map[string]any, words string) string {
		line := fmt.Sprintf("REDISCLI_AUTH=%s timeout 3 redis-cli --user %s --no-auth-warning", who["password"], who["username"])
		out, _ := m.ask("redis", line, words)
		return strings.TrimSpace(out)
	}
	if got := cli(first, "SET a 1"); got != "OK" {
		t.Fatal(got)
	}
	for _, allowed := range []string{"GET a", "KEYS *", "EVAL 'return 1' 0", "INFO server", "FLUSHDB", "CLIENT LIST", "ACL WHOAMI", "SORT l", "FUNCTION LIST", "PUBLISH c x"} {
		if got := cli(second, allowed); strings.Contains(got, "NOPERM") || strings.HasPrefix(got, "ERR") {
			t.Errorf("%s: %s", allowed, got)
		}
	}
	for _, denied := range []string{"CONFIG GET *", "ACL LIST", "SHUTDOWN", "REPLICAOF a 1", "MODULE LIST", "MONITOR", "SAVE", "BGSAVE", "BGREWRITEAOF", "SLOWLOG GET", "LATENCY DOCTOR", "MIGRATE h 1 k 0 1", "CLIENT KILL USER admin", "CLIENT PAUSE 1"} {
		if got := cli(second, denied); !strings.Contains(got, "NOPERM") {
			t.Errorf("%s is not denied: %s", denied, got)
		}
	}
	if got := strings.TrimSpace(first["username"].(string)); cli(map[string]any{"username": "default", "password": "x"}, "PING") == "PONG" || got == "" {
		t.Error("the default user gets in")
	}
	v := m.binding(0)
	v["parameters"] = map[string]any{"maxmemory_policy": "allkeys-lru"}
	if err := m.run(m.recipe.Provision, v); err != nil {
		t.Fatal(err)
	}
	if got := cli(second, "SET kept 1"); got != "OK" {
		t.Fatal(got)
	}
	m.waitFor("the write", func() error { // which appendfsync everysec puts off while the disk is busy with a sync
		if got := cli(second, "INFO persistence"); !strings.Contains(got, "aof_buffer_length:0") {
			return fmt.Errorf("it is still to be written: %s", got)
		}
		return nil
	})
	if err := m.sh("root", "pkill -KILL -x redis-server"); err != nil {
		t.Fatal(err)
	}
	m.secret = "another"
	time.Sleep(100 * time.Millisecond)
	m.start()
	if got := cli(second, "GET kept"); got != "1" {
		t.Errorf("after a restart: %s", got)
	}
	if got := cli(second, "INFO memory"); !strings.Contains(got, "maxmemory_policy:allkeys-lru") || !strings.Contains(got, "maxmemory_human:153.00M") {
		t.Errorf("after a restart: %s", got)
	}
	go cli(first, "EVAL 'while true do end' 0")
	time.Sleep(1500 * time.Millisecond)
	m.unbind(1)
	if got := cli(first, "PING"); got == "PONG" {
		t.Error("an unbound user gets in")
	}
	if got := cli(second, "PING"); got != "PONG" {
		t.Error(got)
	}
	third := m.bind(3)
	go cli(third, "EVAL 'redis.call(\"SET\",\"w\",1) while true do end' 0")
	time.Sleep(1500 * time.Millisecond)
	done := make(chan bool)
	go func() { // what the agent does with a server that ends
		time.Sleep(300 * time.Millisecond)
		m.waitFor("the end of the server", func() error {
			if m.sh("root", "pgrep -x redis-server") == nil {
				return fmt.Errorf("it still runs")
			}
			return nil
		})
		m.startProcess(m.role.Processes[0])
		close(done)
	}()
	m.unbind(3)
	<-done
	if got := cli(second, "GET kept"); got != "1" {
		t.Error(got)
	}
	m.unbind(9) // was never bound
}

func TestPostgreSQL(t *testing.T) {
	m := recipeMember(t, "postgresql")
	first, second := m.bind(1), m.bind(2)
	sqlIn := func(database string, who map[string]any, text string) (string, error) {
		line := fmt.Sprintf(`set -- /usr/lib/postgresql/*/bin/psql; PGPASSWORD=%s "$1" -XAtq -h 127.0.0.1 -U %s -d %s -v ON_ERROR_STOP=1`, who["password"], who["username"], database)
		return m.ask("postgres", line, text)
	}
	must := func(who map[string]any, text string) string {
		t.Helper()
		out, err := sqlIn("app", who, text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		return strings.TrimSpace(out)
	}
	must(first, `CREATE TABLE t (a INT PRIMARY KEY, b TEXT); INSERT INTO t VALUES (1,'x'); CREATE VIEW v AS SELECT a FROM t;
CREATE FUNCTION f() RETURNS INT LANGUAGE sql AS 'SELECT 7'; CREATE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.b = NEW.b || '!'; RETURN NEW; END $$;
CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION tf(); CREATE SCHEMA s; CREATE EXTENSION pgcrypto; SELECT lo_create(0); CREATE TEMP TABLE tmp (a int);
SET ROLE NONE; CREATE SCHEMA mine; CREATE TABLE mine.t (a int); GRANT ALL ON SCHEMA mine TO app_owner; GRANT ALL ON mine.t TO app_owner;`)
	for _, text := range []string{
		"CREATE DATABASE other", "CREATE ROLE x", "ALTER SYSTEM SET work_mem='1MB'", "COPY t TO '/tmp/x'", "COPY t FROM PROGRAM 'id'", "SELECT pg_read_file('/etc/passwd')", "SELECT * FROM pg_authid",
		"CREATE EXTENSION dblink", "SET SESSION AUTHORIZATION postgres", "SET ROLE postgres", "ALTER ROLE app_owner LOGIN", "ALTER ROLE CURRENT_USER SUPERUSER", "SELECT lo_import('/etc/passwd')", "ALTER DATABASE template1 CONNECTION LIMIT 0", "GRANT app_owner TO pg_monitor",
	} {
		if out, err := sqlIn("app", second, text); err == nil {
			t.Errorf("%s works: %s", text, out)
		}
	}
	for _, database := range []string{"postgres", "template1", "template0"} {
		if _, err := sqlIn(database, second, "SELECT 1"); err == nil {
			t.Errorf("the database %s lets tenants in", database)
		}
	}
	if _, err := m.ask("postgres", "set -- /usr/lib/postgresql/*/bin/psql; $1 -XAtqw -h 127.0.0.1 -U postgres -d app -c 'SELECT 1'", ""); err == nil {
		t.Error("the administrator gets in by TCP")
	}
	sleeper := make(chan error, 1)
	go func() {
		_, err := sqlIn("app", first, "SELECT pg_sleep(20)")
		sleeper <- err
	}()
	locker := make(chan error, 1)
	go func() {
		_, err := sqlIn("app", second, "BEGIN; LOCK TABLE mine.t; SELECT pg_sleep(3)")
		locker <- err
	}()
	time.Sleep(500 * time.Millisecond)
	m.unbind(1)
	select {
	case <-sleeper:
	case <-time.After(2 * time.Second):
		t.Error("the session of an unbound role lives on")
	}
	if _, err := sqlIn("app", first, "SELECT 1"); err == nil {
		t.Error("an unbound role gets in")
	}
	third := m.bind(3)
	must(second, "INSERT INTO t VALUES (2,'y')")
	if got := must(third, "SELECT b FROM t WHERE a=2; SELECT COUNT(*) FROM v; SELECT f()"); got != "y!\n2\n7" {
		t.Errorf("views, functions and triggers give %q", got)
	}
	if err := <-locker; err != nil {
		t.Error(err)
	}
	m.bind(4)
	m.unbind(4)
	if got := must(third, "SELECT rolname FROM pg_roles WHERE rolname LIKE 'u%' ORDER BY 1"); got != "u000000000000002\nu000000000000003" {
		t.Errorf("roles left: %s", got)
	}
	for _, text := range []string{
		"ALTER TABLE t ADD c INT", "CREATE OR REPLACE VIEW v AS SELECT a, b FROM t", "DROP TRIGGER tr ON t", "CREATE OR REPLACE FUNCTION f() RETURNS INT LANGUAGE sql AS 'SELECT 8'",
		"ALTER TABLE mine.t ADD b INT", "DROP SCHEMA mine CASCADE", "DROP EXTENSION pgcrypto", "DROP VIEW v", "DROP TABLE t", "DROP FUNCTION f()", "DROP SCHEMA s",
	} {
		must(third, text)
	}
	m.unbind(9) // was never bound
}
