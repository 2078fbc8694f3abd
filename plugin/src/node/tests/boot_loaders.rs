//! grubby and systemd-boot, and which of them it is; GRUB is in apply.rs.

use super::{super::boot_loader::BootLoader, Machine, STATE, told};

const CMDLINE: &str = "etc/kernel/cmdline";

#[test]
fn grubby_is_told_what_to_add_and_what_to_remove() {
    let machine = Machine::with_grubby();
    machine.apply("1-3").unwrap();
    let all = "/usr/sbin/grubby --update-kernel=ALL";
    let of = |cpus: &str| format!("nohz_full={cpus} isolcpus=managed_irq,{cpus}");
    assert_eq!(machine.calls(), [format!("{all} --args={} irqaffinity=0", of("1-3"))]);
    // What it wrote is not the administrator's.
    let entry = format!("title A\noptions root=/dev/sda ro {} irqaffinity=0\n", of("1-3"));
    machine.put("boot/loader/entries/a-6.12.conf", &entry);
    machine.apply("2-3").unwrap();
    let expected =
        format!("{all} --remove-args={} irqaffinity=0 --args={} irqaffinity=0-1", of("1-3"), of("2-3"));
    assert_eq!(machine.calls(), [expected]);
    machine.restore().unwrap();
    assert_eq!(machine.calls(), [format!("{all} --remove-args={} irqaffinity=0-1", of("2-3"))]);

    machine.put("boot/grub2/grubenv", "# GRUB Environment Block\nkernelopts=root=/dev/sda nohz_full=3\n");
    let error = told(machine.apply("1-3").unwrap_err());
    assert!(error.starts_with("/boot/grub2/grubenv sets nohz_full=3"), "{error}");
    let other = "title A\noptions root=/dev/sda nohz_full=2\n";
    machine.put("boot/loader/entries/a-6.12.conf", other);
    let error = told(machine.apply("1-3").unwrap_err());
    assert!(error.starts_with("/boot/loader/entries/a-6.12.conf sets nohz_full=2"), "{error}");
}

#[test]
fn systemd_boots_line_is_extended_for_every_kernel_and_restored_to_the_letter() {
    let machine = Machine::with_systemd_boot();
    let before = "root=/dev/sda  ro\tdyndbg=\"file a.c +p\"\n";
    machine.put(CMDLINE, before);
    machine.apply("1-3").unwrap();
    let ours = "nohz_full=1-3 isolcpus=managed_irq,1-3 irqaffinity=0";
    let line = format!("root=/dev/sda ro dyndbg=\"file a.c +p\" {ours}\n");
    assert_eq!(machine.text(CMDLINE), Some(line.clone()));
    let add = [
        "/usr/bin/kernel-install add 6.1.0 /lib/modules/6.1.0/vmlinuz",
        "/usr/bin/kernel-install add 6.12.0-test /boot/vmlinuz-6.12.0-test",
    ];
    assert_eq!(machine.calls(), add);
    machine.apply("2-3").unwrap();
    machine.calls();
    machine.restore().unwrap();
    assert_eq!((machine.text(CMDLINE).as_deref(), machine.text(STATE)), (Some(before), None));
    assert_eq!(machine.calls(), add);

    // Edited meanwhile: only what is ours goes.
    machine.apply("1-3").unwrap();
    machine.put(CMDLINE, &line.replace("ro ", "rw "));
    machine.restore().unwrap();
    assert_eq!(machine.text(CMDLINE).as_deref(), Some("root=/dev/sda rw dyndbg=\"file a.c +p\"\n"));
}

#[test]
fn without_a_line_of_its_own_systemd_boot_gets_the_running_kernels() {
    let machine = Machine::with_systemd_boot();
    // Restored, but not booted since: the running kernel still shows what an earlier apply set.
    machine.boot("1-3", "BOOT_IMAGE=/vmlinuz initrd=\\i root=/dev/sda ro nohz_full=1-3 irqaffinity=0\n");
    machine.apply("1-3").unwrap();
    let line = "root=/dev/sda ro nohz_full=1-3 isolcpus=managed_irq,1-3 irqaffinity=0\n";
    assert_eq!(machine.text(CMDLINE).as_deref(), Some(line));
    machine.restore().unwrap();
    assert_eq!(machine.text(CMDLINE), None);
    machine.put("usr/lib/kernel/cmdline", "root=LABEL=a\n");
    machine.apply("1-3").unwrap();
    assert!(machine.text(CMDLINE).unwrap().starts_with("root=LABEL=a nohz_full=1-3 "));
    for kernel in ["lib/modules/6.1.0/vmlinuz", "boot/vmlinuz-6.12.0-test"] {
        machine.remove(kernel);
    }
    assert!(told(machine.restore().unwrap_err()).contains("kernel-install has no kernel to add"));
}

#[test]
fn the_boot_loader_is_the_one_that_keeps_the_line() {
    let check = |machine: &Machine, loader: Option<BootLoader>| {
        assert_eq!(BootLoader::detect(machine.root(), "a=b").ok(), loader);
    };
    check(&Machine::with_grub(), Some(BootLoader::Grub));
    check(&Machine::with_grubby(), Some(BootLoader::Grubby));
    check(&Machine::with_systemd_boot(), Some(BootLoader::SystemdBoot));
    check(&Machine::new(), None);
    // Debian has kernel-install wherever systemd is; and both loaders can be installed: the firmware's says which ran.
    let both = Machine::with_grub();
    both.put("usr/bin/kernel-install", "");
    both.put("boot/loader/loader.conf", "");
    check(&both, Some(BootLoader::Grub));
    let name: Vec<u8> = "systemd-boot 254".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let info = String::from_utf8([&[6, 0, 0, 0], name.as_slice()].concat()).unwrap();
    both.put("sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f", &info);
    check(&both, Some(BootLoader::SystemdBoot));
}

#[test]
fn entries_that_were_written_before_the_failure_are_written_back() {
    let fail = |machine: &Machine| {
        *machine.fails.borrow_mut() = Some("no space left on device");
        let error = told(machine.apply("1-3").unwrap_err());
        assert!(error.ends_with("no space left on device"), "{error}");
        assert_eq!(machine.text(STATE), None);
        machine.calls()
    };
    let calls = fail(&Machine::with_grubby());
    let ours = "nohz_full=1-3 isolcpus=managed_irq,1-3 irqaffinity=0";
    assert_eq!(calls[1], format!("/usr/sbin/grubby --update-kernel=ALL --remove-args={ours}"));
    let machine = Machine::with_systemd_boot();
    machine.put(CMDLINE, "root=/dev/sda\n");
    assert_eq!(fail(&machine).len(), 3, "one that failed, and then every kernel");
    assert_eq!(machine.text(CMDLINE).as_deref(), Some("root=/dev/sda\n"));
}
