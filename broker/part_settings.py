"""What each part of a broker is told of its configuration."""

from __future__ import annotations

from pymq.broker.broker_config import BrokerConfig, BrokerRole, FlushDiskType
from pymq.broker.replication.master import Terms
from pymq.broker.transactions.checks import CheckTerms
from pymq.store.retention import RetentionRules
from pymq.store.store_config import StoreConfig


def replication_terms(config: BrokerConfig) -> Terms:
    """How a master deals with its slaves."""
    return Terms(
        batch_bytes=config.ha_transfer_batch_size,
        heartbeat_s=config.ha_send_heartbeat_interval / 1000,
        housekeeping_s=config.ha_housekeeping_interval / 1000,
        fall_behind_max=config.ha_slave_fallbehind_max,
    )


def retention_rules(config: BrokerConfig) -> RetentionRules:
    """What is kept and for how long."""
    return RetentionRules(
        delete_when=config.delete_when,
        file_reserved_time=config.file_reserved_time,
        disk_max_used_space_ratio=config.disk_max_used_space_ratio,
        disk_space_clean_forcibly_ratio=config.disk_space_clean_forcibly_ratio,
        disk_space_warning_level_ratio=config.disk_space_warning_level_ratio,
        disk_min_free_bytes=config.disk_min_free_bytes,
        clean_file_forcibly_enable=config.clean_file_forcibly_enable,
        clean_resource_interval=config.clean_resource_interval,
        delete_commit_log_files_interval=config.delete_commit_log_files_interval,
        delete_consume_queue_files_interval=config.delete_consume_queue_files_interval,
        redelete_hanged_file_interval=config.redelete_hanged_file_interval,
    )


def store_config(config: BrokerConfig) -> StoreConfig:
    """The store's share of the configuration."""
    return StoreConfig(
        root=config.store_path_root_dir,
        commit_log_path=config.store_path_commit_log,
        commit_log_segment_bytes=config.mapped_file_size_commit_log,
        consume_queue_segment_bytes=config.mapped_file_size_consume_queue,
        max_message_bytes=config.max_message_size,
        is_replica=config.broker_role is BrokerRole.SLAVE,
        sync_flush=config.flush_disk_type is FlushDiskType.SYNC_FLUSH,
        flush_interval_commit_log=config.flush_interval_commit_log,
        flush_commit_log_timed=config.flush_commit_log_timed,
        flush_commit_log_least_pages=config.flush_commit_log_least_pages,
        flush_commit_log_thorough_interval=config.flush_commit_log_thorough_interval,
        flush_interval_consume_queue=config.flush_interval_consume_queue,
        flush_consume_queue_least_pages=config.flush_consume_queue_least_pages,
        flush_consume_queue_thorough_interval=config.flush_consume_queue_thorough_interval,
        max_transfer_bytes_in_memory=config.max_transfer_bytes_on_message_in_memory,
        max_transfer_count_in_memory=config.max_transfer_count_on_message_in_memory,
        max_transfer_bytes_in_disk=config.max_transfer_bytes_on_message_in_disk,
        max_transfer_count_in_disk=config.max_transfer_count_on_message_in_disk,
        access_message_in_memory_max_ratio=config.access_message_in_memory_max_ratio,
        check_crc_on_recover=config.check_crc_on_recover,
        message_index_enable=config.message_index_enable,
        max_hash_slot_num=config.max_hash_slot_num,
        max_index_num=config.max_index_num,
        message_delay_level=config.message_delay_level,
        retention=retention_rules(config),
    )


def check_terms(config: BrokerConfig) -> CheckTerms:
    """When half messages are asked about."""
    return CheckTerms(
        interval_ms=config.transaction_check_interval,
        timeout_ms=config.transaction_time_out,
        check_max=config.transaction_check_max,
        reserved_ms=config.file_reserved_time * 3_600_000,
    )
