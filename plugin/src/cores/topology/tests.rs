use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use expect_test::{Expect, expect};

use super::*;

type Files<'a> = Vec<(&'a str, &'a str)>;

fn tree(files: &Files<'_>) -> tempfile::TempDir {
    let sys = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = sys.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }
    sys
}

fn read(files: &Files<'_>) -> Result<Topology, String> {
    Topology::read(tree(files).path()).map_err(|error| error.to_string())
}

fn recorded(machine: &str) -> Topology {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/topology");
    let text = fs::read_to_string(data.join(format!("{machine}.txt"))).unwrap();
    read(&text.lines().map(|line| line.split_once('\t').unwrap()).collect()).unwrap()
}

fn or_none(cpus: Option<&CpuSet>) -> String {
    cpus.map_or_else(|| "none".to_owned(), CpuSet::to_string)
}

/// Cores that differ by nothing but their number are on one line.
fn rendered(machine: &Topology) -> String {
    let Topology { online, present, possible, isolated, nohz_full, nodes: _, cores } = machine;
    let mut text = format!("online {online} present {present} possible {possible}\n");
    let (isolated, nohz_full) = (or_none(isolated.as_ref()), or_none(nohz_full.as_ref()));
    write!(text, "isolated {isolated} nohz_full {nohz_full}").unwrap();
    let mut places: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for Core { cpus, package, die, node, l3, kind } in cores {
        let threads = cpus.iter().map(|cpu| cpu.number().to_string()).collect::<Vec<_>>().join("+");
        places.entry((package, die, node, l3.number(), kind)).or_default().push(threads);
    }
    for ((package, die, node, l3, kind), cores) in places {
        let node = node.map_or_else(|| "none".to_owned(), |node| node.to_string());
        write!(text, "\npackage {package} die {die} node {node} l3 {l3} {kind:?}: {}", cores.join(" "))
            .unwrap();
    }
    text
}

#[track_caller]
fn check(machine: &str, expect: Expect) {
    expect.assert_eq(&rendered(&recorded(machine)));
}

