//! GRUB as Debian and Ubuntu set it up: mkconfig reads /etc/default/grub and then /etc/default/grub.d/*.cfg, which are
//! shell; `update-grub` is mkconfig with the right output file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    NodeError,
    boot_loader::{Stated, read_if_there},
    state::{Applied, Written},
    tools::{Run, find},
};

pub(super) const DROP_IN: &str = "/etc/default/grub.d/50-quietcore.cfg";
const HEADER: &str = "# Written by `quietcore node apply`; `quietcore node restore` removes it.";
/// Each ends up on the command line of a normal boot.
const VARIABLES: [&str; 2] = ["GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT"];

/// As seen from the root.
pub(super) fn mkconfig(root: &Path) -> Option<PathBuf> {
    ["grub-mkconfig", "grub2-mkconfig"].into_iter().find_map(|name| find(root, name))
}

/// Upstream's mkconfig reads only /etc/default/grub: the folder is Debian's addition, and the script tells.
pub(super) fn reads_drop_ins(root: &Path, mkconfig: &Path) -> bool {
    let script = fs::read(super::boot_loader::within(root, mkconfig)).unwrap_or_default();
    String::from_utf8_lossy(&script).contains("/default/grub.d")
}

pub(super) fn stated(root: &Path) -> Result<Vec<Stated>, NodeError> {
    let mut paths = vec![PathBuf::from("/etc/default/grub")];
    let folder = root.join("etc/default/grub.d");
    let names = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let names = names.filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "cfg"));
    let mut files: Vec<PathBuf> = names.map(|name| Path::new("/etc/default/grub.d").join(name)).collect();
    files.sort();
    paths.extend(files.into_iter().filter(|path| path != Path::new(DROP_IN)));
    let mut stated = Vec::new();
    for path in paths {
        if let Some(text) = read_if_there(&super::boot_loader::within(root, &path))? {
            stated.push(Stated { path, line: assigned(&text) });
        }
    }
    Ok(stated)
}

/// What a shell file assigns to the variables, one after the other. Expansions stay as they stand: of them only
/// `$GRUB_CMDLINE_LINUX` is usual, whose words are in another assignment.
fn assigned(text: &str) -> String {
    let mut line = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let statement = rest.trim_start();
        let start = statement.strip_prefix("export ").map_or(statement, str::trim_start);
        let value = VARIABLES.into_iter().find_map(|name| {
            let after = start.strip_prefix(name)?;
            after.strip_prefix("+=").or_else(|| after.strip_prefix('='))
        });
        rest = match value {
            Some(value) => shell_word(value, &mut line),
            None => statement.split_once('\n').map_or("", |(_, rest)| rest),
        };
    }
    line
}

/// One word of the shell without its quotes; gives what follows it.
fn shell_word<'a>(text: &'a str, word: &mut String) -> &'a str {
    let mut quote = None;
    let mut letters = text.char_indices();
    word.push(' ');
    while let Some((at, letter)) = letters.next() {
        match (quote, letter) {
            (Some(open), letter) if open == letter => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (None | Some('"'), '\\') => match letters.next() {
                Some((_, '\n')) | None => {}
                Some((_, letter)) => word.push(letter),
            },
            (None, letter) if letter.is_whitespace() || letter == ';' => return text.get(at..).unwrap_or(""),
            (_, letter) => word.push(letter),
        }
    }
    ""
}

fn drop_in(add: &[String]) -> String {
    let add = add.join(" ");
    format!("{HEADER}\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX {add}\"\n")
}

pub(super) fn file(
    root: &Path,
    before: Option<&Applied>,
    add: &[String],
) -> Result<Option<Written>, NodeError> {
    let path = super::boot_loader::within(root, Path::new(DROP_IN));
    let there = read_if_there(&path)?;
    let ours = before.and_then(|applied| applied.written.as_ref()).map(|written| written.text.as_str());
    match &there {
        // The header alone: boot.json was lost, and it is still ours to write.
        Some(text) if Some(text.as_str()) != ours && (ours.is_some() || !text.starts_with(HEADER)) => {
            return Err(NodeError::ChangedSince { path });
        }
        _ => {}
    }
    if add.is_empty() {
        return Ok(None);
    }
    Ok(Some(Written { path: DROP_IN.into(), text: drop_in(add), before: None }))
}

pub(super) fn update(root: &Path, tools: &dyn Run) -> Result<(), NodeError> {
    if let Some(update_grub) = find(root, "update-grub") {
        return tools.run(&update_grub.to_string_lossy(), &[]);
    }
    let hint = || NodeError::UnknownLoader { hint: "GRUB's mkconfig went away: install it again".into() };
    let mkconfig = mkconfig(root).ok_or_else(hint)?;
    let output =
        if mkconfig.ends_with("grub2-mkconfig") { "/boot/grub2/grub.cfg" } else { "/boot/grub/grub.cfg" };
    tools.run(&mkconfig.to_string_lossy(), &["-o", output])
}
