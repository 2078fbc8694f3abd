//! Step 5: the plan, one argument that the agent wrote:
//! `v2 cpus=1,3-4 shared=none provider=seccomp arm=prctl locked=no`.
//!
//! Every key exactly once; anything else is refused: a shim that misreads its plan must not run a program. So the
//! version is that of the set of keys.

use core::fmt;

/// A bit for each CPU, as sched_getaffinity(2) fills it. As large as any x86-64 kernel's (NR_CPUS of MAXSMP):
/// the call fails where the kernel may have more CPUs than fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuMask(pub [u64; CpuMask::N_CPUS / 64]);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Granted: these are watched.
    pub cpus: CpuMask,
    /// Where the program starts; none of those granted. `None`: on those.
    pub shared: Option<CpuMask>,
    /// Answer the prctl by a seccomp filter.
    pub filter: bool,
    /// Arm at the exec of the program.
    pub arm_on_exec: bool,
    /// The program may arm, but neither choose signals nor disarm.
    pub locked: bool,
}

pub fn parse(text: &[u8]) -> Option<Plan> {
    let mut words = text.split(|&byte| byte == b' ');
    if words.next()? != b"v2" {
        return None;
    }
    let (mut cpus, mut shared, mut filter, mut arm_on_exec, mut locked) = (None, None, None, None, None);
    for word in words {
        let equals = word.iter().position(|&byte| byte == b'=')?;
        let (key, value) = (&word[..equals], &word[equals + 1..]);
        match key {
            b"cpus" => once(&mut cpus, CpuMask::parse(value)?)?,
            b"shared" => once(&mut shared, none_or_cpus(value)?)?,
            b"provider" => once(&mut filter, one_of(value, b"seccomp", b"none")?)?,
            b"arm" => once(&mut arm_on_exec, one_of(value, b"exec", b"prctl")?)?,
            b"locked" => once(&mut locked, one_of(value, b"yes", b"no")?)?,
            _ => return None,
        }
    }
    let (cpus, shared) = (cpus?, shared?);
    if shared.as_ref().is_some_and(|shared| shared.overlaps(&cpus)) {
        return None;
    }
    Some(Plan { cpus, shared, filter: filter?, arm_on_exec: arm_on_exec?, locked: locked? })
}

impl Plan {
    /// All that the container's cpuset holds.
    pub fn allowed(&self) -> CpuMask {
        let mut all = self.cpus.clone();
        let shared = self.shared.iter().flat_map(|shared| &shared.0);
        all.0.iter_mut().zip(shared).for_each(|(word, more)| *word |= more);
        all
    }
}

fn none_or_cpus(value: &[u8]) -> Option<Option<CpuMask>> {
    if value == b"none" { Some(None) } else { CpuMask::parse(value).map(Some) }
}

fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

fn one_of(value: &[u8], yes: &[u8], no: &[u8]) -> Option<bool> {
    if value == yes {
        Some(true)
    } else if value == no {
        Some(false)
    } else {
        None
    }
}

impl CpuMask {
    pub const N_CPUS: usize = 8192;
    pub const EMPTY: CpuMask = CpuMask([0; CpuMask::N_CPUS / 64]);

    /// The list format of cpuset(7).
    pub fn parse(list: &[u8]) -> Option<CpuMask> {
        let mut mask = CpuMask::EMPTY;
        for range in list.split(|&byte| byte == b',') {
            let mut ends = range.splitn(2, |&byte| byte == b'-');
            let first = number(ends.next()?)?;
            let last = ends.next().map_or(Some(first), number)?;
            if last < first {
                return None;
            }
            for cpu in first..=last {
                *mask.0.get_mut(cpu / 64)? |= 1 << (cpu % 64);
            }
        }
        Some(mask)
    }

    fn overlaps(&self, other: &CpuMask) -> bool {
        self.0.iter().zip(&other.0).any(|(one, other)| one & other != 0)
    }

    fn contains(&self, cpu: usize) -> bool {
        self.0.get(cpu / 64).is_some_and(|word| word >> (cpu % 64) & 1 == 1)
    }
}

impl fmt::Display for CpuMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut cpu = 0;
        while cpu < CpuMask::N_CPUS {
            let first = cpu;
            while self.contains(cpu) {
                cpu += 1;
            }
            match cpu - first {
                0 => {}
                1 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{}", cpu - 1)?,
            }
            if first < cpu {
                separator = ",";
            }
            cpu += 1;
        }
        Ok(())
    }
}

fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || 4 < digits.len() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |sum, &digit| sum * 10 + usize::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_plan_is_read_in_any_order_of_keys() {
        let plan = parse(b"v2 cpus=1,3-4,64 shared=none provider=seccomp arm=prctl locked=no").unwrap();
        assert_eq!((plan.cpus.0[0], plan.cpus.0[1], plan.shared), (0b11010, 1, None));
        assert_eq!((plan.filter, plan.arm_on_exec, plan.locked), (true, false, false));
        let plan = parse(b"v2 locked=yes arm=exec provider=none shared=none cpus=1023").unwrap();
        assert_eq!((plan.filter, plan.arm_on_exec, plan.locked), (false, true, true));
        assert_eq!(plan.cpus.0[15], 1 << 63);
    }

    #[test]
    fn a_container_with_shared_cpus_is_allowed_those_too() {
        let plan = parse(b"v2 cpus=1,64 shared=0,2 provider=none arm=prctl locked=no").unwrap();
        assert_eq!(plan.shared.as_ref().unwrap().to_string(), "0,2");
        assert_eq!(plan.allowed().to_string(), "0-2,64");
        let plan = parse(b"v2 cpus=1,64 shared=none provider=none arm=prctl locked=no").unwrap();
        assert_eq!(plan.allowed().to_string(), "1,64");
    }

    #[test]
    fn whatever_is_not_exactly_a_plan_is_refused() {
        for bad in [
            "",
            "v2",
            "v1 cpus=1 shared=none provider=none arm=exec locked=no",
            "v2 cpus= shared=none provider=none arm=exec locked=no",
            "v2 cpus=8192 shared=none provider=none arm=exec locked=no",
            "v2 cpus=3-1 shared=none provider=none arm=exec locked=no",
            "v2 cpus=1- shared=none provider=none arm=exec locked=no",
            "v2 cpus=99999999999999999999 shared=none provider=none arm=exec locked=no",
            "v2 cpus=1 cpus=2 shared=none provider=none arm=exec locked=no",
            "v2 cpus=1 shared=none provider=lsm arm=exec locked=no",
            "v2 cpus=1 shared=none provider=none arm=exec locked=no extra=1",
            "v2 cpus=1 shared=none provider=none arm=exec",
            "v2 cpus=1 provider=none arm=exec locked=no",
            "v2 cpus=1 shared= provider=none arm=exec locked=no",
            "v2 cpus=1 shared=none shared=none provider=none arm=exec locked=no",
            "v2 cpus=1 shared=0-1 provider=none arm=exec locked=no",
            "v2 cpus=1 shared=8192 provider=none arm=exec locked=no",
            "v2 cpus=1  shared=none provider=none arm=exec locked=no",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn cpus_are_told_as_they_are_written() {
        for list in ["0", "1,3-4", "0-8191", "63-64,66,8191"] {
            assert_eq!(CpuMask::parse(list.as_bytes()).unwrap().to_string(), list);
        }
        assert_eq!(CpuMask::EMPTY.to_string(), "");
    }
}
