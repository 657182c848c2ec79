package chengine

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Bounds for one machine that also runs everything else. An operator who wants others gives a ConfigFile.
const (
	defaultMemoryBytes  = 2 << 30
	markCacheBytes      = 64 << 20
	primaryCacheBytes   = 64 << 20
	backgroundPoolSize  = 2 // merge threads; twice as many merges may wait
	maxConcurrentQuery  = 64
	httpKeepAliveSecond = 300
	// keepFreeRatio of the disk is left free: below it inserts are refused and merges do not begin. On a disk that is full to the last byte this ClickHouse
	// (26.7.2) takes parts whose small files are empty for good, merged ones too, which then stand in the place of what was whole.
	keepFreeRatio = 0.02
)

// User is a further user of the engine. The user `default` exists always and has no password: the child's own session is his.
type User struct {
	Name     string
	Password string
	ReadOnly bool
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
  <max_concurrent_queries>%d</max_concurrent_queries>
  <keep_alive_timeout>%d</keep_alive_timeout>
  <merge_tree>
    <number_of_free_entries_in_pool_to_execute_mutation>1</number_of_free_entries_in_pool_to_execute_mutation>
    <number_of_free_entries_in_pool_to_lower_max_size_of_merge>1</number_of_free_entries_in_pool_to_lower_max_size_of_merge>
    <number_of_free_entries_in_pool_to_execute_optimize_entire_partition>1</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
  </merge_tree>
  <storage_configuration><disks><default><keep_free_space_ratio>%g</keep_free_space_ratio></default></disks></storage_configuration>
</clickhouse>
`, escape(usersPath(o.Dir)), memory, markCacheBytes, primaryCacheBytes, backgroundPoolSize, maxConcurrentQuery, httpKeepAliveSecond, keepFreeRatio)

	var users strings.Builder
	for _, u := range o.Users {
		profile := "default"
		if u.ReadOnly {
			profile = "readonly"
		}
		fmt.Fprintf(&users, "    <%[1]s><password>%[2]s</password><profile>%[3]s</profile><quota>default</quota><networks><ip>127.0.0.1</ip></networks></%[1]s>\n",
			u.Name, escape(u.Password), profile)
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
    <readonly><readonly>1</readonly></readonly>
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

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}
