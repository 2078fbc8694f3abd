//! Step 8: names of functions of the kernel, from /proc/kallsyms.
//!
//! The table has 10 MB and a node's records name a few dozen functions of it: it is read again for each new
//! one, off-core, and only the answers are kept.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
    path::PathBuf,
};

const ANSWERS: usize = 256;

#[derive(Debug)]
pub struct KernelSymbols {
    path: PathBuf,
    answers: HashMap<u64, Option<String>>,
}

impl KernelSymbols {
    pub fn new(path: PathBuf) -> KernelSymbols {
        KernelSymbols { path, answers: HashMap::new() }
    }

    /// `None`: no function begins there, or the kernel hides its addresses (kernel.kptr_restrict).
    pub fn name(&mut self, address: u64) -> Option<String> {
        if let Some(answer) = self.answers.get(&address) {
            return answer.clone();
        }
        let answer = File::open(&self.path).ok().and_then(|file| find(BufReader::new(file), address));
        if ANSWERS <= self.answers.len() {
            self.answers.clear();
        }
        self.answers.insert(address, answer.clone());
        answer
    }
}

/// Lines as "ffffffff81000000 T _text" or "... t nf_hook\t[nf_tables]" (proc_kallsyms(5)).
fn find(lines: impl BufRead, address: u64) -> Option<String> {
    let wanted = format!("{address:016x} ");
    lines.split(b'\n').map_while(Result::ok).find_map(|line| {
        let line = str::from_utf8(&line).ok()?;
        let mut fields = line.strip_prefix(&wanted)?.split_ascii_whitespace();
        let is_code = matches!(fields.next()?, "t" | "T" | "w" | "W");
        let name = fields.next()?;
        let module = fields.next().map(|module| format!(" {module}")).unwrap_or_default();
        is_code.then(|| format!("{name}{module}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "ffffffff81000000 D data_there_too\n\
                         ffffffff81000000 T flush_tlb_func\n\
                         ffffffff81000010 t ipi_mb\n\
                         ffffffffc0200000 t nf_work\t[nf_tables]\n";

    #[test]
    fn a_function_is_known_by_where_it_begins() {
        let name = |address| find(TABLE.as_bytes(), address);
        assert_eq!(name(0xffff_ffff_8100_0000).as_deref(), Some("flush_tlb_func"));
        assert_eq!(name(0xffff_ffff_c020_0000).as_deref(), Some("nf_work [nf_tables]"));
        assert_eq!(name(0xffff_ffff_8100_0004), None);
    }

    #[test]
    fn hidden_addresses_name_nothing() {
        assert_eq!(find("0000000000000000 T flush_tlb_func\n".as_bytes(), 0xffff_ffff_8100_0000), None);
    }
}
