use std::{ffi::OsStr, fs, path::Path};

use clap::Parser as _;
use expect_test::expect;

use super::{
    super::{
        apply::Did,
        cmdline, print, reboot_required, run,
        tools::{InRoot, Run as _},
    },
    DROP_IN, Machine, STATE, told,
};
use crate::args::{Cli, Command};

#[test]
fn grub_gets_a_file_of_its_own_and_loses_it_again() {
    let machine = Machine::with_grub();
    assert_eq!(machine.place().apply(machine.plan("1-3"), 3, true).unwrap().did, Did::WouldApply);
    assert_eq!((machine.text(DROP_IN), machine.text(STATE), machine.calls().len()), (None, None, 0));

    let applied = machine.apply("1-3").unwrap();
    expect![[r#"
        boot settings  applied
        boot loader   GRUB
        file          /etc/default/grub.d/50-quietcore.cfg
        parameter     nohz_full=1-3
        parameter     isolcpus=managed_irq,1-3
        parameter     irqaffinity=0
        A reboot is required:
        - nohz_full=1-3: not on the kernel's command line
        - isolcpus=managed_irq,1-3: not on the kernel's command line
    "#]]
    .assert_eq(&print::outcome(&applied));
    expect![[r##"
        # Written by `quietcore node apply`; `quietcore node restore` removes it.
        GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX nohz_full=1-3 isolcpus=managed_irq,1-3 irqaffinity=0"
    "##]]
    .assert_eq(&machine.text(DROP_IN).unwrap());
    assert_eq!(machine.calls(), ["/usr/sbin/update-grub"]);

    assert_eq!(machine.apply("1-3").unwrap().did, Did::WasApplied);
    assert_eq!(machine.calls().len(), 0);

    machine.apply("2-3").unwrap();
    assert!(machine.text(DROP_IN).unwrap().contains("nohz_full=2-3 "));
    assert_eq!(machine.calls().len(), 1);

    assert_eq!(machine.place().restore(true).unwrap().did, Did::WouldRestore);
    assert!(machine.text(DROP_IN).is_some());
    let restored = machine.restore().unwrap();
    expect![[r#"
        boot settings  taken back
        boot loader   GRUB
        file          /etc/default/grub.d/50-quietcore.cfg
        parameter     nohz_full=2-3
        parameter     isolcpus=managed_irq,2-3
        parameter     irqaffinity=0-1
        The running kernel keeps them until the next boot.
    "#]]
    .assert_eq(&print::outcome(&restored));
    assert_eq!((machine.text(DROP_IN), machine.text(STATE)), (None, None));
    assert_eq!(machine.calls(), ["/usr/sbin/update-grub"]);
    assert_eq!(machine.restore().unwrap().did, Did::NothingToRestore);
    assert_eq!(machine.calls().len(), 0);
}

#[test]
fn where_update_grub_is_missing_mkconfig_is_told_its_file() {
    let machine = Machine::with_grub();
    machine.remove("usr/sbin/update-grub");
    machine.apply("1-3").unwrap();
    assert_eq!(machine.calls(), ["/usr/sbin/grub-mkconfig -o /boot/grub/grub.cfg"]);
    machine.restore().unwrap();
    machine.calls();
    fs::rename(machine.root().join("usr/sbin/grub-mkconfig"), machine.root().join("usr/sbin/grub2-mkconfig"))
        .unwrap();
    machine.apply("1-3").unwrap();
    assert_eq!(machine.calls(), ["/usr/sbin/grub2-mkconfig -o /boot/grub2/grub.cfg"]);
}

#[test]
fn what_an_administrator_set_otherwise_is_refused_by_file_and_value() {
    let check = |path: &str, text: &str, value: &str| {
        let machine = Machine::with_grub();
        machine.put(path, text);
        let error = told(machine.apply("1-3").unwrap_err());
        assert!(
            error.starts_with(&format!("/{path} sets {value}, which quietcore would set to ")),
            "{error}"
        );
        assert_eq!((machine.text(STATE), machine.text(DROP_IN), machine.calls().len()), (None, None, 0));
    };
    check("etc/default/grub", "GRUB_CMDLINE_LINUX='quiet nohz_full=2'\n", "nohz_full=2");
    check("etc/default/grub", "GRUB_CMDLINE_LINUX=\"a \\\n isolcpus=1-3\"\nX=1\n", "isolcpus=1-3");
    check("etc/default/grub", " export GRUB_CMDLINE_LINUX_DEFAULT=isolcpus=nohz,1-3\n", "isolcpus=nohz,1-3");
    check("etc/default/grub.d/99-a.cfg", "GRUB_CMDLINE_LINUX+=\" irqaffinity=0-1\"\n", "irqaffinity=0-1");
}

#[test]
fn what_an_administrator_set_the_same_stays_theirs() {
    let machine = Machine::with_grub();
    let theirs = "# GRUB_CMDLINE_LINUX=nohz_full=9\nGRUB_CMDLINE_LINUX=\"nohz-full=1,2-3\"\n";
    machine.put("etc/default/grub", theirs);
    let applied = machine.apply("1-3").unwrap();
    assert_eq!(applied.already_set, ["nohz_full=1-3"]);
    assert!(!machine.text(DROP_IN).unwrap().contains("nohz_full"));
    // It counts all the same for what the next boot must show.
    assert_eq!(machine.missing(), ["nohz_full=1-3", "isolcpus=managed_irq,1-3"]);
    machine.put(
        "etc/default/grub",
        "GRUB_CMDLINE_LINUX=\"nohz_full=1-3 isolcpus=managed_irq,1-3 irqaffinity=0\"",
    );
    assert_eq!(machine.apply("1-3").unwrap().parameters.len(), 0);
    assert_eq!(machine.text(DROP_IN), None);
    machine.restore().unwrap();
    assert_eq!(machine.text(STATE), None);
}

#[test]
fn a_drop_in_that_somebody_changed_is_not_touched() {
    let machine = Machine::with_grub();
    machine.apply("1-3").unwrap();
    machine.put(DROP_IN, "# mine now\n");
    for error in [machine.apply("2-3").unwrap_err(), machine.restore().unwrap_err()] {
        assert!(told(error).contains("was changed since quietcore wrote it"));
    }
    assert_eq!(machine.text(DROP_IN).as_deref(), Some("# mine now\n"));
    machine.remove(DROP_IN);
    assert_eq!(machine.restore().unwrap().did, Did::Restored);

    machine.put(DROP_IN, "# never was quietcore's\n");
    assert!(machine.apply("2-3").is_err());
}

#[test]
fn a_program_that_fails_leaves_everything_as_it_was() {
    let machine = Machine::with_grub();
    *machine.fails.borrow_mut() = Some("grub-probe: error: no such device");
    let error = told(machine.apply("1-3").unwrap_err());
    assert!(
        error.starts_with(
            "not applied, everything is as before: /usr/sbin/update-grub failed (exit status: 1)"
        ),
        "{error}"
    );
    assert!(error.ends_with("grub-probe: error: no such device"), "{error}");
    assert_eq!((machine.text(DROP_IN), machine.text(STATE)), (None, None));

    machine.apply("1-3").unwrap();
    let before = (machine.text(DROP_IN), machine.text(STATE));
    *machine.fails.borrow_mut() = Some("no");
    machine.apply("2-3").unwrap_err();
    assert_eq!((machine.text(DROP_IN), machine.text(STATE)), before);
}

#[test]
fn an_apply_or_restore_that_was_cut_off_can_be_repeated() {
    let machine = Machine::with_grub();
    machine.apply("1-3").unwrap();
    let cut_off = machine.text(STATE).unwrap().replace("\"finished\": true", "\"finished\": false");
    machine.put(STATE, &cut_off);
    machine.calls();
    assert_eq!(machine.apply("1-3").unwrap().did, Did::Applied);
    assert_eq!(machine.calls().len(), 1);
    machine.remove(DROP_IN);
    assert_eq!(machine.apply("1-3").unwrap().did, Did::Applied);
    machine.put(STATE, &cut_off);
    machine.remove(DROP_IN);
    assert_eq!(machine.restore().unwrap().did, Did::Restored);
    assert_eq!(machine.text(STATE), None);
}

#[test]
fn an_unknown_boot_loader_is_told_by_hand() {
    let error = told(Machine::new().apply("1-3").unwrap_err());
    let line = "\n  nohz_full=1-3 isolcpus=managed_irq,1-3 irqaffinity=0";
    assert!(error.contains("by hand") && error.ends_with(line), "{error}");
    // A mkconfig that reads no drop-ins would silently do nothing.
    let machine = Machine::with_grub();
    machine.put("usr/sbin/grub-mkconfig", ". ${sysconfdir}/default/grub");
    let error = told(machine.apply("1-3").unwrap_err());
    assert!(
        error.contains("add to GRUB_CMDLINE_LINUX in /etc/default/grub") && error.ends_with(line),
        "{error}"
    );
}

#[test]
fn a_machine_that_changed_its_boot_loader_is_restored_first() {
    let machine = Machine::with_grub();
    machine.apply("1-3").unwrap();
    machine.put("usr/sbin/grubby", "");
    let error = told(machine.apply("1-3").unwrap_err());
    assert!(error.contains("was GRUB when") && error.contains("is grubby today"), "{error}");
    machine.restore().unwrap();
    machine.calls();
    machine.apply("1-3").unwrap();
    assert!(machine.calls()[0].starts_with("/usr/sbin/grubby"));
    machine.remove("usr/sbin/grubby");
    assert!(told(machine.restore().unwrap_err()).contains("grubby is gone: install it again"));
}

#[test]
fn a_later_file_that_overwrites_ours_is_found_in_the_menu() {
    let machine = Machine::with_grub();
    machine.put("etc/default/grub.d/99-last.cfg", "GRUB_CMDLINE_LINUX=\"nosmt\"\n");
    let error = told(machine.apply("1-3").unwrap_err());
    assert!(error.contains("/boot/grub/grub.cfg does not have nohz_full=1-3 "), "{error}");
    assert_eq!((machine.text(DROP_IN), machine.text(STATE)), (None, None));
}

#[test]
fn a_plan_that_was_applied_asks_for_the_reboot_alone() {
    let machine = Machine::with_grub();
    let plan = || {
        let words = ["quietcore", "node", "plan", "--isolate", "1-3", "--root"].map(OsStr::new);
        let words = words.into_iter().chain([machine.root().as_os_str()]);
        let Command::Node(args) = Cli::try_parse_from(words).unwrap().command else { unreachable!() };
        let mut text = Vec::new();
        run(&args, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    };
    assert!(plan().ends_with("do: quietcore node apply --isolate 1-3, then reboot\n"));
    machine.apply("1-3").unwrap();
    assert!(plan().ends_with("do: reboot; quietcore node apply has been run\n"));
    machine.boot("1-3", "nohz_full=1-3 isolcpus=managed_irq,1-3 irqaffinity=0");
    assert!(plan().ends_with("Nothing is missing: no reboot is required.\n"));
    machine.put(STATE, "{");
    assert!(plan().ends_with("Nothing is missing: no reboot is required.\n"));
}

#[test]
fn a_reboot_is_required_until_the_kernel_shows_what_was_applied() {
    let machine = Machine::with_grub();
    assert_eq!(machine.missing(), [""; 0]);
    machine.apply("1-3").unwrap();
    assert_eq!(machine.missing(), ["nohz_full=1-3", "isolcpus=managed_irq,1-3"]);
    // irqaffinity can be had at run time and asks for no reboot.
    machine.boot("1-3", "nohz_full=1-3 isolcpus=managed_irq,1-3");
    assert_eq!(machine.missing(), [""; 0]);
    machine.apply("1").unwrap();
    assert_eq!(machine.missing(), [""; 0], "the kernel has more than was asked for");
    machine.boot("(null)", "quiet");
    machine.restore().unwrap();
    assert_eq!(machine.missing(), [""; 0]);
}

#[test]
fn a_state_that_cannot_be_understood_stays_and_says_what_to_do() {
    let check = |text: &str, part: &str| {
        let machine = Machine::with_grub();
        machine.put(STATE, text);
        let required = reboot_required(&machine.state_dir(), machine.root()).unwrap_err();
        for error in [machine.apply("1-3").unwrap_err(), machine.restore().unwrap_err(), required] {
            let error = told(error);
            assert!(error.contains(STATE) && error.contains(part), "{error}");
        }
        assert_eq!((machine.text(STATE).as_deref(), machine.text(DROP_IN)), (Some(text), None));
    };
    check("{", "is damaged (EOF while parsing");
    check("{\"version\": 2, \"new\": true}", "use the newer quietcore");
    let machine = Machine::with_grub();
    machine.apply("1-3").unwrap();
    let strange = machine.text(STATE).unwrap().replace("nohz_full=1-3", "init=/bin/sh");
    check(&strange, "\"init=/bin/sh\" is not a kernel parameter that quietcore sets");
}

#[test]
fn a_folder_that_cannot_be_written_is_named_and_nothing_changes() {
    let check = |path: &str| {
        let machine = Machine::with_grub();
        // A folder where the unfinished file would be: root may write to any that is not read-only.
        fs::create_dir_all(machine.root().join(path).with_extension("unfinished")).unwrap();
        let error = told(machine.apply("1-3").unwrap_err());
        assert!(error.contains("write ") && error.contains(path), "{error}");
        assert!(error.contains("make its folder writable"), "{error}");
        assert_eq!((machine.text(STATE), machine.text(DROP_IN)), (None, None));
    };
    check(STATE);
    check(DROP_IN);
}

#[test]
fn a_program_says_why_it_failed() {
    let tools = InRoot { root: Path::new("/") };
    tools.run("/bin/sh", &["-c", "exit 0"]).unwrap();
    let error = told(tools.run("/bin/sh", &["-c", "echo out; echo err >&2; exit 3"]).unwrap_err());
    assert!(error.contains("(exit status: 3)") && error.ends_with("out\nerr"), "{error}");
    assert!(
        told(tools.run("/nowhere/update-grub", &[]).unwrap_err()).starts_with("start /nowhere/update-grub: ")
    );
    assert_eq!(cmdline::split("").len(), 0);
}
