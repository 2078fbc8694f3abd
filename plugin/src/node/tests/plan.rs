use std::io::Write as _;

use expect_test::expect;

use super::{
    super::{
        facts::{self, Cgroup},
        kubelet::{self, CpuManager},
        plan, print,
    },
    Machine, setting, told,
};

#[test]
fn a_kernel_with_partitions_needs_two_parameters_from_the_boot() {
    let machine = Machine::new();
    let facts = machine.facts("2-3");
    expect![[r#"
        isolated CPUs               2-3
        housekeeping CPUs           0-1
        NO_HZ_FULL                  built in
        isolation at run time       cgroup v2, partitions of containers
        housekeeping at run time    fixed at boot, except the scheduler's domains

        KERNEL COMMAND LINE
        nohz_full=2-3                 missing      no tick while one task runs there, and RCU callbacks run elsewhere
                                                   Documentation/admin-guide/kernel-parameters.txt
        isolcpus=managed_irq,2-3      missing      interrupts that the kernel manages itself (NVMe, virtio queues) prefer housekeeping CPUs
                                                   Documentation/admin-guide/kernel-parameters.txt
        irqaffinity=0-1               at run time  interrupts of drivers start on housekeeping CPUs; the agent moves them only while cores are granted
                                                   Documentation/admin-guide/kernel-parameters.txt

        NOT NEEDED
        rcu_nocbs                     nohz_full implies it for its CPUs
                                      Documentation/admin-guide/kernel-parameters.txt
        isolcpus=domain               an isolated partition takes a granted core out of the scheduler's domains at run time and gives it back; set at boot, it could not be given back
                                      Documentation/admin-guide/cgroup-v2.rst, cpuset.cpus.partition
        nosoftlockup, nmi_watchdog=0  kernel.watchdog_cpumask does it at run time, for the isolated CPUs only
                                      Documentation/admin-guide/sysctl/kernel.rst, watchdog_cpumask
        skew_tick=1                   it spreads the ticks of CPUs that have one
                                      Documentation/admin-guide/kernel-parameters.txt
        rcu_nocb_poll                 it spares isolated CPUs a wakeup when they queue a callback, which a program that stays out of the kernel does not, and keeps housekeeping CPUs polling
                                      Documentation/admin-guide/kernel-parameters.txt
        tsc=nowatchdog                the kernel itself stops verifying a TSC that it trusts; one that it does not trust should be verified, although that interrupts each CPU now and then
                                      arch/x86/kernel/tsc.c, check_system_tsc_reliable()

        KUBELET CONFIGURATION
        reservedSystemCPUs          0,2-3
        cpuManagerPolicy            none
        - reservedSystemCPUs        CPU 2-3 is counted as quietcore.io/core and must not be allocatable as cpu too; CPU 0 is for the system's services; pods share CPU 1
                                    kubernetes.io/docs/tasks/administer-cluster/reserve-compute-resources, Explicitly Reserved CPU List
        - cpuManagerPolicy          the kubelet then sets no CPUs and never overwrites those of a grant
                                    kubernetes.io/docs/tasks/administer-cluster/cpu-management-policies

        A reboot is required:
        - nohz_full=2-3: not on the kernel's command line
        - isolcpus=managed_irq,2-3: not on the kernel's command line
        do: quietcore node apply --isolate 2-3, then reboot
    "#]].assert_eq(&print::plan(&plan::make(&facts, CpuManager::None, None)));
}

#[test]
fn an_old_machine_gets_what_its_kernel_understands() {
    let machine = Machine::old();
    let facts = machine.facts("1-3,5-7");
    expect![[r#"
        isolated CPUs               1-3,5-7
        housekeeping CPUs           0,4
        NO_HZ_FULL                  not built in
        isolation at run time       cgroup v1, none
        housekeeping at run time    not known

        KERNEL COMMAND LINE
        rcu_nocbs=1-3,5-7                    missing      RCU callbacks run on housekeeping CPUs; no nohz_full here that would imply it
                                                          Documentation/admin-guide/kernel-parameters.txt
        isolcpus=managed_irq,domain,1-3,5-7  missing      interrupts that the kernel manages itself (NVMe, virtio queues) prefer housekeeping CPUs; domain: cgroup v1 has no isolated partitions
                                                          Documentation/admin-guide/kernel-parameters.txt
        irqaffinity=0,4                      at run time  interrupts of drivers start on housekeeping CPUs; the agent moves them only while cores are granted
                                                          Documentation/admin-guide/kernel-parameters.txt

        NOT NEEDED
        nohz_full                            this kernel is built without NO_HZ_FULL and would ignore it: the tick stays on every core; kernels of Debian, Ubuntu, Fedora and RHEL have it
                                             Documentation/timers/no_hz.rst
        nosoftlockup, nmi_watchdog=0         kernel.watchdog_cpumask does it at run time, for the isolated CPUs only
                                             Documentation/admin-guide/sysctl/kernel.rst, watchdog_cpumask
        skew_tick=1                          it spreads the ticks of CPUs that have one
                                             Documentation/admin-guide/kernel-parameters.txt
        rcu_nocb_poll                        it spares isolated CPUs a wakeup when they queue a callback, which a program that stays out of the kernel does not, and keeps housekeeping CPUs polling
                                             Documentation/admin-guide/kernel-parameters.txt
        tsc=nowatchdog                       the kernel itself stops verifying a TSC that it trusts; one that it does not trust should be verified, although that interrupts each CPU now and then
                                             arch/x86/kernel/tsc.c, check_system_tsc_reliable()

        KUBELET CONFIGURATION
        reservedSystemCPUs          1-3,5-7
        cpuManagerPolicy            static, strict-cpu-reservation
        - reservedSystemCPUs        CPU 1-3,5-7 is counted as quietcore.io/core and must not be allocatable as cpu too; none is for the system's services alone, as pods would have none left; pods share CPU 0,4
                                    kubernetes.io/docs/tasks/administer-cluster/reserve-compute-resources, Explicitly Reserved CPU List
        - cpuManagerPolicyOptions   without it pods of the shared pool run on reserved CPUs, isolated ones among them; when it changes, drain the node and delete /var/lib/kubelet/cpu_manager_state
                                    KEP-4540 (stable in 1.35, on by default since 1.33, before it needs its feature gate)

        A reboot is required:
        - rcu_nocbs=1-3,5-7: not on the kernel's command line
        - isolcpus=managed_irq,domain,1-3,5-7: not on the kernel's command line
        do: quietcore node apply --isolate 1-3,5-7, then reboot
    "#]].assert_eq(&print::plan(&plan::make(&facts, CpuManager::Static, None)));
}

#[test]
fn the_scheduler_leaves_cores_out_from_the_boot_on_only_where_partitions_cannot() {
    let machine = Machine::new();
    let check = |cgroup, parameter: &str| {
        let mut facts = machine.facts("1-3");
        facts.kernel.cgroup = cgroup;
        let line = plan::make(&facts, CpuManager::None, None).command_line();
        assert_eq!(line, format!("nohz_full=1-3 {parameter} irqaffinity=0"));
    };
    check(Cgroup::RemotePartitions, "isolcpus=managed_irq,1-3");
    for cgroup in [Cgroup::LocalPartitions, Cgroup::NoCpuset, Cgroup::V1] {
        check(cgroup, "isolcpus=managed_irq,domain,1-3");
    }
}

#[test]
fn a_kernel_that_does_not_tell_is_given_the_parameter_and_the_reader_is_told() {
    let mut facts = Machine::new().facts("1-3");
    facts.kernel.nohz_full = None;
    let plan = plan::make(&facts, CpuManager::None, None);
    assert!(plan.command_line().starts_with("nohz_full=1-3 "));
    assert!(plan.kernel[0].reason.ends_with("whether this kernel has it is not known"));
    facts.kernel.nohz_full = Some(false);
    let with = |rcu_nocb| {
        let kernel = facts::Kernel { rcu_nocb, ..facts.kernel.clone() };
        plan::make(&facts::Facts { kernel, ..facts.clone() }, CpuManager::None, None).command_line()
    };
    let rest = "isolcpus=managed_irq,1-3 irqaffinity=0";
    assert_eq!([with(None), with(Some(true))], [(); 2].map(|()| format!("rcu_nocbs=1-3 {rest}")));
    assert_eq!(with(Some(false)), rest);
}

#[test]
fn cgroups_are_asked_what_they_can() {
    let check = |files: &[&str], cgroup| {
        let machine = Machine::new();
        machine.remove("sys/fs/cgroup/cpuset.cpus.isolated");
        for file in files {
            machine.put(&format!("sys/fs/cgroup/{file}"), "");
        }
        assert_eq!(machine.facts("1-3").kernel.cgroup, cgroup, "{files:?}");
    };
    check(&["cpuset.cpus.isolated"], Cgroup::RemotePartitions);
    check(&["kubepods/cpuset.cpus", "kubepods/cpuset.cpus.exclusive"], Cgroup::RemotePartitions);
    check(&["kubepods/cpuset.cpus"], Cgroup::LocalPartitions);
    check(&["kubepods/cpu.max"], Cgroup::NoCpuset);
    assert_eq!(Machine::old().facts("1,5").kernel.cgroup, Cgroup::V1);
}

#[test]
fn a_kernel_that_moves_housekeeping_at_run_time_is_known_by_its_types() {
    let machine = Machine::new();
    assert_eq!(machine.facts("1-3").kernel.housekeeping_at_run_time, Some(false));
    machine.put("sys/kernel/btf/vmlinux", "int\0housekeeping_update\0long\0");
    let facts = machine.facts("1-3");
    assert_eq!(facts.kernel.housekeeping_at_run_time, Some(true));
    let plan = plan::make(&facts, CpuManager::None, None);
    assert!(plan.left_out.iter().any(|left_out| left_out.reason.contains("unbound kernel threads")));
    machine.remove("sys/kernel/btf/vmlinux");
    assert_eq!(machine.facts("1-3").kernel.housekeeping_at_run_time, None);
}

#[test]
fn a_kernels_configuration_is_found_beside_it_or_packed_in_proc() {
    let machine = Machine::old();
    assert_eq!(machine.facts("1,5").kernel.rcu_nocb, Some(true));
    machine.remove("boot/config-6.12.0-test");
    assert_eq!(machine.facts("1,5").kernel.rcu_nocb, None);
    let file = std::fs::File::create(machine.root().join("proc/config.gz")).unwrap();
    let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    packed.write_all(b"CONFIG_RCU_NOCB_CPU_DEFAULT_ALL=y\n").unwrap();
    packed.finish().unwrap();
    assert_eq!(machine.facts("1,5").kernel.rcu_nocb, Some(false));
    machine.put("proc/config.gz", "not packed");
    assert_eq!(machine.facts("1,5").kernel.rcu_nocb, None);
}

#[test]
fn a_list_that_cannot_be_isolated_is_refused_in_words() {
    let machine = Machine::old();
    let check = |isolate: &str, part: &str| {
        let error = told(facts::read(machine.root(), &isolate.parse().unwrap()).unwrap_err());
        assert!(error.contains(part), "{error}");
    };
    check("1-3", "has only a part of the physical core 1,5");
    check("0,4", "CPU 0 boots the machine");
    check("0-7", "leaves no housekeeping CPU");
    check("8", "CPUs 8 are not online");
    machine.remove("sys/devices/system/cpu/online");
    check("1,5", "sys/devices/system/cpu/online");
}

#[test]
fn the_kubelet_keeps_isolated_cores_and_leaves_some_to_pods() {
    let machine = Machine::old();
    let check = |isolate: &str, system: Option<&str>, reserved: &str| {
        let system = system.map(|list| list.parse().unwrap());
        let kubelet = kubelet::fragment(&machine.facts(isolate), CpuManager::None, system.as_ref());
        assert_eq!(kubelet.reserved_system_cpus.to_string(), reserved);
    };
    check("3,7", None, "0,3-4,7");
    check("3,7", Some("1,5"), "1,3,5,7");
    // The only housekeeping core: reserving it too would leave nothing to allocate.
    check("1-3,5-7", None, "1-3,5-7");
    check("1-3,5-7", Some("0"), "0-3,5-7");
    let error = machine.facts("3,7").can_be_systems(&"2-3".parse().unwrap()).unwrap_err();
    assert_eq!(told(error), "--system 2-3: CPU 3 is not among the housekeeping CPUs 0-2,4-6");
}

#[test]
fn the_kubelets_file_says_why() {
    let facts = Machine::old().facts("3,7");
    let yaml = |policy| kubelet::yaml(&kubelet::fragment(&facts, policy, None));
    expect![[r#"
        apiVersion: kubelet.config.k8s.io/v1beta1
        kind: KubeletConfiguration
        # CPU 3,7 is counted as quietcore.io/core and must not be allocatable as cpu too; CPU 0,4 is for the system's services; pods share CPU 1-2,5-6
        reservedSystemCPUs: "0,3-4,7"
        # without it pods of the shared pool run on reserved CPUs, isolated ones among them; when it changes, drain the node and delete /var/lib/kubelet/cpu_manager_state
        cpuManagerPolicy: static
        cpuManagerPolicyOptions:
          strict-cpu-reservation: "true"
    "#]].assert_eq(&yaml(CpuManager::Static));
    expect![[r#"
        apiVersion: kubelet.config.k8s.io/v1beta1
        kind: KubeletConfiguration
        # CPU 3,7 is counted as quietcore.io/core and must not be allocatable as cpu too; CPU 0,4 is for the system's services; pods share CPU 1-2,5-6
        reservedSystemCPUs: "0,3-4,7"
        cpuManagerPolicy: none
    "#]].assert_eq(&yaml(CpuManager::None));
}

#[test]
fn the_running_kernel_says_what_is_in_force() {
    let check = |nohz_full: &str, isolated: &str, line: &str, wanted: &str, found: Option<&str>| {
        let machine = Machine::new();
        machine.boot(nohz_full, line);
        machine.put("sys/devices/system/cpu/isolated", isolated);
        let running = facts::running(machine.root()).unwrap();
        let missing = plan::not_in_force(&setting(wanted), &running);
        assert_eq!(missing.map(|missing| missing.found).as_deref(), found, "{line}");
    };
    let absent = Some("not on the kernel's command line");
    check("1-3", "", "nohz_full=1-3", "nohz_full=1-2", None);
    check("2", "", "nohz_full=2", "nohz_full=1-2", Some("/sys/devices/system/cpu/nohz_full is 2"));
    check("(null)", "", "quiet", "nohz_full=1-2", absent);
    let ignored = "it is on the command line, but /sys/devices/system/cpu/nohz_full names no CPU";
    check("(null)", "", "nohz_full=1-2", "nohz_full=1-2", Some(ignored));
    check("", "", "isolcpus=managed_irq,1-N", "isolcpus=managed_irq,1-2", None);
    check("", "1-2", "isolcpus=1-2", "isolcpus=managed_irq,1-2", absent);
    check("", "1-2", "isolcpus=domain,managed_irq,1-2", "isolcpus=managed_irq,domain,1-2", None);
    let alone = Some("/sys/devices/system/cpu/isolated is 1");
    check("", "1", "isolcpus=domain,managed_irq,1-2", "isolcpus=managed_irq,domain,1-2", alone);
    check("", "", "irqaffinity=0", "irqaffinity=0-1", None);
    check("", "", "irqaffinity=0-3", "irqaffinity=0-1", absent);
}
