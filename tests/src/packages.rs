//! The Debian packages that the testbed stands on, installed only where they are missing.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{output, run};
use crate::progress;

/// For nodes as podman containers: podman itself, the runtime and the network it is told to use.
pub const PODMAN: &[&str] = &["podman", "runc", "netavark", "iptables", "aardvark-dns", "zstd"];
/// For building the node image.
pub const NODE_IMAGE: &[&str] = &["debootstrap", "jq", "gcc", "libc6-dev", "zstd", "ca-certificates"];

/// For the lab: an emulator, and what its root file system is made of and with.
pub const LAB: &[&str] = &[
    "qemu-system-x86",
    "seabios",
    "busybox-static",
    "bpftool",
    "e2fsprogs",
    "kmod",
    "xz-utils",
    "util-linux",
    "bash",
    "runc",
    "gcc",
    "libc6-dev",
];

/// Installs what is missing of `names`.
pub fn ensure(names: &[&str]) -> Result<()> {
    let listed =
        output(Command::new("dpkg-query").args(["-W", "-f", "${Package} ${db:Status-Status}\n"]).args(names))
            .context("the testbed needs Debian or a machine that has dpkg")?;
    let missing = missing(names, &String::from_utf8_lossy(&listed.stdout));
    if missing.is_empty() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("Debian packages are missing, install them or run as root: {}", missing.join(" "));
    }
    progress::step(&format!("install Debian packages {}", missing.join(" ")), || {
        let install = || {
            let mut apt = Command::new("apt-get");
            apt.env("DEBIAN_FRONTEND", "noninteractive");
            run(apt.args(["install", "-y", "-q", "--no-install-recommends"]).args(&missing))
        };
        // a fresh machine has no package lists; a used one may have stale ones
        install().or_else(|_| run(Command::new("apt-get").args(["update", "-q"])).and_then(|_| install()))
    })?;
    Ok(())
}

fn missing<'a>(names: &[&'a str], listed: &str) -> Vec<&'a str> {
    let is_installed = |name: &&str| listed.lines().any(|line| line == format!("{name} installed"));
    names.iter().copied().filter(|name| !is_installed(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::missing;

    #[test]
    fn a_package_that_was_removed_but_left_its_configuration_is_missing() {
        let listed = "podman installed\nrunc config-files\n";
        assert_eq!(missing(&["podman", "runc", "zstd"], listed), ["runc", "zstd"]);
    }
}
