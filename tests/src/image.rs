//! Container images without a registry or a daemon: docker-archives (the format of `docker save`) from files.
//!
//! Same files, same bytes: no times, no owners, sorted names.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::command::run;

/// What will be in an image, by absolute path.
#[derive(Debug, Clone)]
pub struct Image {
    tag: String,
    entries: BTreeMap<PathBuf, Entry>,
    entrypoint: Vec<String>,
    user: String,
}

#[derive(Debug, Clone)]
enum Entry {
    Folder { mode: u32 },
    File { source: PathBuf },
    Link { target: PathBuf },
}

impl Image {
    /// An empty image: not even a folder.
    pub fn new(tag: &str) -> Image {
        Image { tag: tag.to_owned(), entries: BTreeMap::new(), entrypoint: Vec::new(), user: String::new() }
    }

    /// An image of one static program at `/NAME` that runs it.
    pub fn of_program(tag: &str, program: &Path) -> Image {
        let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
        let path = format!("/{name}");
        Image::new(tag).file(program, &path).entrypoint(&[&path])
    }

    pub fn tag(&self) -> &str {
        &self.tag
    }

    pub fn file(mut self, source: &Path, path: &str) -> Image {
        self.insert(path, Entry::File { source: source.to_owned() });
        self
    }

    /// Programs of the Debian below `root` (`/`: of this machine), with every library they load.
    pub fn programs_of(mut self, root: &Path, programs: &[&str]) -> Result<Image> {
        let inside = |path: &str| root.join(path.trim_start_matches('/'));
        for program in programs {
            self = self.file(&inside(program), program);
            let listed = run(Command::new("chroot").arg(root).arg("ldd").arg(program))?;
            for library in listed.lines().filter_map(library_of) {
                self = self.file(&inside(library), library);
            }
        }
        Ok(self)
    }

    pub fn link(mut self, path: &str, target: &str) -> Image {
        self.insert(path, Entry::Link { target: target.into() });
        self
    }

    pub fn folder(mut self, path: &str, mode: u32) -> Image {
        self.insert(path, Entry::Folder { mode });
        self
    }

    pub fn entrypoint(mut self, words: &[&str]) -> Image {
        self.entrypoint = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// `UID` or `UID:GID`; without it the image runs as root.
    pub fn user(mut self, user: &str) -> Image {
        user.clone_into(&mut self.user);
        self
    }

    fn insert(&mut self, path: &str, entry: Entry) {
        let path = PathBuf::from(path.trim_start_matches('/'));
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            self.entries.entry(parent.to_owned()).or_insert(Entry::Folder { mode: 0o755 });
        }
        self.entries.insert(path, entry);
    }

    /// Writes the archive that `kind load image-archive` and `ctr images import` read.
    pub fn write(&self, archive: &Path) -> Result<()> {
        self.write_archive(archive)
            .with_context(|| format!("write image {} to {}", self.tag, archive.display()))
    }

    fn write_archive(&self, archive: &Path) -> Result<()> {
        let layer_file = tempfile::NamedTempFile::new_in(archive.parent().unwrap_or(Path::new(".")))?;
        self.write_layer(layer_file.as_file())?;
        let layer_digest = digest(&mut File::open(layer_file.path())?)?;
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": self.entrypoint,
                "User": self.user,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
            "history": [{"created_by": "quietcore testbed"}],
        })
        .to_string();
        let config_name = format!("{}.json", digest(&mut config.as_bytes())?);
        let layer_name = format!("{layer_digest}/layer.tar");
        let manifest =
            json!([{"Config": config_name, "RepoTags": [self.tag], "Layers": [layer_name]}]).to_string();

        let mut tar = Builder::new(File::create(archive)?);
        for (name, content) in [(config_name, config), ("manifest.json".to_owned(), manifest)] {
            let size = content.len().try_into()?;
            tar.append_data(&mut header(EntryType::Regular, 0o644, size), name, content.as_bytes())?;
        }
        let size = layer_file.as_file().metadata()?.len();
        tar.append_data(
            &mut header(EntryType::Regular, 0o644, size),
            layer_name,
            File::open(layer_file.path())?,
        )?;
        tar.into_inner()?;
        Ok(())
    }

    fn write_layer(&self, layer: &File) -> Result<()> {
        let mut tar = Builder::new(layer);
        for (path, entry) in &self.entries {
            match entry {
                Entry::Folder { mode } => {
                    tar.append_data(&mut header(EntryType::Directory, *mode, 0), path, io::empty())?;
                }
                Entry::Link { target } => {
                    tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target)?
                }
                Entry::File { source } => {
                    let file = File::open(source).with_context(|| format!("open {}", source.display()))?;
                    let size = file.metadata()?.len();
                    tar.append_data(&mut header(EntryType::Regular, 0o755, size), path, file)?;
                }
            }
        }
        tar.into_inner()?;
        Ok(())
    }
}

/// The path in a line of ldd: `libmnl.so.0 => /lib/libmnl.so.0 (0x..)` or `/lib64/ld.so (0x..)`.
fn library_of(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| word.starts_with('/'))
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn digest(content: &mut impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(content, &mut hash)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Compiles C sources into one static program at `out`: it runs in an image with nothing else in it.
pub fn compile_static(sources: &[&Path], flags: &[&str], out: &Path) -> Result<()> {
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    run(Command::new("gcc").args(["-static", "-O2", "-o"]).arg(out).args(flags).args(sources))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_lists_libraries_in_two_shapes() {
        let library = "\tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x7f)";
        assert_eq!(library_of(library), Some("/lib/x86_64-linux-gnu/libmnl.so.0"));
        assert_eq!(library_of("\t/lib64/ld-linux-x86-64.so.2 (0x7f)"), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(library_of("\tlinux-vdso.so.1 (0x7f)"), None);
    }

    fn names_in(archive: &Path) -> Vec<String> {
        let mut tar = tar::Archive::new(File::open(archive).unwrap());
        tar.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn the_same_files_make_the_same_archive() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, "content").unwrap();
        let image = Image::of_program("localhost/test:one", &program).folder("/tmp", 0o1777).user("65532");
        let archives = ["a.tar", "b.tar"].map(|name| folder.path().join(name));
        for archive in &archives {
            image.write(archive).unwrap();
        }
        assert_eq!(fs::read(&archives[0]).unwrap(), fs::read(&archives[1]).unwrap());
        assert!(names_in(&archives[0]).contains(&"manifest.json".to_owned()));
    }

    #[test]
    fn a_layer_has_the_folders_above_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, "content").unwrap();
        let layer = folder.path().join("layer.tar");
        let image = Image::new("localhost/test:one")
            .file(&program, "/usr/bin/program")
            .link("/usr/bin/other", "program");
        image.write_layer(&File::create(&layer).unwrap()).unwrap();
        assert_eq!(names_in(&layer), ["usr", "usr/bin", "usr/bin/other", "usr/bin/program"]);
    }
}
