//! Step 7: BPF array maps as memory. A store here is how the agent tells the guard something without a
//! system call that would send an IPI; a load is how it reads counters without asking.

#![expect(unsafe_code, reason = "the one place that touches memory shared with BPF programs")]

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd as _},
    sync::atomic::{AtomicU64, Ordering},
};

use memmap2::{MmapOptions, MmapRaw};

/// `n` values of `T` at a stride of `size_of::<T>()`, which must be a multiple of 8: the kernel rounds the
/// size of an array map's values up to that (kernel/bpf/arraymap.c).
#[derive(Debug)]
pub(super) struct SharedArray<T> {
    memory: MmapRaw,
    n: usize,
    of: PhantomData<T>,
}

impl<T: Copy> SharedArray<T> {
    pub(super) fn map(fd: impl AsFd, n: usize) -> io::Result<SharedArray<T>> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let memory = MmapOptions::new().len(n * size_of::<T>()).map_raw(fd.as_fd().as_raw_fd())?;
        Ok(SharedArray { memory, n, of: PhantomData })
    }

    pub(super) fn len(&self) -> usize {
        self.n
    }

    pub(super) fn get(&self, idx: usize) -> T {
        // SAFETY: `at` returns a place inside the mapping, aligned because a page is and 8 divides the
        // stride; T is one of the plain integer structs of record.h, for which any bytes are a value.
        unsafe { self.at(idx).read_volatile() }
    }

    pub(super) fn set(&self, idx: usize, value: T) {
        // SAFETY: as in `get`; BPF programs never hold a reference, they load single words.
        unsafe { self.at(idx).write_volatile(value) }
    }

    pub(super) fn load_byte(&self, idx: usize, offset: usize) -> u8 {
        assert!(offset < size_of::<T>(), "offset {offset} is inside the value");
        // SAFETY: as in `get`, and the byte is inside the value.
        unsafe { self.at(idx).cast::<u8>().wrapping_add(offset).read_volatile() }
    }

    /// One word of a value that BPF programs write at the same time.
    pub(super) fn word(&self, idx: usize, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset < size_of::<T>(), "a word at {offset}");
        // SAFETY: as in `get`: a whole word, because 8 divides offset and size. It is borrowed from `self`, and
        // with it the mapping; BPF programs and other processes access it by whole words, too.
        unsafe { AtomicU64::from_ptr(self.at(idx).cast::<u64>().wrapping_add(offset / 8)) }
    }

    /// Unless something is there already.
    pub(super) fn fill_word(&self, idx: usize, offset: usize, value: u64) {
        let _ = self.word(idx, offset).compare_exchange(0, value, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// One byte of a value that BPF programs write at the same time.
    pub(super) fn store_byte(&self, idx: usize, offset: usize, value: u8) {
        assert!(offset < size_of::<T>(), "offset {offset} is inside the value");
        // SAFETY: as in `get`, and the byte is inside the value.
        unsafe { self.at(idx).cast::<u8>().wrapping_add(offset).write_volatile(value) }
    }

    fn at(&self, idx: usize) -> *mut T {
        assert!(idx < self.n, "slot {idx} of {}", self.n);
        self.memory.as_mut_ptr().cast::<T>().wrapping_add(idx)
    }
}