#[test]
fn two_sockets_that_are_numbered_alternately() {
    check(
        "xeon-2-sockets-smt",
        expect![[r#"
        online 0-47 present 0-47 possible 0-47
        isolated 4-23,28-47 nohz_full 4-23,28-47
        package 0 die 0 node 0 l3 0 Performance: 0+24 2+26 4+28 6+30 8+32 10+34 12+36 14+38 16+40 18+42 20+44 22+46
        package 1 die 0 node 1 l3 1 Performance: 1+25 3+27 5+29 7+31 9+33 11+35 13+37 15+39 17+41 19+43 21+45 23+47"#]],
    );
}

#[test]
fn one_socket_of_many_l3_domains() {
    check(
        "epyc-many-l3",
        expect![[r#"
        online 0-47 present 0-47 possible 0-127
        isolated none nohz_full none
        package 0 die 0 node 0 l3 0 Performance: 0+24 1+25 2+26
        package 0 die 0 node 0 l3 3 Performance: 3+27 4+28 5+29
        package 0 die 0 node 1 l3 6 Performance: 6+30 7+31 8+32
        package 0 die 0 node 1 l3 9 Performance: 9+33 10+34 11+35
        package 0 die 0 node 2 l3 12 Performance: 12+36 13+37 14+38
        package 0 die 0 node 2 l3 15 Performance: 15+39 16+40 17+41
        package 0 die 0 node 3 l3 18 Performance: 18+42 19+43 20+44
        package 0 die 0 node 3 l3 21 Performance: 21+45 22+46 23+47"#]],
    );
}

#[test]
fn a_machine_without_threads_and_without_an_l3() {
    check(
        "arm-no-smt",
        expect![[r#"
        online 0-31 present 0-31 possible 0-31
        isolated 8-31 nohz_full 8-31
        package 0 die 0 node 0 l3 0 Performance: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31"#]],
    );
}

#[test]
fn two_kinds_of_cores() {
    check(
        "hybrid-p-e",
        expect![[r#"
        online 0-23 present 0-23 possible 0-23
        isolated none nohz_full none
        package 0 die 0 node 0 l3 0 Performance: 0+1 2+3 4+5 6+7 8+9 10+11 12+13 14+15
        package 0 die 0 node 0 l3 0 Efficient: 16 17 18 19 20 21 22 23"#]],
    );
}

#[test]
fn a_virtual_machine_that_tells_little() {
    check(
        "vm-4-vcpus",
        expect![[r#"
        online 0-3 present 0-3 possible 0-7
        isolated none nohz_full none
        package 0 die 0 node none l3 0 Performance: 0+2 1+3"#]],
    );
}

#[test]
fn eight_sockets_with_most_cpus_offline_and_numbers_over_1024() {
    check(
        "xeon-8-sockets-sparse",
        expect![[r#"
        online 0-3,86-87,172-173,258-259,344-345,430-431,516-517,686-691,774-775,860-861,946,1032-1033,1118-1119,1204-1205,1374-1375 present 0-1375 possible 0-1439
        isolated 86-87,172-173,258-259,344-345,430-431,516-517,686-687,774-775,860-861,946,1032-1033,1118-1119,1204-1205,1374-1375 nohz_full 86-87,172-173,258-259,344-345,430-431,516-517,686-687,774-775,860-861,946,1032-1033,1118-1119,1204-1205,1374-1375
        package 0 die 0 node 0 l3 0 Performance: 0+688 1+689 2+690 3+691
        package 1 die 0 node 1 l3 86 Performance: 86+774 87+775
        package 2 die 0 node 2 l3 172 Performance: 172+860 173+861
        package 3 die 0 node 3 l3 258 Performance: 258+946 259
        package 4 die 0 node 4 l3 344 Performance: 344+1032 345+1033
        package 5 die 0 node 5 l3 430 Performance: 430+1118 431+1119
        package 6 die 0 node 6 l3 516 Performance: 516+1204 517+1205
        package 7 die 0 node 7 l3 686 Performance: 686+1374 687+1375"#]],
    );
}

const CPU: &str = "devices/system/cpu/";

/// Four CPUs, 0 and 2 of one core, and `more`.
fn small<'a>(more: &[(&'a str, &'a str)]) -> Files<'a> {
    let siblings = [
        ("devices/system/cpu/cpu0/topology/thread_siblings_list", "0,2"),
        ("devices/system/cpu/cpu1/topology/thread_siblings_list", "1"),
        ("devices/system/cpu/cpu2/topology/thread_siblings_list", "0,2"),
        ("devices/system/cpu/cpu3/topology/thread_siblings_list", "3"),
    ];
    [&siblings[..], more].concat()
}

fn two_nodes() -> Topology {
    let nodes = [
        ("devices/system/cpu/online", "0-3"),
        ("devices/system/node/node0/cpulist", "0,2"),
        ("devices/system/node/node1/cpulist", "1,3"),
        ("devices/system/node/node2/cpulist", ""),
    ];
    read(&small(&nodes)).unwrap()
}

fn cpu(number: u32) -> CpuId {
    CpuId::new(number).unwrap()
}

fn set(list: &str) -> CpuSet {
    list.parse().unwrap()
}

#[test]
fn each_cpu_has_its_node_and_its_siblings() {
    let machine = two_nodes();
    assert_eq!([2, 1, 9].map(|number| machine.node_of(cpu(number))), [Some(0), Some(1), None]);
    let siblings = [0, 1, 2, 9].map(|number| machine.siblings_of(cpu(number)).to_string());
    assert_eq!(siblings, ["0,2", "1", "0,2", "9"]);
    assert_eq!(machine.core(cpu(0)).map(|core| &core.cpus), Some(&set("0,2")));
    assert_eq!(machine.core(cpu(2)), None);
    let whole: Vec<CpuId> = machine.cores_in(&set("1-3")).map(Core::id).collect();
    assert_eq!(whole, [cpu(1), cpu(3)]);
}

#[test]
fn a_sysfs_that_does_not_tell_is_an_error_that_names_the_file() {
    let check = |more: &[(&str, &str)], part: &str| {
        let error = read(&small(more)).unwrap_err();
        assert!(error.contains(part), "{error}");
    };
    let online = ("devices/system/cpu/online", "0-3");
    check(&[], "cpu/online");
    check(&[("devices/system/cpu/online", "0-x")], "cpu/online: \"0-x\" is not a CPU list");
    check(&[("devices/system/cpu/online", "0-4")], "cpu4/topology/thread_siblings_list");
    check(&[("devices/system/cpu/online", "0-8192")], "CPU 8192 is out of range");
    check(&[online, ("devices/system/cpu/nohz_full", "1-")], "nohz_full: \"1-\" is not a CPU list");
    check(&[online, ("devices/system/cpu/cpu3/topology/die_id", "x")], "die_id: \"x\" is not a number");
    check(&[online, ("devices/system/node/node0/cpulist", "-")], "node0/cpulist");
}

#[test]
fn masks_that_are_absent_empty_or_null_are_none() {
    for text in [None, Some(""), Some("(null)"), Some("  (null)")] {
        let files =
            text.map(|text| [("devices/system/cpu/nohz_full", text), ("devices/system/cpu/isolated", text)]);
        let more =
            [&[("devices/system/cpu/online", "0-3")][..], files.as_ref().map_or(&[], |files| files)].concat();
        let machine = read(&small(&more)).unwrap();
        assert_eq!((machine.nohz_full, machine.isolated), (None, None), "{text:?}");
    }
}

#[test]
fn a_package_that_is_not_known_is_the_first_and_siblings_offline_do_not_count() {
    let machine = read(&small(&[
        ("devices/system/cpu/online", "0-1,3"),
        ("devices/system/cpu/cpu0/topology/physical_package_id", "-1"),
    ]));
    let machine = machine.unwrap();
    assert_eq!(machine.core_of(cpu(0)).map(|core| (core.package, &core.cpus)), Some((0, &set("0"))));
}

#[test]
fn arms_capacities_tell_the_slower_kind() {
    let path = |number: u32| format!("{CPU}cpu{number}/cpu_capacity");
    let paths = [0, 1, 2, 3].map(path);
    let capacities =
        [&*paths[0], &*paths[1], &*paths[2], &*paths[3]].into_iter().zip(["1024", "430", "1024", "900"]);
    let more: Files<'_> = capacities.chain([("devices/system/cpu/online", "0-3")]).collect();
    let machine = read(&small(&more)).unwrap();
    let kinds = machine.cores().iter().map(|core| core.kind);
    assert!(kinds.eq([Kind::Performance, Kind::Efficient, Kind::Performance]));
}

#[test]
fn the_highest_possible_cpu_counts() {
    let sys = tree(&vec![("devices/system/cpu/possible", "0-3,1024-1375")]);
    assert_eq!(number_of_possible(sys.path()).unwrap(), 1376);
}

#[test]
fn memory_follows_the_cpus() {
    let mems = |cpus: &str| two_nodes().mems_of(&set(cpus));
    assert_eq!((mems("2"), mems("1,2"), mems("3")), (Some("0".into()), Some("0,1".into()), Some("1".into())));
    let bare = read(&small(&[("devices/system/cpu/online", "0-1")])).unwrap();
    assert_eq!(bare.mems_of(&set("1")), None);
}

#[test]
fn isolated_cpus_are_whole_cores_online_and_leave_one_for_housekeeping() {
    let check = |cpus: &str, expect: Expect| {
        let answer = two_nodes().can_isolate(&set(cpus)).map_err(|error| error.to_string());
        expect.assert_eq(&answer.err().unwrap_or_default());
    };
    check("1,3", expect![""]);
    check("0,2", expect![""]);
    check("3-4", expect!["--isolated-cpus 3-4: CPUs 4 are not online (online: 0-3)"]);
    check("0-3", expect!["--isolated-cpus 0-3 leaves no housekeeping CPU: leave out at least one of 0-3"]);
    check(
        "1-3",
        expect![
            "--isolated-cpus 1-3 has only a part of the physical core 0,2: add 0, or leave out the whole core, or turn 0 off (chcpu -d 0)"
        ],
    );
}
