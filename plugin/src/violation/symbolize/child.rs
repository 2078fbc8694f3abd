//! Step 8: the process that reads a container's binary, and its answer.
//!
//! `quietcore symbolize-child OFFSET [PATH]`: standard input is the file as `O_PATH`, or the container's root
//! if there is a PATH. Answers on standard output, one line a phase, the quick one first: at the deadline the
//! agent takes what is there. No answer: the file could not be read as ELF.

use std::{
    ffi::OsString,
    io::{self, Write, stdin},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::ExitCode,
};

use blazesym::symbolize::{Input, Sym, Symbolized, Symbolizer, source};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

use crate::violation::{
    symbolize::{place::NoFunction, sandbox},
    text::printable,
};

pub const SUBCOMMAND: &str = "symbolize-child";

const NAME_MAX: usize = 512;
const UNREADABLE: &str = "unreadable";
const NO_SYMBOL: &str = "no-symbol";
const ELF: &str = "elf";
const DWARF: &str = "dwarf";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    pub name: String,
    pub offset: u64,
    /// "file:line"
    pub source: Option<String>,
}

/// `arguments` are those after the subcommand. A process of its own: afterwards it can do nothing any more.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let offset = arguments.first().and_then(|text| text.to_str()).and_then(|text| text.parse().ok());
    let Some(offset) = offset else {
        return ExitCode::FAILURE;
    };
    sandbox::close_inherited_files();
    let file = match open(arguments.get(1).map(PathBuf::from)) {
        Ok(Some(file)) => file,
        Ok(None) | Err(_) => return say(UNREADABLE),
    };
    if sandbox::enter().is_err() {
        return ExitCode::FAILURE;
    }
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    symbolize(&path, offset).unwrap_or(ExitCode::FAILURE)
}

/// As `O_PATH`. `None`: not a regular file.
fn open(path: Option<PathBuf>) -> io::Result<Option<OwnedFd>> {
    let file = match path {
        None => stdin().as_fd().try_clone_to_owned()?,
        Some(path) => {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            openat2(stdin(), path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?
        }
    };
    let kind = FileType::from_raw_mode(fstat(&file)?.st_mode);
    Ok((kind == FileType::RegularFile).then_some(file))
}

/// Opens `path` exactly once and first of all: the sandbox has one descriptor left.
fn symbolize(path: &Path, offset: u64) -> Option<ExitCode> {
    let symbolizer = Symbolizer::builder()
        .enable_auto_reload(false)
        .enable_code_info(true)
        .enable_inlined_fns(false)
        // A debug link is a path that the binary chooses; we follow none.
        .set_debug_dirs(Some(std::iter::empty::<&Path>()))
        .build();
    let find = |debug_syms| {
        let mut elf = source::Elf::new(path);
        elf.debug_syms = debug_syms;
        symbolizer.symbolize_single(&source::Source::from(elf), Input::FileOffset(offset))
    };
    let by_symbol_table = match find(false) {
        Ok(found) => found,
        // EACCES: the file's mode lets only its owner read it, and we gave up CAP_DAC_READ_SEARCH.
        Err(error) if error.kind() == blazesym::ErrorKind::PermissionDenied => return Some(say(UNREADABLE)),
        Err(_) => return None,
    };
    match by_symbol_table {
        Symbolized::Sym(symbol) => say(&line(ELF, &symbol)),
        Symbolized::Unknown(_) => say(NO_SYMBOL),
    };
    match find(true) {
        Ok(Symbolized::Sym(symbol)) => Some(say(&line(DWARF, &symbol))),
        Ok(Symbolized::Unknown(_)) | Err(_) => Some(ExitCode::SUCCESS),
    }
}

fn line(phase: &str, symbol: &Sym<'_>) -> String {
    let source = symbol.code_info.as_ref().and_then(|info| {
        let line = info.line?;
        Some(format!("{}:{line}", printable(&info.file.to_string_lossy(), NAME_MAX)))
    });
    let name = printable(&symbol.name, NAME_MAX);
    format!("{phase}\t{}\t{name}\t{}", symbol.offset, source.unwrap_or_default())
}

fn say(line: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let said = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    if said.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The child has read hostile input: its answer is hostile too.
pub(super) fn parse_answer(text: &str) -> Result<Symbol, NoFunction> {
    let mut best = Err(NoFunction::NotParsed);
    // A last line without its end was cut by the deadline.
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let mut fields = line.split('\t');
        let phase = fields.next();
        let symbol = (|| {
            let offset = fields.next()?.parse().ok()?;
            let name = fields.next().filter(|name| !name.is_empty())?;
            let source = fields.next().filter(|source| !source.is_empty()).map(|s| printable(s, NAME_MAX));
            Some(Symbol { name: printable(name, NAME_MAX), offset, source })
        })();
        match (phase, symbol) {
            (Some(UNREADABLE), _) => best = Err(NoFunction::NotReadable),
            (Some(NO_SYMBOL), _) => best = Err(NoFunction::NoSymbol),
            (Some(ELF), Some(symbol)) => best = Ok(symbol),
            // The symbol table has the whole name of a C++ function, debug information only its last part.
            (Some(DWARF), Some(symbol)) => match &mut best {
                Ok(known) => known.source = symbol.source,
                Err(_) => best = Ok(symbol),
            },
            _ => {}
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Expect) {
        expect.assert_eq(&format!("{:?}", parse_answer(text)));
    }

    #[test]
    fn debug_information_adds_the_line() {
        check(
            "elf\t28\tfwd_loop\t\ndwarf\t28\tfwd_loop\tl2fwd.c:31\n",
            expect![[r#"Ok(Symbol { name: "fwd_loop", offset: 28, source: Some("l2fwd.c:31") })"#]],
        );
        check(
            "no-symbol\ndwarf\t28\tfwd_loop\tl2fwd.c:31\n",
            expect![[r#"Ok(Symbol { name: "fwd_loop", offset: 28, source: Some("l2fwd.c:31") })"#]],
        );
    }

    #[test]
    fn a_line_cut_by_the_deadline_is_no_answer() {
        check("elf\t28\tfwd_lo", expect!["Err(NotParsed)"]);
        check(
            "elf\t28\tfwd_loop\t\ndwarf\t2",
            expect![[r#"Ok(Symbol { name: "fwd_loop", offset: 28, source: None })"#]],
        );
    }

    #[test]
    fn no_answer_says_why() {
        check("", expect!["Err(NotParsed)"]);
        check("no-symbol\n", expect!["Err(NoSymbol)"]);
        check("unreadable\n", expect!["Err(NotReadable)"]);
    }

    proptest! {
        #[test]
        fn no_answer_of_the_child_panics(text in "\\PC*", lines in proptest::collection::vec("(elf|dwarf|no-symbol)\t?[0-9a-z]*\t?\\PC*\n", 0..4)) {
            let _ = parse_answer(&text);
            let _ = parse_answer(&lines.concat());
        }
    }
}
