package parameters

import (
	"fmt"
	"slices"
	"strings"
)

// since and until are the parameters that not all supported versions of PostgreSQL
// have: the first version that has them, and the first that has them no more (release
// notes of 14 to 18, appendix E of the documentation).
var (
	since = map[int][]string{
		14: {"client_connection_check_interval", "compute_query_id", "default_toast_compression", "enable_async_append",
			"enable_memoize", "huge_page_size", "idle_session_timeout", "log_recovery_conflict_waits", "min_dynamic_shared_memory",
			"recovery_init_sync_method", "remove_temp_files_after_crash", "ssl_crl_dir", "track_wal_io_timing", "vacuum_failsafe_age",
			"vacuum_multixact_failsafe_age"},
		15: {"allow_in_place_tablespaces", "archive_library", "log_startup_progress_interval", "recovery_prefetch",
			"recursive_worktable_factor", "stats_fetch_consistency", "wal_decode_buffer_size"},
		16: {"createrole_self_grant", "debug_parallel_query", "enable_presorted_aggregate", "gss_accept_delegation",
			"icu_validation_level", "max_parallel_apply_workers_per_subscription", "reserved_connections", "scram_iterations",
			"send_abort_for_crash", "send_abort_for_kill", "vacuum_buffer_usage_limit"},
		17: {"allow_alter_system", "commit_timestamp_buffers", "enable_group_by_reordering", "event_triggers", "io_combine_limit",
			"max_notify_queue_pages", "multixact_member_buffers", "multixact_offset_buffers", "notify_buffers",
			"restrict_nonsystem_relation_kind", "serializable_buffers", "subtransaction_buffers", "summarize_wal",
			"sync_replication_slots", "synchronized_standby_slots", "trace_connection_negotiation", "transaction_buffers",
			"transaction_timeout", "wal_summary_keep_time"},
		18: {"autovacuum_vacuum_max_threshold", "autovacuum_worker_slots", "enable_distinct_reordering", "enable_self_join_elimination",
			"extension_control_path", "file_copy_method", "idle_replication_slot_timeout", "io_max_combine_limit", "io_max_concurrency",
			"io_method", "io_workers", "log_lock_failures", "max_active_replication_origins", "md5_password_warnings",
			"oauth_validator_libraries", "ssl_groups", "ssl_tls13_ciphers", "track_cost_delay_timing",
			"vacuum_max_eager_freeze_failure_rate", "vacuum_truncate"},
	}
	until = map[int][]string{
		14: {"operator_precedence_warning", "vacuum_cleanup_index_scale_factor"},
		15: {"stats_temp_directory"},
		16: {"force_parallel_mode", "promote_trigger_file", "vacuum_defer_cleanup_age"},
		17: {"db_user_namespace", "old_snapshot_threshold", "trace_recovery_messages"},
	}
)

// unknown says that a version of PostgreSQL does not know a parameter: which versions
// do, or which name it has that is much like it.
func unknown(name string, version int, names []string) string {
	key := strings.ToLower(name)
	said := fmt.Sprintf("PostgreSQL %d does not know it", version)
	for first, all := range since {
		if first > version && slices.Contains(all, key) {
			return fmt.Sprintf("%s; PostgreSQL %d is the first that does", said, first)
		}
	}
	for last, all := range until {
		if last <= version && slices.Contains(all, key) {
			return fmt.Sprintf("%s; PostgreSQL %d was the last that did", said, last-1)
		}
	}
	if like := nearest(key, names); like != "" {
		return fmt.Sprintf("%s; did you mean %s?", said, like)
	}
	return said
}

// nearest is the name that differs least from the key, by at most two letters.
func nearest(key string, names []string) string {
	best, least := "", 3
	for _, n := range names {
		if d := Distance(key, strings.ToLower(n)); d < least {
			best, least = n, d
		}
	}
	return best
}

// Distance is Levenshtein's: how many letters must be changed, added or left out to make b
// of a.
func Distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := diagonal
			if a[i-1] != b[j-1] {
				change++
			}
			diagonal = row[j]
			row[j] = min(change, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
