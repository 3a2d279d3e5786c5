package backendtest

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

func inMySQL(statements string) string {
	return "mariadb --no-defaults --socket=/var/lib/mysql/mysqld.sock -N app <<END\n" + statements + "\nEND\n"
}

// mysqlHas finds when the query has a row.
func mysqlHas(query string) string { return found("[ -n \"$(" + inMySQL(query) + ")\" ]") }

var mysqlCanaries = []canary{
	{name: "table", plant: inMySQL("CREATE TABLE canary (t TEXT); INSERT INTO canary VALUES (REPEAT('$M',1000));"), find: mysqlHas("SELECT 1 FROM information_schema.tables WHERE table_name='canary'")},
	{name: "database", plant: inMySQL("CREATE DATABASE canary_$M; CREATE TABLE canary_$M.t (a TEXT); INSERT INTO canary_$M.t VALUES ('$M')"), find: mysqlHas("SHOW DATABASES LIKE 'canary%'")},
	{name: "user", plant: inMySQL("CREATE USER canary@'%' IDENTIFIED BY '$M'; GRANT ALL ON *.* TO canary@'%' WITH GRANT OPTION"), find: mysqlHas("SELECT 1 FROM mysql.global_priv WHERE user='canary'")},
	{name: "role", plant: inMySQL("CREATE ROLE canary_role; GRANT ALL ON *.* TO canary_role"), find: mysqlHas("SELECT 1 FROM mysql.global_priv WHERE user='canary_role'")},
	{name: "function", plant: inMySQL("CREATE FUNCTION canary() RETURNS TEXT DETERMINISTIC RETURN '$M'"), find: mysqlHas("SELECT 1 FROM mysql.proc WHERE name='canary'")},
	{name: "procedure", plant: inMySQL("CREATE PROCEDURE canary_p() SELECT '$M'"), find: mysqlHas("SELECT 1 FROM mysql.proc WHERE name='canary_p'")},
	{name: "event", plant: inMySQL("CREATE EVENT canary ON SCHEDULE EVERY 1 SECOND DO INSERT INTO canary VALUES ('$M')"), find: mysqlHas("SELECT 1 FROM mysql.event WHERE name='canary'")},
	{name: "foreign server", plant: inMySQL("CREATE SERVER canary FOREIGN DATA WRAPPER mysql OPTIONS (HOST '127.0.0.1', PASSWORD '$M')"), find: mysqlHas("SELECT 1 FROM mysql.servers")},
	{name: "global variables", plant: inMySQL("SET GLOBAL max_connections=33, GLOBAL init_connect='SELECT \"$M\"', GLOBAL sql_mode='ANSI'"), find: mysqlHas("SELECT 1 FROM DUAL WHERE @@GLOBAL.max_connections=33 OR @@GLOBAL.init_connect<>'' OR @@GLOBAL.sql_mode LIKE '%ANSI%'")},
	{name: "logs", plant: inMySQL("SET GLOBAL general_log_file='canary.log', GLOBAL slow_query_log_file='canary-slow.log', GLOBAL long_query_time=0, GLOBAL general_log=1, GLOBAL slow_query_log=1; SELECT '$M'"), find: found("ls /var/lib/mysql/data | grep -q canary.*log")},
	{name: "OUTFILE", plant: inMySQL("SELECT '$M' INTO OUTFILE '/var/lib/mysql/none/out'; SELECT '$M' INTO DUMPFILE '/var/lib/mysql/none/dump'"), find: found("[ -e /var/lib/mysql/none/out -o -e /var/lib/mysql/none/dump ]")},
	{name: "plugin", plant: inMySQL("INSERT INTO mysql.plugin VALUES ('canary', '$M.so')"), find: mysqlHas("SELECT 1 FROM mysql.plugin")},
	{name: "time zone and help rows", plant: inMySQL("INSERT INTO mysql.help_category VALUES (999, 'canary', 0, '$M')"), find: mysqlHas("SELECT 1 FROM mysql.help_category WHERE name='canary'")},
	{name: "prepared transaction", plant: inMySQL("CREATE TABLE canary_xa (a TEXT) ENGINE=InnoDB; XA START 'canary'; INSERT INTO canary_xa VALUES ('$M'); XA END 'canary'; XA PREPARE 'canary'"), find: mysqlHas("XA RECOVER")},
}

func mysqlOpen(credentials map[string]any) (*sql.DB, error) {
	c := mysql.NewConfig()
	c.User, c.Passwd = credentials["username"].(string), credentials["password"].(string)
	c.Net, c.Addr = "tcp", hostPort(credentials)
	c.DBName, c.Timeout, c.ReadTimeout = credentials["database"].(string), 5*time.Second, 10*time.Second
	c.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

func mysqlLogin(ctx context.Context, credentials map[string]any) error {
	return sqlLogin(ctx, mysqlOpen, credentials)
}

func mysqlSession(t testing.TB, credentials map[string]any, mark string) func() error {
	return sqlSession(t, mysqlOpen, credentials, fmt.Sprintf("CREATE TEMPORARY TABLE canary_tmp AS SELECT '%s' AS t", mark),
		fmt.Sprintf("SET @canary='%s'", mark), "SELECT GET_LOCK('canary', 1)", "CREATE TABLE IF NOT EXISTS app.locked (a INT)", "LOCK TABLES app.locked WRITE, canary_tmp WRITE")
}

func mysqlUse(t testing.TB, credentials map[string]any) { sqlUse(t, mysqlOpen, credentials) }
