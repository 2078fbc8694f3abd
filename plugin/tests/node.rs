//! `quietcore node apply` and `restore` with Debian's own grub-mkconfig, in a tree that borrows this machine's /usr.
//! Only grub-probe is replaced: it looks for the disk below a file system, which a tree has not.
#![allow(clippy::unwrap_used, reason = "this is a test, also what is not inside a #[test]")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use quietcore::node::reboot_required;

const PROBE: &str = r#"#!/bin/sh
case "$*" in
  *=device*) echo /dev/sda1 ;;
  *=fs_uuid*) echo 0123-4567 ;;
  *=partuuid*) echo 89ab-cdef ;;
  *=fs*) echo ext2 ;;
  *=abstraction*) ;;
  *) echo hd0,msdos1 ;;
esac
"#;

/// In a mount namespace of its own: nothing stays mounted, whatever happens.
const INSIDE: &str = r#"
tree=$1; shift
mount --bind /usr "$tree/usr"
mount --bind "$tree/probe" "$tree/usr/sbin/grub-probe"
for at in dev proc sys; do mount --rbind "/$at" "$tree/$at"; done
exec "$@"
"#;

struct Tree(tempfile::TempDir);

impl Tree {
    fn make() -> Tree {
        let tree = Tree(tempfile::tempdir().unwrap());
        for folder in ["usr", "dev", "proc", "sys", "tmp", "etc/default", "boot/grub", "var/lib"] {
            fs::create_dir_all(tree.at(folder)).unwrap();
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), tree.at(name)).unwrap();
        }
        assert!(
            Command::new("cp").arg("-r").arg("/etc/grub.d").arg(tree.at("etc")).status().unwrap().success()
        );
        fs::write(tree.at("etc/default/grub"), "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n").unwrap();
        fs::write(tree.at("boot/vmlinuz-6.12.0-test"), "a kernel").unwrap();
        fs::write(tree.at("probe"), PROBE).unwrap();
        fs::set_permissions(tree.at("probe"), fs::Permissions::from_mode(0o755)).unwrap();
        tree
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn node(&self, words: &[&str]) -> Output {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", INSIDE, "sh"]).arg(self.0.path());
        command.arg(env!("CARGO_BIN_EXE_quietcore")).arg("node").args(words).arg("--root").arg(self.0.path());
        command.output().unwrap()
    }

    #[track_caller]
    fn succeeds(&self, words: &[&str]) -> String {
        let output = self.node(words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The kernel's command lines that GRUB would boot with.
    fn lines(&self) -> Vec<String> {
        let menu = fs::read_to_string(self.at("boot/grub/grub.cfg")).unwrap();
        let lines = menu.lines().map(str::trim).filter(|line| line.starts_with("linux"));
        lines.map(str::to_owned).collect()
    }
}

#[test]
fn debians_grub_boots_with_the_plan_until_it_is_restored() {
    let tree = Tree::make();
    let planned = tree.succeeds(&["plan", "--isolate", "1", "-o", "kernel"]);
    assert!(planned.contains("isolcpus=managed_irq,"), "{planned}");
    assert!(tree.succeeds(&["apply", "--isolate", "1"]).contains("A reboot is required"));
    let lines = tree.lines();
    assert!(!lines.is_empty() && lines.iter().all(|line| line.contains(planned.trim())), "{lines:?}");
    let missing = reboot_required(&tree.at("var/lib/quietcore"), Path::new("/")).unwrap();
    assert!(
        missing.iter().any(|missing| missing.parameter.starts_with("isolcpus=managed_irq,")),
        "{missing:?}"
    );

    assert!(tree.succeeds(&["apply", "--isolate", "1"]).contains("nothing to do"));
    tree.succeeds(&["restore"]);
    let restored = tree.lines();
    assert!(
        restored.len() == lines.len() && restored.iter().all(|line| !line.contains("isolcpus")),
        "{restored:?}"
    );
    assert!(tree.succeeds(&["restore"]).contains("nothing to do"));
    assert!(!tree.at("etc/default/grub.d/50-quietcore.cfg").exists());
}

#[test]
fn what_a_failing_mkconfig_says_is_shown_and_the_menu_stays() {
    let tree = Tree::make();
    tree.succeeds(&["apply", "--isolate", "1"]);
    tree.succeeds(&["restore"]);
    let menu = fs::read(tree.at("boot/grub/grub.cfg")).unwrap();
    let script = tree.at("etc/grub.d/99_broken");
    fs::write(&script, "#!/bin/sh\necho the disk is gone >&2\nexit 1\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let output = tree.node(&["apply", "--isolate", "1"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("update-grub failed") && error.contains("the disk is gone"), "{error}");
    assert_eq!(fs::read(tree.at("boot/grub/grub.cfg")).unwrap(), menu);
    assert!(!tree.at("etc/default/grub.d/50-quietcore.cfg").exists());
    assert!(!tree.at("var/lib/quietcore/boot.json").exists());
}
