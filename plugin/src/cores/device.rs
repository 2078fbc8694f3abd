//! Step 3: names of devices, as the kubelet sees them: one whole CPU is `cpu-N`.
//!
//! Pure. Only the kubelet writes them, so a name that is none is an error and no refusal.

use super::set::{CpuId, CpuSet};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("{0:?} is no device of this node: expected cpu-N")]
    Unknown(String),
    #[error("an allocation without devices")]
    None,
}

pub fn id(cpu: CpuId) -> String {
    format!("cpu-{}", cpu.number())
}

/// Exactly what `id` makes: "cpu-01" would be a second name of the same CPU.
pub fn cpu(name: &str) -> Result<CpuId, DeviceError> {
    let number = name.strip_prefix("cpu-").and_then(|number| number.parse().ok());
    let cpu = number.and_then(CpuId::new).filter(|cpu| id(*cpu) == name);
    cpu.ok_or_else(|| DeviceError::Unknown(name.to_owned()))
}

pub fn cpus(names: &[String]) -> Result<CpuSet, DeviceError> {
    let cpus = names.iter().map(|name| cpu(name)).collect::<Result<_, _>>()?;
    CpuSet::new(cpus).ok_or(DeviceError::None)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[track_caller]
    fn check(names: &[&str], expect: Expect) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        expect.assert_eq(&cpus(&names).map_or_else(|error| error.to_string(), |cpus| cpus.to_string()));
    }

    #[test]
    fn names_become_the_cpus_they_were_made_of() {
        check(&["cpu-3", "cpu-1"], expect!["1,3"]);
        let all: Vec<String> = (0..8192).filter_map(CpuId::new).map(id).collect();
        assert_eq!(cpus(&all).unwrap().to_string(), "0-8191");
    }

    #[test]
    fn what_is_no_name_of_ours_is_an_error() {
        check(&["cpu-1", "cpu-8192"], expect![[r#""cpu-8192" is no device of this node: expected cpu-N"#]]);
        check(&["cpu-"], expect![[r#""cpu-" is no device of this node: expected cpu-N"#]]);
        check(&["cpu-+1"], expect![[r#""cpu-+1" is no device of this node: expected cpu-N"#]]);
        check(&["cpu-01"], expect![[r#""cpu-01" is no device of this node: expected cpu-N"#]]);
        check(&["1"], expect![[r#""1" is no device of this node: expected cpu-N"#]]);
        check(&[], expect!["an allocation without devices"]);
    }
}
