//! Step 5: the plan, one argument that the agent wrote: `v1 cpus=1,3-4 provider=seccomp arm=prctl locked=no`.
//!
//! Every key exactly once; anything else is refused: a shim that misreads its plan must not run a program.

pub const N_WORDS: usize = 1024 / 64;

/// A bit for each CPU, as sched_getaffinity(2) fills it.
pub type CpuMask = [u64; N_WORDS];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub cpus: CpuMask,
    /// Answer the prctl by a seccomp filter.
    pub filter: bool,
    /// Arm at the exec of the program.
    pub arm_on_exec: bool,
    /// The program may arm, but neither choose signals nor disarm.
    pub locked: bool,
}

pub fn parse(text: &[u8]) -> Option<Plan> {
    let mut words = text.split(|&byte| byte == b' ');
    if words.next()? != b"v1" {
        return None;
    }
    let (mut cpus, mut filter, mut arm_on_exec, mut locked) = (None, None, None, None);
    for word in words {
        let equals = word.iter().position(|&byte| byte == b'=')?;
        let (key, value) = (&word[..equals], &word[equals + 1..]);
        match key {
            b"cpus" => once(&mut cpus, parse_cpus(value)?)?,
            b"provider" => once(&mut filter, one_of(value, b"seccomp", b"none")?)?,
            b"arm" => once(&mut arm_on_exec, one_of(value, b"exec", b"prctl")?)?,
            b"locked" => once(&mut locked, one_of(value, b"yes", b"no")?)?,
            _ => return None,
        }
    }
    Some(Plan { cpus: cpus?, filter: filter?, arm_on_exec: arm_on_exec?, locked: locked? })
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

fn parse_cpus(list: &[u8]) -> Option<CpuMask> {
    let mut mask = CpuMask::default();
    for range in list.split(|&byte| byte == b',') {
        let mut ends = range.splitn(2, |&byte| byte == b'-');
        let first = number(ends.next()?)?;
        let last = ends.next().map_or(Some(first), number)?;
        if last < first {
            return None;
        }
        for cpu in first..=last {
            *mask.get_mut(cpu / 64)? |= 1 << (cpu % 64);
        }
    }
    Some(mask)
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
        let plan = parse(b"v1 cpus=1,3-4,64 provider=seccomp arm=prctl locked=no").unwrap();
        assert_eq!((plan.cpus[0], plan.cpus[1]), (0b11010, 1));
        assert_eq!((plan.filter, plan.arm_on_exec, plan.locked), (true, false, false));
        let plan = parse(b"v1 locked=yes arm=exec provider=none cpus=1023").unwrap();
        assert_eq!((plan.filter, plan.arm_on_exec, plan.locked), (false, true, true));
        assert_eq!(plan.cpus[15], 1 << 63);
    }

    #[test]
    fn whatever_is_not_exactly_a_plan_is_refused() {
        for bad in [
            "",
            "v1",
            "v2 cpus=1 provider=none arm=exec locked=no",
            "v1 cpus= provider=none arm=exec locked=no",
            "v1 cpus=1024 provider=none arm=exec locked=no",
            "v1 cpus=3-1 provider=none arm=exec locked=no",
            "v1 cpus=1- provider=none arm=exec locked=no",
            "v1 cpus=99999999999999999999 provider=none arm=exec locked=no",
            "v1 cpus=1 cpus=2 provider=none arm=exec locked=no",
            "v1 cpus=1 provider=lsm arm=exec locked=no",
            "v1 cpus=1 provider=none arm=exec locked=no extra=1",
            "v1 cpus=1 provider=none arm=exec",
            "v1 cpus=1  provider=none arm=exec locked=no",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
