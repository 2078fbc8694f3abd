//! Step 3: the ledger's file.
//!
//! A file that cannot be understood is never overwritten. One that is damaged is kept aside and the agent
//! starts with an empty ledger: strict containers that run are then strangers, reported and with their CPUs
//! kept from others, and their tokens are refused until their pods are made anew. One that a newer agent wrote
//! stops this one, because nothing is wrong with it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    ledger::{Holder, Ledger, Saved},
    set::CpuSet,
};
use crate::{agent::disk, guard::slots::Slot};

/// Grows when a reader of the old kind would misunderstand the new.
const VERSION: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("read the boot's id")]
    BootId(#[source] io::Error),
    #[error("read the ledger {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("keep the damaged ledger {path} aside")]
    KeepAside { path: PathBuf, source: io::Error },
    #[error(
        "the ledger {path} is of version {found}, this agent knows {VERSION}: install the newer agent again"
    )]
    Newer { path: PathBuf, found: u32 },
}

#[derive(Serialize, Deserialize)]
struct File<T> {
    version: u32,
    /// /proc/sys/kernel/random/boot_id of the boot in which it was written.
    #[serde(default)]
    boot_id: Option<String>,
    #[serde(flatten)]
    saved: T,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

pub fn write(path: &Path, boot_id: &str, saved: &Saved) -> io::Result<()> {
    disk::write_json(path, &File { version: VERSION, boot_id: Some(boot_id.to_owned()), saved })
}

/// Of the kernel that runs here.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// `Err` inside: the file is damaged, and how.
fn parse(isolated: &CpuSet, boot_id: &str, bytes: &[u8]) -> Result<Ledger, Box<dyn std::error::Error>> {
    let file: File<Saved> = serde_json::from_slice(bytes)?;
    let rebooted = file.boot_id.is_some_and(|written_in| written_in != boot_id);
    let saved = if rebooted { file.saved.after_reboot() } else { file.saved };
    Ok(Ledger::restore(isolated.clone(), saved)?)
}

pub fn read(path: &Path, boot_id: &str, isolated: &CpuSet) -> Result<Ledger, StoreError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ledger::empty(isolated.clone())),
        Err(source) => return Err(StoreError::Read { path: path.to_owned(), source }),
    };
    // Looked at alone: a newer file may not parse as ours.
    match serde_json::from_slice(&bytes) {
        Ok(Version { version: found }) if VERSION < found => {
            return Err(StoreError::Newer { path: path.to_owned(), found });
        }
        _ => {}
    }
    parse(isolated, boot_id, &bytes).or_else(|damage| {
        let kept = disk::keep_aside(path);
        let aside = kept.map_err(|source| StoreError::KeepAside { path: path.to_owned(), source })?;
        tracing::error!(step = 3, %damage, kept = %aside.display(), "the ledger is damaged; starting with an empty one");
        Ok(Ledger::empty(isolated.clone()))
    })
}

/// Who holds which slot, for others than the agent: a ledger that is not there names nobody, and one that cannot
/// be read is left where it is.
pub fn holders(path: &Path) -> Result<Vec<(Slot, Holder)>, StoreError> {
    Ok(saved(path)?.claims().map(|(claim, holder)| (claim.slot, holder)).collect())
}

/// Which containers hold cores, by their ids; as `holders`.
pub fn claims(path: &Path) -> Result<Vec<(Holder, String)>, StoreError> {
    Ok(saved(path)?.claims().map(|(claim, holder)| (holder, claim.container_id)).collect())
}

