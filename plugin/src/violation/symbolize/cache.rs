//! Step 8: what the child process has found out before, and which files it could not cope with. Pure.
//!
//! Both are bounded: a pod can make as many files and addresses as it likes.

use std::collections::{HashMap, VecDeque};

use crate::violation::symbolize::{
    child::{Question, Symbol},
    place::NoFunction,
    process::FileId,
};

const ANSWERS: usize = 1024;
const FILES: usize = 256;
/// A file whose symbols could not be read this often is not tried again: each try costs up to a second.
const TRIES: u8 = 3;

type Key = (FileId, Question, u64);

#[derive(Debug, Default)]
pub struct Cache {
    answers: HashMap<Key, Result<Symbol, NoFunction>>,
    oldest: VecDeque<Key>,
    failures: HashMap<FileId, u8>,
}

impl Cache {
    pub fn get(&self, file: &FileId, question: Question, offset: u64) -> Option<Result<Symbol, NoFunction>> {
        if self.failures.get(file).is_some_and(|tries| TRIES <= *tries) {
            return Some(Err(NoFunction::NotParsed));
        }
        self.answers.get(&(file.clone(), question, offset)).cloned()
    }

    pub fn put(
        &mut self,
        file: &FileId,
        question: Question,
        offset: u64,
        answer: &Result<Symbol, NoFunction>,
    ) {
        if *answer == Err(NoFunction::NotParsed) {
            // May have been the machine's load: not an answer yet.
            if FILES <= self.failures.len() {
                self.failures.clear();
            }
            *self.failures.entry(file.clone()).or_default() += 1;
            return;
        }
        let key = (file.clone(), question, offset);
        if self.answers.insert(key.clone(), answer.clone()).is_none() {
            self.oldest.push_back(key);
        }
        if ANSWERS < self.oldest.len()
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.answers.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(inode: u64) -> FileId {
        FileId::for_test(inode)
    }

    #[test]
    fn an_answer_is_remembered_for_its_file_and_offset_only() {
        let mut cache = Cache::default();
        cache.put(&file(1), Question::Place, 16, &Err(NoFunction::NoSymbol));
        assert_eq!(cache.get(&file(1), Question::Place, 16), Some(Err(NoFunction::NoSymbol)));
        assert_eq!(cache.get(&file(1), Question::Place, 17), None);
        assert_eq!(cache.get(&file(1), Question::Call, 16), None);
        assert_eq!(cache.get(&file(2), Question::Place, 16), None);
    }

    #[test]
    fn a_file_that_fails_three_times_is_given_up() {
        let mut cache = Cache::default();
        for offset in 0..3 {
            assert_eq!(cache.get(&file(1), Question::Place, offset), None);
            cache.put(&file(1), Question::Place, offset, &Err(NoFunction::NotParsed));
        }
        assert_eq!(cache.get(&file(1), Question::Place, 99), Some(Err(NoFunction::NotParsed)));
    }

    #[test]
    fn neither_addresses_nor_files_make_it_grow_for_ever() {
        let mut cache = Cache::default();
        for n in 0..5000 {
            cache.put(&file(n), Question::Place, n, &Err(NoFunction::NoSymbol));
            cache.put(&file(n), Question::Place, n, &Err(NoFunction::NotParsed));
        }
        assert_eq!((cache.answers.len(), cache.oldest.len()), (ANSWERS, ANSWERS));
        assert!(cache.failures.len() <= FILES);
    }
}
