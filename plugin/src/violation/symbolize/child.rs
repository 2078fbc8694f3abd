//! Step 8: the process that reads a container's binary, and its answer.
//!
//! `quietcore symbolize-child place|call OFFSET [PATH]`: standard input is the file as `O_PATH`, or the container's root
//! if there is a PATH. Answers on standard output, one line a phase, the quick one first: at the deadline the
//! agent takes what is there. No answer: the file could not be read as ELF. `call`: only if a call ends with that byte.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write, stdin},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use blazesym::symbolize::{Input, Sym, Symbolized, Symbolizer, source};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

use crate::violation::{
    symbolize::{
        call::{self, ends_in_call},
        place::NoFunction,
        sandbox,
    },
    text::printable,
};

pub const SUBCOMMAND: &str = "symbolize-child";

const NAME_MAX: usize = 512;
const UNREADABLE: &str = "unreadable";
const NO_SYMBOL: &str = "no-symbol";
const NO_CALL: &str = "no-call";
const ELF: &str = "elf";
const DWARF: &str = "dwarf";

/// What is at an offset in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Question {
    Place,
    /// The last byte of a call, if the stack is one.
    Call,
}

impl Question {
    pub(super) fn word(self) -> &'static str {
        match self {
            Question::Place => "place",
            Question::Call => "call",
        }
    }

    fn of_word(word: &OsString) -> Option<Question> {
        [Question::Place, Question::Call].into_iter().find(|question| word == question.word())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    pub name: String,
    pub offset: u64,
    /// "file:line"
    pub source: Option<String>,
}

/// `arguments` are those after the subcommand. A process of its own: afterwards it can do nothing any more.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let question = arguments.first().and_then(Question::of_word);
    let offset = arguments.get(1).and_then(|text| text.to_str()).and_then(|text| text.parse().ok());
    let Some((question, offset)) = question.zip(offset) else {
        return ExitCode::FAILURE;
    };
    sandbox::close_inherited_files();
    let file = match open(arguments.get(2).map(PathBuf::from)) {
        Ok(Some(file)) => file,
        Ok(None) | Err(_) => return say(UNREADABLE),
    };
    if sandbox::enter().is_err() {
        return ExitCode::FAILURE;
    }
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    symbolize(&path, question, offset).unwrap_or(ExitCode::FAILURE)
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

/// Opens `path` twice and first of all: the sandbox has two descriptors left.
fn symbolize(path: &Path, question: Question, offset: u64) -> Option<ExitCode> {
    let before = match bytes_to(path, offset) {
        Ok(before) => before,
        // EACCES: the file's mode lets only its owner read it, and we gave up CAP_DAC_READ_SEARCH.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Some(say(UNREADABLE)),
        Err(_) => return None,
    };
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
    let by_symbol_table = find(false).ok()?;
    if question == Question::Call && !ends_in_call(&before) {
        return Some(say(NO_CALL));
    }
    match by_symbol_table {
        Symbolized::Sym(symbol) => say(&line(ELF, &symbol)),
        Symbolized::Unknown(_) => say(NO_SYMBOL),
    };
    match find(true) {
        Ok(Symbolized::Sym(symbol)) => Some(say(&line(DWARF, &symbol))),
        Ok(Symbolized::Unknown(_)) | Err(_) => Some(ExitCode::SUCCESS),
    }
}

/// As many as the longest call has, with the one at `offset` as their last.
fn bytes_to(path: &Path, offset: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let end = offset.saturating_add(1);
    let first = end.saturating_sub(call::LONGEST as u64);
    let mut bytes = vec![0; usize::try_from(end - first).unwrap_or_default()];
    let read = file.read_at(&mut bytes, first)?;
    bytes.truncate(read);
    Ok(bytes)
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
            (Some(NO_CALL), _) => best = Err(NoFunction::NoCall),
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
        check("no-call\n", expect!["Err(NoCall)"]);
    }

    proptest! {
        #[test]
        fn no_answer_of_the_child_panics(text in "\\PC*", lines in proptest::collection::vec("(elf|dwarf|no-symbol|no-call)\t?[0-9a-z]*\t?\\PC*\n", 0..4)) {
            let _ = parse_answer(&text);
            let _ = parse_answer(&lines.concat());
        }
    }
}
