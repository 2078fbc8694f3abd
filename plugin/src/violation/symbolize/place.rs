//! Step 8: where a thread was, as exactly as we know it. Pure.

use std::fmt;

use crate::violation::text::printable;

/// C++ and Rust symbols can be kilobytes; an Event's note is one.
const NAME_MAX: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Function {
        name: String,
        offset: u64,
        /// "l2fwd.c:31", where the binary has debug information.
        source: Option<String>,
    },
    /// A file of the container and the offset in it.
    Module {
        name: String,
        offset: u64,
        why: NoFunction,
    },
    Address {
        ip: u64,
        why: NoModule,
    },
}

/// Why only the module is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoFunction {
    /// No symbol covers the address: a stripped binary.
    NoSymbol,
    /// Not a regular file, or the agent may not read it.
    NotReadable,
    /// The deadline, a limit of memory, or not ELF.
    NotParsed,
    /// No call returns to it.
    NoCall,
}

/// Why only the address is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoModule {
    /// The process was gone before its memory map could be read.
    Ended,
    /// Generated at run time: no file is mapped there.
    Anonymous,
    /// Nothing is mapped there any more.
    Unmapped,
    /// The caller did not say which process, or its map may not be read.
    NotReadable,
}

impl Place {
    /// The byte after it.
    pub(super) fn one_further(self) -> Place {
        match self {
            Place::Function { name, offset, source } => {
                Place::Function { name, offset: offset.saturating_add(1), source }
            }
            Place::Module { name, offset, why } => {
                Place::Module { name, offset: offset.saturating_add(1), why }
            }
            Place::Address { ip, why } => Place::Address { ip: ip.saturating_add(1), why },
        }
    }

    pub fn source(&self) -> Option<String> {
        match self {
            Place::Function { source, .. } => source.as_deref().map(|s| printable(s, NAME_MAX)),
            _ => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Function { name, offset, .. } => write!(f, "{}+{offset:#x}", printable(name, NAME_MAX)),
            Place::Module { name, offset, why } => {
                write!(f, "{}+{offset:#x} [{}]", printable(name, NAME_MAX), why.words())
            }
            Place::Address { ip, why } => write!(f, "{ip:#x} [{}]", why.words()),
        }
    }
}

impl NoFunction {
    fn words(self) -> &'static str {
        match self {
            NoFunction::NoSymbol => "file offset: no symbol there",
            NoFunction::NotReadable => "file offset: binary not readable",
            NoFunction::NoCall => "file offset: no call ends there",
            NoFunction::NotParsed => "file offset: symbols not read in time or broken",
        }
    }
}

impl NoModule {
    fn words(self) -> &'static str {
        match self {
            NoModule::Ended => "process has ended",
            NoModule::Anonymous => "code without a file",
            NoModule::Unmapped => "not mapped any more",
            NoModule::NotReadable => "memory map not readable",
        }
    }
}
