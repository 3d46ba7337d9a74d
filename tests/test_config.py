"""Conf files: the syntax, what is forgiven with a warning, and what stops the start."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields

from pymq.broker.broker_config import BrokerConfig, BrokerRole, FlushDiskType, check_supported
from pymq.config import Loaded, absolute, load, properties_text, settings, update
from pymq.errors import ConfigError
from pymq.java_properties import escape, parse_properties
from pymq.namesrv.namesrv_config import NamesrvConfig

HERE = Path(__file__).parent
TUTORIAL = HERE / "fixtures" / "tutorial"
SAMPLES = HERE.parent / "conf"
APACHE_KEYS = [
    line.split("\t") for line in (HERE / "fixtures" / "apache_4.9.4_keys.tsv").read_text().splitlines()[1:]
]


def broker(tmp_path: Path, text: str | bytes) -> Loaded[BrokerConfig]:
    """Load a broker.conf with this text."""
    path = tmp_path / "broker.conf"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(BrokerConfig, path)


def without_effect_warnings(loaded: Loaded[BrokerConfig]) -> list[str]:
    """Give the warnings but for those about keys that have no effect in this version."""
    return [warning for warning in loaded.warnings if "has no effect in this version" not in warning]


def refusal(tmp_path: Path, text: str | bytes) -> str:
    """Give the reason why a broker.conf with this text is refused, without the folder."""
    with pytest.raises(ConfigError) as refused:
        broker(tmp_path, text)
    return str(refused.value).replace(f"{tmp_path}/", "")


# --- the syntax ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "key", "value", "java"),
    [
        ("a=b", "a", "b", "b"),
        ("  a = b", "a", "b", "b"),
        ("a:b", "a", "b", "b"),
        ("a b c", "a", "b c", "b c"),
        ("a\t=\tb", "a", "b", "b"),
        ("a==b", "a", "=b", "=b"),
        ("a", "a", "", ""),
        ("a=", "a", "", ""),
        ("a=b  ", "a", "b", "b  "),
        ("a=b\\ ", "a", "b ", "b "),
        ("a=b\\\\ ", "a", "b\\", "b\\ "),
        ("a=b #c", "a", "b", "b #c"),
        ("a=b # c=d", "a", "b", "b # c=d"),
        ("a=b#c", "a", "b#c", "b#c"),
        ("a=#c", "a", "#c", "#c"),
        ("a= #c", "a", "", "#c"),
        ("a=b \\#c", "a", "b #c", "b #c"),
        ("a=b !c", "a", "b !c", "b !c"),
        ("a=b\\\n   c", "a", "bc", "bc"),
        ("a=b\\\\\nz=1", "a", "b\\", "b\\"),
        ("a\\=b\\:c\\ d=e", "a=b:c d", "e", "e"),
        ("a=\\t\\n\\r\\f\\q", "a", "\t\n\r\fq", "\t\n\r\fq"),
        ("a=C:\\data", "a", "C:data", "C:data"),
        ("a=\\u4e2d\\u6587", "a", "中文", "中文"),
        ("a=\\ud83d\\ude00", "a", "😀", "😀"),
        ("a=\\\\u4e2d", "a", "\\u4e2d", "\\u4e2d"),
        ("a=中文", "a", "中文", "中文"),
    ],
)
def test_a_line_is_read_as_java_reads_it_but_for_comments_and_blanks_at_the_end(
    line: str, key: str, value: str, java: str
) -> None:
    entry = parse_properties(line)[0]
    assert (entry.key, entry.value, entry.apache_value, entry.line) == (key, value, java, 1)


def test_comments_and_empty_lines_are_skipped_and_line_numbers_are_those_of_the_file() -> None:
    text = "# one\\\n\n  ! two\na=1\r\nb=2\\\r\n  3\rc=4\n \t\n"
    assert [(entry.key, entry.value, entry.line) for entry in parse_properties(text)] == [
        ("a", "1", 4),
        ("b", "23", 5),
        ("c", "4", 7),
    ]


def test_a_broken_unicode_escape_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^x\.conf:2: \\u must be followed by four"):
        parse_properties("a=1\nb=\\u12", "x.conf")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_an_escaped_value_comes_back(value: str) -> None:
    line = f"a={escape(value)}"
    assert line.isascii()
    entry = parse_properties(line)[0]
    assert (entry.value, entry.apache_value) == (value, value)


# --- what is forgiven ---------------------------------------------------------------------------------


def test_a_comment_behind_a_value_is_cut_with_what_apache_would_make_of_it(tmp_path: Path) -> None:
    loaded = broker(
        tmp_path,
        "brokerName=a #x\nfileReservedTime=48 # hours\nclusterTopicEnable=true #y\n"
        "flushDiskType=ASYNC_FLUSH ",
    )
    assert (loaded.value.broker_name, loaded.value.file_reserved_time) == ("a", 48)
    assert loaded.value.cluster_topic_enable is True
    assert loaded.value.flush_disk_type is FlushDiskType.ASYNC_FLUSH
    named, reserved, enabled, flushed = without_effect_warnings(loaded)
    assert "broker.conf:1: brokerName: the comment '#x' cut off" in named
    assert "Apache would keep it, as part of the value: 'a #x'" in named
    assert "use its default, 72" in reserved
    assert "Apache would read the value as false" in enabled
    assert "blanks at the end cut off" in flushed


def test_an_unknown_key_is_reported_with_the_nearest_known_one(tmp_path: Path) -> None:
    warnings = broker(tmp_path, "brokername=a\nlistenport=1\nxyzzy=1").warnings
    assert [warning.rsplit("broker.conf", 1)[1] for warning in warnings] == [
        ":1: unknown key brokername: did you mean brokerName?",
        ":2: unknown key listenport: did you mean listenPort?",
        ":3: unknown key xyzzy, and no known one is like it",
    ]


def test_a_key_set_twice_is_reported_and_the_last_one_is_taken(tmp_path: Path) -> None:
    loaded = broker(tmp_path, "mapedFileSizeCommitLog=1073741824\n\nmappedFileSizeCommitLog=536870912")
    assert loaded.value.mapped_file_size_commit_log == 536870912
    assert "broker.conf:3: mappedFileSizeCommitLog was already set in line 1" in loaded.warnings[0]


def test_the_tutorials_spelling_of_brokerip2_is_taken_with_a_warning(tmp_path: Path) -> None:
    loaded = broker(tmp_path, "brokerIp1=10.0.0.1\nbrokerIp2=10.0.0.2")
    assert (loaded.value.broker_ip1, loaded.value.broker_ip2) == ("10.0.0.1", "10.0.0.2")
    assert "brokerIp2 is read as brokerIP2; Apache ignores this spelling" in loaded.warnings[1]


def test_both_spellings_of_the_segment_sizes_are_taken_without_a_word(tmp_path: Path) -> None:
    loaded = broker(tmp_path, "mapedFileSizeCommitLog=67108864\nmapedFileSizeConsumeQueue=600000")
    assert loaded.value.mapped_file_size_commit_log == 67108864
    assert loaded.value.mapped_file_size_consume_queue == 600000
    assert loaded.warnings == []


def test_a_masters_id_becomes_0_with_a_warning(tmp_path: Path) -> None:
    loaded = broker(tmp_path, "brokerId=3")
    assert loaded.value.broker_id == 0
    assert "broker.conf:1: brokerId: a master's id is 0, not 3" in loaded.warnings[0]


def test_a_file_of_windows_with_a_byte_order_mark_and_a_comment_in_gbk_is_read(tmp_path: Path) -> None:
    loaded = broker(
        tmp_path, b"\xef\xbb\xbfbrokerName=a\r\n# \xd6\xd0\xce\xc4\r\nlistenPort=20911 # \xd6\xd0\r\n"
    )
    assert (loaded.value.broker_name, loaded.value.listen_port) == ("a", 20911)


# --- what stops the start -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("listenPort=x", "a whole number from 0 to 65535, got 'x'"),
        ("listenPort=70000", "a whole number from 0 to 65535, got '70000'"),
        ("listenPort=", "a whole number from 0 to 65535, got ''"),
        ("listenPort=2", "0, or 3 to 65534"),
        ("fileReservedTime=0x10", "a whole number from 0 to 2147483647, got '0x10'"),
        ("fileReservedTime=4_8", "a whole number"),
        ("fileReservedTime=48.0", "a whole number"),
        ("fileReservedTime=4٨", "a whole number"),
        ("maxMessageSize=99999999999", "a whole number from 1 to 2147483647"),
        ("autoCreateTopicEnable=1", "true or false, got '1'"),
        ("autoCreateTopicEnable=yes", "true or false, got 'yes'"),
        ("brokerRole=async_master", "one of ASYNC_MASTER, SYNC_MASTER, SLAVE, got 'async_master'"),
        ("flushDiskType=SYNC", "one of ASYNC_FLUSH, SYNC_FLUSH, got 'SYNC'"),
        ("deleteWhen=24", "hours from 0 to 23 with ; between them, as 04;16, got '24'"),
        ("deleteWhen=04#four", "hours from 0 to 23"),
        ("namesrvAddr=localhost", "host:port;host:port ('localhost' is not host:port)"),
        ("namesrvAddr=a:1,b:2", "host:port;host:port"),
        ("messageDelayLevel=1s 5x", "times like 1s 5m 2h 1d"),
        ("mappedFileSizeCommitLog=10", "a whole number from 4096"),
        ("diskMaxUsedSpaceRatio=0.75", "a whole number from 1 to 100"),
        ("storePathRootDir=/tmp/a\\u0000b", "a value without NUL"),
        ("brokerIP1=my host", "an IPv4 address, or a name that has one ('my host' is neither"),
        ("brokerIP1=::1", "an IPv4 address, or a name that has one (::1 is an IPv6 address)"),
        ("brokerIP2=fe80::1", "an IPv4 address"),
        ("brokerIP1=10.0.0", "an IPv4 address"),
        ("brokerIP1=10.0.0.256", "an IPv4 address"),
        ("brokerIP1=" + "n" * 64, "has no IPv4 address"),
        ("bindAddress=my host", "an address of this machine, or its name"),
        ("bindAddress=" + "n" * 64, "an address of this machine, or its name"),
        ("brokerClusterName=", "letters, digits and . _ - % |"),
        ("brokerName=a\\u0001b", "letters, digits and . _ - % |"),
        ("brokerName=a/b", "letters, digits and . _ - % |"),
        ("brokerName=" + "n" * 128, "at most 127 bytes"),
    ],
)
def test_a_bad_value_stops_with_file_line_key_and_what_was_expected(
    tmp_path: Path, line: str, expected: str
) -> None:
    said = refusal(tmp_path, f"# a comment\n{line}\n")
    assert said.startswith(f"broker.conf:2: {line.split('=')[0]}: expected ")
    assert expected in said


def test_hosts_names_become_ipv4_addresses_and_no_address_means_all(tmp_path: Path) -> None:
    value = broker(tmp_path, "brokerIP1=localhost\nbrokerIP2=localhost\nbindAddress=localhost").value
    assert (value.broker_ip1, value.broker_ip2, value.bind_address) == ("127.0.0.1",) * 3
    assert broker(tmp_path, "bindAddress=").value.bind_address == "0.0.0.0"


def test_a_broker_on_an_ipv6_address_must_have_an_ipv4_one_to_tell_to_clients(tmp_path: Path) -> None:
    assert "brokerIP1: expected an IPv4 address to tell" in refusal(tmp_path, "bindAddress=::1")
    assert broker(tmp_path, "bindAddress=::1\nbrokerIP1=127.0.0.1").value.bind_address == "::1"
    assert broker(tmp_path, "bindAddress=::").value.bind_address == "::"


def test_a_name_server_takes_a_hosts_name_or_no_address_at_all(tmp_path: Path) -> None:
    path = tmp_path / "namesrv.conf"
    for text, address in (("localhost", "127.0.0.1"), ("", "0.0.0.0"), ("::1", "::1")):
        path.write_text(f"bindAddress={text}")
        assert load(NamesrvConfig, path).value.bind_address == address
    path.write_text("bindAddress=my host")
    with pytest.raises(ConfigError, match=r"namesrv\.conf:1: bindAddress: expected an address"):
        load(NamesrvConfig, path)


def test_brokers_may_be_called_as_hosts_are_and_in_any_alphabet(tmp_path: Path) -> None:
    value = broker(tmp_path, "brokerName=mq-1.example.com\nbrokerClusterName=集群_1").value
    assert (value.broker_name, value.broker_cluster_name) == ("mq-1.example.com", "集群_1")


@pytest.mark.parametrize(
    "line", ["fileReservedTime=+48", "fileReservedTime=048", "fileReservedTime: 48", "fileReservedTime 48"]
)
def test_numbers_are_taken_as_java_takes_them(tmp_path: Path, line: str) -> None:
    assert broker(tmp_path, line).value.file_reserved_time == 48


def test_booleans_are_true_and_false_in_any_case(tmp_path: Path) -> None:
    value = broker(tmp_path, "autoCreateTopicEnable=FALSE\nslaveReadEnable=True").value
    assert (value.auto_create_topic_enable, value.slave_read_enable) == (False, True)


def test_two_settings_on_one_line_are_refused_and_both_are_named(tmp_path: Path) -> None:
    said = refusal(tmp_path, "namesrvAddr=127.0.0.1:9876;127.0.0.1:9877 brokerClusterName=FechintCluster")
    assert said.startswith("broker.conf:1: two settings on one line, namesrvAddr and brokerClusterName")
    assert "two settings" in refusal(tmp_path, "regionId=x   listenPort : 1")
    assert "two settings" in refusal(tmp_path, "unknown=x brokerIp2=10.0.0.1")


def test_what_only_looks_like_two_settings_is_taken(tmp_path: Path) -> None:
    value = broker(tmp_path, "regionId=x y=z #brokerName=b").value
    assert (value.region_id, value.broker_name) == ("x y=z", "")


def test_a_value_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    assert "regionId: expected a value in UTF-8" in refusal(tmp_path, b"regionId=\xd6\xd0")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"cannot read the conf file nowhere\.conf"):
        load(BrokerConfig, "nowhere.conf")


def test_a_message_that_would_not_fit_into_a_segment_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, "mappedFileSizeCommitLog=4194304")
    assert "maxMessageSize: expected at most" in said
    assert "mappedFileSizeCommitLog=4194304" in said


def test_a_slave_without_an_id_is_refused(tmp_path: Path) -> None:
    assert "brokerId: expected more than 0, since brokerRole is SLAVE" in refusal(
        tmp_path, "brokerRole=SLAVE"
    )


@pytest.mark.parametrize(
    "line",
    [
        "aclEnable=true",
        "useTLS=true",
        "transientStorePoolEnable=true",
        "enableDLegerCommitLog=true",
        "enableConsumeQueueExt=true",
        "storePathCommitLog=/a,/b",
    ],
)
def test_what_is_not_built_yet_stops_the_start(tmp_path: Path, line: str) -> None:
    loaded = broker(tmp_path, f"\n{line}")
    with pytest.raises(ConfigError, match=rf"broker\.conf:2: {line} is not supported yet by this version"):
        check_supported(loaded.value, loaded.origins)


def test_the_defaults_are_supported() -> None:
    check_supported(BrokerConfig())


# --- keys without effect ------------------------------------------------------------------------------


def test_a_key_that_has_no_effect_yet_is_reported_once_and_marked_where_it_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "broker.conf"
    loaded = broker(tmp_path, "listenPort=10911\noffsetCheckInSlave=true\nendTransactionPoolQueueCapacity=9")
    queued = "requests are served as they come, none waits in a queue"
    assert sorted(loaded.warnings) == [
        f"{path}:2: offsetCheckInSlave has no effect in this version: a slave never corrects an offset",
        f"{path}:3: endTransactionPoolQueueCapacity has no effect in this version: {queued}",
    ]
    lines = [" ".join(line.split()) for line in loaded.describe().splitlines()]
    never = "no effect in this version: a slave never corrects an offset"
    assert f"offsetCheckInSlave=true # {path}:2, {never}" in lines
    assert (
        "destroyMapedFileIntervalForcibly=120000 # default, no effect in this version: no reader"
        in "\n".join(lines)
    )
    assert f"listenPort=10911 # {path}:1" in lines


@pytest.mark.parametrize(
    "line", ["enableLmq=true", "duplicationEnable=true", "readOnlyCommitLogStorePaths=/a", "rocketmqHome=/a"]
)
def test_an_ignored_key_is_reported_when_it_asks_for_something(tmp_path: Path, line: str) -> None:
    key = line.split("=")[0]
    said = f"{tmp_path / 'broker.conf'}:2: {key} has no effect: pymq has no use for it"
    assert broker(tmp_path, f"\n{line}").warnings == [said]


def test_an_ignored_key_at_its_default_asks_for_nothing(tmp_path: Path) -> None:
    text = "warmMapedFileEnable = False \nhaListenPort=10912\ndLegerGroup=\nenableConsumeQueueExt=false"
    assert broker(tmp_path, text).warnings == []


@pytest.mark.parametrize(("program", "cls"), [("broker", BrokerConfig), ("namesrv", NamesrvConfig)])
def test_each_key_has_either_a_use_or_the_mark_that_it_has_none(
    program: str, cls: type[BrokerConfig] | type[NamesrvConfig]
) -> None:
    config_file = f"{program}_config.py"
    sources = [path for path in (HERE.parent / program).rglob("*.py") if path.name != config_file]
    text = "".join(path.read_text() for path in sources)
    own = (HERE.parent / program / config_file).read_text()
    used = set(re.findall(r"config\.(\w+)", text + own))
    for name in used & {"socket_options", "commit_log_folder", "namesrv_addresses"}:
        body = own.split(f"def {name}(")[1].split("def ")[0]
        used.update(re.findall(r"\bself\.(\w+)", body))
    unused = {info.encode_name for info in fields(cls) if info.name not in used}
    assert unused == set(cls.NO_EFFECT)


# --- where a value came from --------------------------------------------------------------------------


def test_the_command_line_beats_the_file_and_the_file_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "broker.conf"
    path.write_text("namesrvAddr=file:1\n")
    environment = {"NAMESRV_ADDR": "environment:1"}
    key = "namesrvAddr"
    loaded = load(BrokerConfig, None, {}, environment)
    assert (loaded.value.namesrv_addr, loaded.origin(key)) == ("environment:1", "environment NAMESRV_ADDR")
    loaded = load(BrokerConfig, path, {}, environment)
    assert (loaded.value.namesrv_addr, loaded.origin(key)) == ("file:1", f"{path}:1")
    loaded = load(BrokerConfig, path, {key: "option:1"}, environment)
    assert (loaded.value.namesrv_addr, loaded.origin(key)) == ("option:1", "command line")
    assert load(BrokerConfig).origin(key) == "default"


def test_a_bad_value_of_the_environment_is_traced_to_it() -> None:
    with pytest.raises(ConfigError, match=r"^environment NAMESRV_ADDR: namesrvAddr: expected host:port"):
        load(BrokerConfig, environment={"NAMESRV_ADDR": "nowhere"})


def test_the_description_holds_every_key_with_its_origin_and_the_ignored_ones(tmp_path: Path) -> None:
    loaded = broker(tmp_path, "brokerIP1=10.0.0.1\nsendMessageThreadPoolNums=16")
    lines = [" ".join(line.split()) for line in loaded.describe().splitlines()]
    path = tmp_path / "broker.conf"
    assert f"brokerIP1=10.0.0.1 # {path}:1" in lines
    assert "listenPort=10911 # default" in lines
    assert f"sendMessageThreadPoolNums=16 # {path}:2, ignored: pymq has no use for it" in lines


def test_what_nobody_set_can_be_filled_and_says_from_where(tmp_path: Path) -> None:
    loaded = broker(tmp_path, "brokerIP1=10.0.0.1")
    loaded.fill("brokerIP1", "10.9.9.9", "this machine's address")
    loaded.fill("brokerName", "host", "this machine's name")
    assert (loaded.value.broker_ip1, loaded.value.broker_name) == ("10.0.0.1", "host")
    assert loaded.origin("brokerName") == "this machine's name"


# --- changing a running one ---------------------------------------------------------------------------


def test_an_update_gives_what_changed_and_leaves_unknown_keys_out() -> None:
    config = BrokerConfig()
    assert update(config, "brokerPermission=4\nnonsense=1\nlistenPort=10911\n") == {"brokerPermission": "4"}
    assert config.broker_permission == 4


def test_an_update_with_one_bad_value_changes_nothing() -> None:
    config = BrokerConfig()
    with pytest.raises(ConfigError, match=r"update:2: deleteWhen: expected hours"):
        update(config, "brokerPermission=4\ndeleteWhen=99")
    assert config == BrokerConfig()


def test_the_text_of_a_configuration_gives_it_back(tmp_path: Path) -> None:
    config = BrokerConfig(region_id="中文 #1 \\ ", trace_on=False, broker_role=BrokerRole.ASYNC_MASTER)
    loaded = broker(tmp_path, properties_text(config))
    assert loaded.value == config
    assert without_effect_warnings(loaded) == []


# --- Apache's keys, the tutorial's files, our samples -------------------------------------------------


@pytest.mark.parametrize(("origin", "key", "default", "use"), APACHE_KEYS)
def test_every_key_of_apache_is_known_with_its_default(origin: str, key: str, default: str, use: str) -> None:
    cls = NamesrvConfig if origin == "NamesrvConfig" else BrokerConfig
    mine = dict(settings(cls()))
    if use == "i":
        assert {**mine, **cls.IGNORED}[key] == ("" if default in ("null", "env", "–") else default)
    elif key in ("namesrvAddr", "brokerIP1", "brokerIP2", "brokerName", "listenPort", "messageDelayLevel"):
        assert key in mine
    elif default == "null":
        assert mine[key] == ""
    else:
        assert mine[key] == default.replace("$HOME", str(Path.home()))


def test_the_tutorials_explained_file_is_refused_for_its_double_line() -> None:
    with pytest.raises(
        ConfigError, match=r"annotated\.conf:2: two settings on one line, namesrvAddr and broker"
    ):
        load(BrokerConfig, TUTORIAL / "annotated.conf")


def test_the_tutorials_explained_file_is_read_once_the_line_is_parted(tmp_path: Path) -> None:
    text = (TUTORIAL / "annotated.conf").read_text().replace(" brokerClusterName", "\nbrokerClusterName")
    loaded = broker(tmp_path, text)
    value = loaded.value
    assert value.namesrv_addresses == ["127.0.0.1:9876", "127.0.0.1:9877"]
    assert (value.broker_cluster_name, value.broker_name, value.broker_id) == (
        "FechintCluster",
        "broker01",
        0,
    )
    assert (value.delete_hours, value.file_reserved_time, value.listen_port) == (frozenset({4}), 48, 10911)
    assert (value.broker_role, value.flush_disk_type) == (BrokerRole.SYNC_MASTER, FlushDiskType.ASYNC_FLUSH)
    assert (value.broker_ip1, value.broker_ip2) == ("127.0.0.1", "127.0.0.1")
    assert sum("the comment" in warning for warning in loaded.warnings) == 9
    assert sum("Apache ignores this spelling" in warning for warning in loaded.warnings) == 1


@pytest.mark.parametrize("name", ["broker01-master", "broker01-slave", "broker02-master", "broker02-slave"])
def test_the_tutorials_four_brokers_are_read(name: str) -> None:
    value = load(BrokerConfig, TUTORIAL / f"{name}.conf").value
    assert value.broker_name == name.split("-")[0]
    assert value.broker_role is (BrokerRole.SLAVE if name.endswith("slave") else BrokerRole.SYNC_MASTER)


def test_a_standalone_broker_deletes_nothing_before_its_time_and_goes_by_free_bytes() -> None:
    config = load(BrokerConfig, SAMPLES / "standalone.conf").value
    assert not config.clean_file_forcibly_enable
    assert config.disk_min_free_bytes == 256 << 20


@pytest.mark.parametrize(
    "path", [*SAMPLES.glob("broker.conf"), *SAMPLES.glob("standalone.conf"), *SAMPLES.glob("*m*/*")], ids=str
)
def test_a_sample_is_read_without_a_warning(path: Path) -> None:
    assert load(BrokerConfig, path).warnings == []


def test_the_name_servers_sample_is_read_without_a_warning() -> None:
    assert load(NamesrvConfig, SAMPLES / "namesrv.conf").warnings == []


@pytest.mark.parametrize("layout", ["1m", "2m-noslave", "2m-2s-async", "2m-2s-sync"])
def test_the_brokers_of_a_layout_run_on_one_machine(layout: str) -> None:
    values = [load(BrokerConfig, path).value for path in sorted((SAMPLES / layout).iterdir())]
    ports = [port for value in values for port in range(value.listen_port - 2, value.listen_port + 2)]
    assert len(set(ports)) == len(ports)
    assert len({value.store_path_root_dir for value in values}) == len(values)
    assert len({(value.broker_name, value.broker_id) for value in values}) == len(values)


def test_relative_folders_become_absolute(tmp_path: Path) -> None:
    value = broker(tmp_path, "storePathRootDir=store/a").value
    assert value.store_path_root_dir == absolute("store/a")
    assert value.commit_log_folder == absolute("store/a/commitlog")
