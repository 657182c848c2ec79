package chengine

import (
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Bounds for one machine that also runs everything else. An operator who wants others gives a ConfigFile.
const (
	defaultMemoryBytes = 2 << 30
	markCacheBytes     = 64 << 20
	primaryCacheBytes  = 64 << 20
	backgroundPoolSize = 2 // merge threads; twice as many merges may wait
	// cleanupSecond is how often old parts of a table are removed. A server looks after 5 minutes where there was little to remove, which an erasure would wait for.
	cleanupSecond       = 10
	maxConcurrentQuery  = 64
	httpKeepAliveSecond = 300
	// keepFreeRatio of the disk is left free: below it inserts are refused and merges do not begin. On a disk that is full to the last byte this ClickHouse
	// (26.7.2) takes parts whose small files are empty for good, merged ones too, which then stand in the place of what was whole.
	keepFreeRatio = 0.02
)

// User is a user of the engine, who may do what is granted and nothing else: not write files, nor reach other hosts, unless Grants say so. One thing is not
// closed: the function file(path) reads any file that the engine may read (the table function does not), because the library takes itself for
// clickhouse-local. So a password is as good as the rights of the account that runs the engine.
type User struct {
	Name     string
	Password string
	Grants   []string // such as "SELECT ON system.*"
}

// layout of Options.Dir.
func configPath(dir string) string { return filepath.Join(dir, "config.xml") }
func usersPath(dir string) string  { return filepath.Join(dir, "users.xml") }
func portsPath(dir string) string  { return filepath.Join(dir, "ports") }
func dataPath(dir string) string   { return filepath.Join(dir, "data") }

// writeConfig writes the engine's configuration below o.Dir. The paths in it are absolute: the engine resolves no others.
func writeConfig(o Options) error {
	memory := o.MemoryBytes
	if memory == 0 {
		memory = defaultMemoryBytes
	}
	config := fmt.Sprintf(`<clickhouse>
  <!-- Written at every start. -->
  <logger><console>1</console></logger>
  <users_config>%s</users_config>
  <max_server_memory_usage>%d</max_server_memory_usage>
  <mark_cache_size>%d</mark_cache_size>
  <primary_index_cache_size>%d</primary_index_cache_size>
  <background_pool_size>%d</background_pool_size>
  <os_threads_nice_value_merge_mutate>15</os_threads_nice_value_merge_mutate>
  <max_concurrent_queries>%d</max_concurrent_queries>
  <keep_alive_timeout>%d</keep_alive_timeout>
  <merge_tree>
    <cleanup_delay_period>%d</cleanup_delay_period>
    <max_cleanup_delay_period>%d</max_cleanup_delay_period>
    <number_of_free_entries_in_pool_to_execute_mutation>1</number_of_free_entries_in_pool_to_execute_mutation>
    <number_of_free_entries_in_pool_to_lower_max_size_of_merge>1</number_of_free_entries_in_pool_to_lower_max_size_of_merge>
    <number_of_free_entries_in_pool_to_execute_optimize_entire_partition>1</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
  </merge_tree>
%s  <storage_configuration><disks><default><keep_free_space_ratio>%g</keep_free_space_ratio></default></disks></storage_configuration>
</clickhouse>
`, escape(usersPath(o.Dir)), memory, markCacheBytes, primaryCacheBytes, backgroundPoolSize, maxConcurrentQuery, httpKeepAliveSecond, cleanupSecond, cleanupSecond, handlers(o.Users), keepFreeRatio)

	var users strings.Builder
	for _, u := range o.Users {
		fmt.Fprintf(&users, "    <%[1]s><password>%[2]s</password><profile>default</profile><quota>default</quota><networks><ip>127.0.0.1</ip></networks><grants>",
			u.Name, escape(u.Password))
		for _, g := range u.Grants {
			fmt.Fprintf(&users, "<query>GRANT %s</query>", escape(g))
		}
		fmt.Fprintf(&users, "</grants></%s>\n", u.Name)
	}
	// The first settings undo what the library sets otherwise than a server. No limit on execution time: the query that keeps
	// the child alive is one of default's.
	text := fmt.Sprintf(`<clickhouse>
  <!-- Written at every start. -->
  <profiles>
    <default>
      <implicit_select>0</implicit_select>
      <allow_introspection_functions>0</allow_introspection_functions>
      <storage_file_read_method>pread</storage_file_read_method>
      <max_execution_time>0</max_execution_time>
    </default>
  </profiles>
  <users>
    <default><password></password><profile>default</profile><quota>default</quota></default>
%s  </users>
  <quotas><default></default></quotas>
</clickhouse>
`, users.String())

	if err := os.WriteFile(configPath(o.Dir), []byte(config), 0o600); err != nil {
		return err
	}
	return os.WriteFile(usersPath(o.Dir), []byte(text), 0o600)
}

// handlers make the HTTP interface answer nobody but these users: a request is served only with the headers of one of them. The user `default` of the child's
// own session cannot be given a password, because the library begins the session without one. The native protocol has no such gate, so it is not served.
// Without users everybody is served.
func handlers(users []User) string {
	if len(users) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("  <http_handlers>\n    <rule><url>/ping</url><methods>GET,HEAD</methods><handler><type>static</type><response_content>Ok.\n</response_content></handler></rule>\n")
	for _, u := range users {
		for _, headers := range []string{ // the two ways in which clients name themselves
			"<Authorization>Basic " + base64.StdEncoding.EncodeToString([]byte(u.Name+":"+u.Password)) + "</Authorization>",
			"<X-ClickHouse-User>" + u.Name + "</X-ClickHouse-User><X-ClickHouse-Key>" + escape(u.Password) + "</X-ClickHouse-Key>",
		} {
			fmt.Fprintf(&b, "    <rule><headers>%s</headers><handler><type>dynamic_query_handler</type><query_param_name>query</query_param_name></handler></rule>\n", headers)
		}
	}
	b.WriteString("  </http_handlers>\n")
	return b.String()
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}
