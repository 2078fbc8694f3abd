//! Where a thread may run: sched_setaffinity(2) with masks as large as the kernel's. The `cpu_set_t` that crates
//! offer ends at 1,024 CPUs: a kernel that may have more refuses to fill it, and a higher CPU does not fit in.

#![expect(unsafe_code, reason = "no crate of ours passes a longer mask to the kernel")]

use nix::{errno::Errno, libc, unistd::Pid};

use super::set::{CpuId, CpuSet, MAX_CPUS};

const N_WORDS: usize = MAX_CPUS as usize / 64;
type Mask = [u64; N_WORDS];

/// `pid` is a thread's; 0 is the calling one.
pub fn of(pid: Pid) -> Result<CpuSet, Errno> {
    // ERANGE cannot be: the kernel leaves no thread without a CPU, and fails where the mask is too short.
    set_of(&words_of(pid)?).ok_or(Errno::ERANGE)
}

/// May it run nowhere but on these? For who asks it of each thread of a machine: cheaper than `of`.
pub fn is_within(pid: Pid, cpus: &CpuSet) -> Result<bool, Errno> {
    let (allowed, cpus) = (words_of(pid)?, mask_of(cpus));
    Ok(allowed.iter().zip(cpus).all(|(allowed, cpus)| allowed & !cpus == 0))
}

fn words_of(pid: Pid) -> Result<Mask, Errno> {
    let mut mask: Mask = [0; N_WORDS];
    // SAFETY: the kernel writes at most size_of::<Mask>() bytes to `mask`, which is as long and as aligned as
    // its longs; libc writes zeros to the rest of it.
    let result = unsafe { libc::sched_getaffinity(pid.as_raw(), size_of::<Mask>(), (&raw mut mask).cast()) };
    Errno::result(result)?;
    Ok(mask)
}

/// CPUs that the thread's cpuset does not have are left out; EINVAL where nothing else remains.
pub fn restrict(pid: Pid, cpus: &CpuSet) -> Result<(), Errno> {
    let mask = mask_of(cpus);
    // SAFETY: the kernel reads at most size_of::<Mask>() bytes of `mask`, which is as long and initialized.
    let result =
        unsafe { libc::sched_setaffinity(pid.as_raw(), size_of::<Mask>(), (&raw const mask).cast()) };
    Errno::result(result).map(drop)
}

fn mask_of(cpus: &CpuSet) -> Mask {
    let mut mask = [0; N_WORDS];
    for cpu in cpus.iter() {
        mask[cpu.number() as usize / 64] |= 1 << (cpu.number() % 64);
    }
    mask
}

fn set_of(mask: &Mask) -> Option<CpuSet> {
    let is_set = |cpu: &CpuId| mask[cpu.number() as usize / 64] >> (cpu.number() % 64) & 1 == 1;
    CpuSet::new((0..MAX_CPUS).filter_map(CpuId::new).filter(is_set).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_thread_runs_where_it_was_told_and_others_where_they_did() {
        let this = Pid::from_raw(0);
        let before = of(this).unwrap();
        let last = CpuSet::from(before.iter().last().unwrap());
        let of_other = std::thread::scope(|scope| {
            let other = scope.spawn(|| restrict(this, &last).and_then(|()| of(this)));
            other.join().unwrap()
        });
        assert_eq!((of_other, of(this)), (Ok(last), Ok(before)));
    }

    #[test]
    fn a_thread_is_within_whatever_holds_all_of_its_cpus() {
        let this = Pid::from_raw(0);
        let own = of(this).unwrap();
        let more = own.union(&"8000".parse().unwrap());
        assert_eq!((is_within(this, &own), is_within(this, &more)), (Ok(true), Ok(true)));
        assert_eq!(is_within(this, &"8000".parse().unwrap()), Ok(false));
    }

    #[test]
    fn cpus_that_this_machine_has_not_are_an_error() {
        assert_eq!(restrict(Pid::from_raw(0), &"8191".parse().unwrap()), Err(Errno::EINVAL));
        assert_eq!(of(Pid::from_raw(i32::MAX)), Err(Errno::ESRCH));
    }

    proptest! {
        #[test]
        fn a_mask_has_what_was_put_in(numbers in prop::collection::btree_set(0..MAX_CPUS, 1..300)) {
            let set = CpuSet::new(numbers.into_iter().filter_map(CpuId::new).collect()).unwrap();
            prop_assert_eq!(set_of(&mask_of(&set)), Some(set));
        }
    }
}