fn saved(path: &Path) -> Result<Saved, StoreError> {
    let unreadable = |source| StoreError::Read { path: path.to_owned(), source };
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Saved::default()),
        bytes => bytes.map_err(unreadable)?,
    };
    let file: File<Saved> = serde_json::from_slice(&bytes).map_err(|error| unreadable(error.into()))?;
    Ok(file.saved)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proptest::prelude::*;

    use super::*;
    use crate::{cores::token::Token, policy::accept::node_default};

    const BOOT: &str = "this";

    fn isolated() -> CpuSet {
        "1-9".parse().unwrap()
    }

    fn some() -> Ledger {
        let mut ledger = Ledger::empty(isolated());
        let holder =
            Holder { namespace: "ns".into(), pod: "p".into(), pod_uid: "uid".into(), container: "c".into() };
        ledger.allocate(Token::of("t"), "1,3-5".parse().unwrap());
        ledger.claim(&Token::of("t"), &holder, "id", "plan", &node_default()).unwrap();
        ledger.started("id", 42);
        ledger
    }

    fn on_disk(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.json");
        fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn bytes_of(saved: &Saved) -> Vec<u8> {
        let (_folder, path) = on_disk(b"");
        write(&path, BOOT, saved).unwrap();
        fs::read(path).unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let (_folder, path) = on_disk(&bytes_of(some().saved()));
        let ledger = read(&path, BOOT, &isolated()).unwrap();
        assert_eq!(ledger.saved(), some().saved());
        let grant = ledger.grant("id").unwrap();
        assert_eq!(grant.claim.pid, Some(42));
        assert_eq!(holders(&path).unwrap(), [(grant.claim.slot, grant.holder)]);
    }

    #[test]
    fn after_a_reboot_tokens_serve_again_and_nothing_is_granted() {
        let mut ledger = some();
        let other = Holder { pod_uid: "other".into(), ..ledger.grant("id").unwrap().holder };
        ledger.claim_of_runtime("7".parse().unwrap(), &other, "by-runtime", "plan", &node_default()).unwrap();
        let (_folder, path) = on_disk(&bytes_of(ledger.saved()));
        let mut ledger = read(&path, "next", &isolated()).unwrap();
        assert_eq!((ledger.grants().count(), ledger.allocations().count()), (0, 1));
        let holder = Holder { pod_uid: "uid".into(), ..other };
        ledger.claim(&Token::of("t"), &holder, "again", "plan", &node_default()).unwrap();
        assert_eq!(ledger.grant("again").unwrap().cores.to_string(), "1,3-5");
    }

    #[test]
    fn after_a_reboot_a_full_ledger_is_empty_of_containers_and_each_token_claims_again() {
        let isolated: CpuSet = "1-255".parse().unwrap();
        let mut ledger = Ledger::empty(isolated.clone());
        let claim = |ledger: &mut Ledger, n: usize, id: &str| {
            let (token, [namespace, pod, container]) = (Token::of(&n.to_string()), ["ns", "p", "c"]);
            let [namespace, pod, container] = [namespace, pod, container].map(str::to_owned);
            let holder = Holder { namespace, pod, pod_uid: n.to_string(), container };
            ledger.claim(&token, &holder, &format!("{id}-{n}"), "plan", &node_default()).unwrap();
        };
        let all = 1..=Slot::all().count();
        for n in all.clone() {
            ledger.allocate(Token::of(&n.to_string()), n.to_string().parse().unwrap());
            claim(&mut ledger, n, "before");
        }
        let (_folder, path) = on_disk(&bytes_of(ledger.saved()));
        let mut ledger = read(&path, "next", &isolated).unwrap();
        assert_eq!((ledger.grants().count(), ledger.held().count(), ledger.wanted().count()), (0, 0, 0));
        // Not in the order of before, as the kubelet starts its pods.
        all.rev().for_each(|n| claim(&mut ledger, n, "after"));
        assert!(ledger.grants().all(|grant| grant.cores.to_string() == grant.holder.pod_uid));
    }

    #[test]
    fn a_ledger_of_before_boots_were_told_apart_is_of_this_one() {
        let text = String::from_utf8(bytes_of(some().saved())).unwrap();
        let older = text.replace("\"boot_id\": \"this\",", "");
        assert_ne!(older, text);
        let (_folder, path) = on_disk(older.as_bytes());
        assert!(read(&path, BOOT, &isolated()).unwrap().grant("id").is_some());
    }

    #[test]
    fn only_root_reads_tokens() {
        use std::os::unix::fs::PermissionsExt as _;
        let (folder, _) = on_disk(b"");
        let path = folder.path().join("new.json");
        write(&path, BOOT, some().saved()).unwrap();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_first_start_has_an_empty_ledger() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(holders(&folder.path().join("ledger.json")).unwrap(), []);
        assert_eq!(read(&folder.path().join("ledger.json"), BOOT, &isolated()).unwrap().grants().count(), 0);
    }

    #[test]
    fn each_damaged_ledger_is_kept_under_a_name_of_its_own() {
        let (folder, path) = on_disk(b"");
        let damages: [&[u8]; 4] = [b"", b"{\"version\": 1, \"allocations\": {", b"{}", b"\0\xff"];
        for (idx, damage) in damages.iter().enumerate() {
            fs::write(&path, damage).unwrap();
            assert_eq!(read(&path, BOOT, &isolated()).unwrap().grants().count(), 0);
            assert!(!path.exists());
            let aside = folder.path().join(format!("ledger.damaged-{}", idx + 1));
            assert_eq!(fs::read(aside).unwrap(), *damage);
        }
    }

    #[test]
    fn the_ledger_of_a_newer_agent_stops_this_one_and_stays() {
        let newer = b"{\"version\": 2, \"grants\": []}";
        let (folder, path) = on_disk(newer);
        let error = read(&path, BOOT, &isolated())
            .unwrap_err()
            .to_string()
            .replace(folder.path().to_str().unwrap(), "");
        expect!["the ledger /ledger.json is of version 2, this agent knows 1: install the newer agent again"]
            .assert_eq(&error);
        assert_eq!(fs::read(path).unwrap(), newer);
    }

    #[test]
    fn a_write_that_was_cut_off_leaves_the_ledger_as_it_was() {
        let (folder, path) = on_disk(&bytes_of(some().saved()));
        fs::write(folder.path().join("ledger.unfinished"), b"{\"version\": 1, \"all").unwrap();
        assert!(read(&path, BOOT, &isolated()).unwrap().grant("id").is_some());
        write(&path, BOOT, some().saved()).unwrap();
        assert!(read(&path, BOOT, &isolated()).unwrap().grant("id").is_some());
    }

    proptest! {
        #[test]
        fn no_file_content_stops_the_agent_by_surprise(cut in 0usize..1000, flip in 0usize..1000, to in any::<u8>()) {
            let mut bytes = bytes_of(some().saved());
            bytes.truncate(cut);
            if let Some(byte) = bytes.get_mut(flip) {
                *byte = to;
            }
            let (_folder, path) = on_disk(&bytes);
            match read(&path, BOOT, &isolated()) {
                // Understood, or kept aside and empty.
                Ok(ledger) => prop_assert!(path.exists() || ledger.grants().next().is_none()),
                Err(StoreError::Newer { .. }) => prop_assert!(path.exists()),
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
    }
}
