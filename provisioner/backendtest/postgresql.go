package backendtest

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"github.com/lib/pq"
)

func inPostgres(database, statements string) string {
	return "set -- /usr/lib/postgresql/*/bin/psql; \"$1\" -XAtqw -h /var/lib/postgresql -d " + database + " -v ON_ERROR_STOP=1 <<END\n" + statements + "\nEND\n"
}

// postgresHas finds when the query has a row.
func postgresHas(database, query string) string {
	return found("[ -n \"$(" + inPostgres(database, query) + ")\" ]")
}

var postgresCanaries = []canary{
	{name: "table", plant: inPostgres("app", "CREATE TABLE canary (t TEXT); INSERT INTO canary SELECT '$M' FROM generate_series(1,1000)"), find: postgresHas("app", "SELECT 1 FROM pg_class WHERE relname='canary'")},
	{name: "unlogged table", plant: inPostgres("app", "CREATE UNLOGGED TABLE canary_u AS SELECT '$M' AS t"), find: postgresHas("app", "SELECT 1 FROM pg_class WHERE relname='canary_u'")},
	{name: "large object", plant: inPostgres("app", "SELECT lo_from_bytea(0, '$M')"), find: postgresHas("app", "SELECT 1 FROM pg_largeobject_metadata")},
	{name: "large object in postgres", plant: inPostgres("postgres", "SELECT lo_from_bytea(0, '$M')"), find: postgresHas("postgres", "SELECT 1 FROM pg_largeobject_metadata")},
	{name: "object in template1", plant: inPostgres("template1", "CREATE TABLE canary AS SELECT '$M' AS t"), find: postgresHas("template1", "SELECT 1 FROM pg_class WHERE relname='canary'")},
	{name: "database", plant: inPostgres("postgres", "CREATE DATABASE canary_$M"), find: postgresHas("postgres", "SELECT 1 FROM pg_database WHERE datname LIKE 'canary%'")},
	{name: "role", plant: inPostgres("postgres", "CREATE ROLE canary SUPERUSER LOGIN PASSWORD '$M'; ALTER ROLE app_owner SET search_path = '$M'"), find: postgresHas("postgres", "SELECT 1 FROM pg_roles WHERE rolname='canary' UNION SELECT 1 FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole WHERE r.rolname='app_owner'")},
	{name: "settings of the database", plant: inPostgres("postgres", "ALTER DATABASE app SET application_name = '$M'"), find: postgresHas("postgres", "SELECT 1 FROM pg_db_role_setting WHERE setrole=0")},
	{name: "settings of the system", plant: inPostgres("postgres", "ALTER SYSTEM SET log_line_prefix = '$M '") + inPostgres("postgres", "ALTER SYSTEM SET max_prepared_transactions = 9"), find: found(`grep -q log_line_prefix /var/lib/postgresql/data/postgresql.auto.conf`)},
	{name: "extension", plant: inPostgres("app", "CREATE EXTENSION hstore"), find: postgresHas("app", "SELECT 1 FROM pg_extension WHERE extname<>'plpgsql'")},
	{name: "function", plant: inPostgres("app", `CREATE FUNCTION canary() RETURNS TEXT LANGUAGE sql AS 'SELECT ''\$M'''`), find: postgresHas("app", "SELECT 1 FROM pg_proc WHERE proname='canary'")},
	{name: "tablespace", plant: "mkdir /var/lib/postgresql/canary_space\n" + inPostgres("postgres", "CREATE TABLESPACE canary LOCATION '/var/lib/postgresql/canary_space'") + inPostgres("app", "CREATE TABLE spaced TABLESPACE canary AS SELECT '$M' AS t"), find: postgresHas("postgres", "SELECT 1 FROM pg_tablespace WHERE spcname='canary'")},
	{name: "COPY TO file", plant: inPostgres("postgres", "COPY (SELECT '$M') TO '/var/lib/postgresql/copied'") + inPostgres("postgres", "COPY (SELECT 1) TO PROGRAM 'cat >/tmp/copied; echo $M >>/tmp/copied'"), find: found("[ -e /var/lib/postgresql/copied ] && [ -e /tmp/copied ]")},
	{name: "bytes of the log", plant: inPostgres("app", "SELECT pg_logical_emit_message(false, 'canary', '$M'); CHECKPOINT"), find: found(`grep -rqaF "$M" /var/lib/postgresql/data/pg_wal`)},
	{name: "replication slot", plant: inPostgres("postgres", "SELECT pg_create_physical_replication_slot('canary', true)"), find: ""},
	{name: "comments and labels", plant: inPostgres("postgres", "COMMENT ON DATABASE app IS '$M'"), find: postgresHas("postgres", "SELECT 1 FROM pg_shdescription WHERE description LIKE 'canary%'")},
}

func postgresOpen(credentials map[string]any) (*sql.DB, error) {
	connector, err := pq.NewConnector(fmt.Sprintf("host=%s port=%v user=%s password=%s dbname=%s sslmode=disable connect_timeout=5",
		credentials["hostname"], credentials["port"], credentials["username"], credentials["password"], credentials["database"]))
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

func postgresLogin(ctx context.Context, credentials map[string]any) error {
	return sqlLogin(ctx, postgresOpen, credentials)
}

func postgresSession(t testing.TB, credentials map[string]any, mark string) func() error {
	return sqlSession(t, postgresOpen, credentials, fmt.Sprintf("CREATE TEMPORARY TABLE canary_tmp AS SELECT '%s' AS t", mark),
		"SELECT pg_advisory_lock(7001)", "SELECT pg_advisory_lock(1)", "LISTEN canary", "SET application_name = '"+mark+"'",
		"CREATE TABLE IF NOT EXISTS locked (a INT)", "BEGIN", "LOCK TABLE locked", "DECLARE canary CURSOR WITH HOLD FOR SELECT 1")
}

func postgresUse(t testing.TB, credentials map[string]any) { sqlUse(t, postgresOpen, credentials) }
