use super::*;
use crate::check::measure::CauseRate;

fn trace(cause: Cause) -> Trace {
    Trace { cause, timers: Vec::new(), tick: None, function: None, came: None }
}

fn timers(names: &[&str], tick: Option<u32>) -> Trace {
    let timers = names.iter().map(|&name| name.to_owned()).collect();
    Trace { timers, tick: tick.map(TickDependency), ..trace(Cause::Tick) }
}

fn ipi(function: &str) -> Trace {
    Trace { function: Some(function.to_owned()), ..trace(Cause::CallFunction) }
}

fn came(comm: &str, is_kernels: bool, function: Option<&str>) -> Trace {
    let came = Came { comm: comm.to_owned(), is_kernels, function: function.map(str::to_owned) };
    Trace { came: Some(came), ..trace(Cause::Reschedule) }
}

#[track_caller]
fn check(trace: &Trace, items: &[&Item]) {
    let names = |items: &[&Item]| items.iter().map(|item| item.name).collect::<Vec<_>>();
    assert_eq!(names(&behind(trace)), names(items));
}

#[test]
fn a_tick_is_the_boots_fault_where_it_never_stops_and_who_keeps_it_elsewhere() {
    check(&timers(&[], None), &[&NOHZ_FULL]);
    check(&timers(&["tick_nohz_handler", "mce_timer_fn"], None), &[&NOHZ_FULL]);
    check(&timers(&["tick_nohz_handler"], Some(1 << 2)), &[&FAIR_SERVER, &QUOTA, &ISOLATED]);
    check(&timers(&["tick_nohz_handler"], Some(1 << 3)), &[&CLOCKSOURCE]);
}

#[test]
fn a_timer_is_known_by_what_it_runs() {
    check(&timers(&["mce_timer_fn"], Some(0)), &[&MACHINE_CHECK_POLL]);
    check(&timers(&["tick_nohz_handler", "mce_timer_fn"], Some(0)), &[&MACHINE_CHECK_POLL]);
    check(&timers(&["watchdog_timer_fn"], None), &[&WATCHDOG]);
    check(&timers(&["hrtimer_wakeup"], None), &[&TIMER_MIGRATION, &ISOLATED]);
}

#[test]
fn an_ipi_is_known_by_what_it_runs_and_then_by_who_came() {
    check(&ipi("nohz_full_kick_func"), &[&FAIR_SERVER, &QUOTA, &ISOLATED]);
    check(&ipi("rps_trigger_softirq"), &[&PACKETS]);
    check(&ipi("flush_tlb_func"), &[]);
    check(&trace(Cause::Reschedule), &[&FAIR_SERVER]);
    check(&came("kworker/1:0", true, Some("vmstat_update")), &[&STAT_INTERVAL]);
    check(&came("kworker/1:0", true, Some("lru_add_drain_per_cpu")), &[&HUGE_PAGES, &COMPACTION, &KSM]);
    check(&came("kworker/u4:0", true, Some("nf_work [nf_tables]")), &[&WORKQUEUES]);
    check(&came("migration/1", true, None), &[&WATCHDOG]);
    check(&came("stress", false, None), &[&ISOLATED]);
}

#[test]
fn every_item_that_an_entry_is_put_down_to_is_in_the_list() {
    let traces = [
        trace(Cause::Nmi),
        trace(Cause::PageFault { address: 0, code: 0 }),
        trace(Cause::DeviceIrq { irq: 1, name: "eth0".into() }),
        timers(&["tick_nohz_handler"], Some(0b11110)),
        timers(&["sched_rt_period_timer"], Some(0)),
        came("ksoftirqd/1", true, None),
        came("rcuc/1", true, None),
        came("ksmd", true, None),
    ];
    for item in traces.iter().flat_map(behind) {
        assert!(ALL.contains(&item), "{}", item.name);
    }
}

fn core(cpu: u32, causes: Vec<(Trace, f64)>) -> Measured {
    let cause = |(trace, per_minute)| CauseRate {
        cause: "c".into(),
        class: "interrupt",
        per_minute,
        trace: Some(trace),
    };
    let causes = causes.into_iter().map(cause).collect();
    Measured { cpu, seconds: 1.0, entries_per_minute: [].into(), causes }
}

#[test]
fn entries_are_put_down_to_the_first_that_is_not_in_order_on_the_core_that_has_most() {
    let kick = |rate| (ipi("nohz_full_kick_func"), rate);
    let measured = [
        core(1, vec![kick(60.0), (timers(&["tick_nohz_handler"], Some(4)), 60.0)]),
        core(2, vec![kick(3.0)]),
    ];
    let rates = |server: State, quota: State| {
        let mut findings = vec![
            NOHZ_FULL.is(State::Good, "", ""),
            FAIR_SERVER.is(server, "", ""),
            QUOTA.is(quota, "", ""),
            Item { name: "bpffs", ..NOHZ_FULL }.is(State::Good, "", ""),
        ];
        put_down(&measured, &mut findings);
        findings.iter().map(|finding| finding.entries_per_minute).collect::<Vec<_>>()
    };
    assert_eq!(rates(State::Missing, State::Good), [Some(0.0), Some(120.0), Some(0.0), None]);
    assert_eq!(rates(State::Good, State::Missing), [Some(0.0), Some(0.0), Some(120.0), None]);
    assert_eq!(rates(State::Good, State::Good), [Some(0.0), Some(120.0), Some(0.0), None]);
}

#[test]
fn what_was_not_measured_is_not_zero() {
    let mut findings = vec![NOHZ_FULL.is(State::Good, "", "")];
    put_down(&[], &mut findings);
    assert_eq!(findings[0].entries_per_minute, None);
}

#[test]
fn what_nobody_told_of_may_be_anythings() {
    let mut lost = core(1, vec![(ipi("nohz_full_kick_func"), 60.0)]);
    lost.causes.push(CauseRate {
        cause: "not told".into(),
        class: "interrupt",
        per_minute: 9.0,
        trace: None,
    });
    let mut findings = vec![NOHZ_FULL.is(State::Good, "", ""), FAIR_SERVER.is(State::Missing, "", "")];
    put_down(&[lost], &mut findings);
    let rates = findings.iter().map(|finding| finding.entries_per_minute).collect::<Vec<_>>();
    assert_eq!(rates, [None, Some(60.0)]);
}
