//! placeholder of this session: branch topo has the real one
use super::set::CpuId;
use std::collections::BTreeSet;
pub fn parse(text: &str) -> Result<BTreeSet<CpuId>, ()> {
    let digits: String = text.trim().chars().filter(|c| *c != ',').collect();
    let mut out = BTreeSet::new();
    for (i, c) in digits.chars().rev().enumerate() {
        let v = c.to_digit(16).ok_or(())?;
        for b in 0..4 {
            if v >> b & 1 == 1 {
                out.insert(CpuId::new(i as u32 * 4 + b).ok_or(())?);
            }
        }
    }
    Ok(out)
}
pub fn print(cpus: impl IntoIterator<Item = CpuId>) -> String {
    let set: BTreeSet<u32> = cpus.into_iter().map(CpuId::number).collect();
    let top = set.iter().next_back().map_or(0, |c| c / 4);
    (0..=top)
        .rev()
        .map(|d| {
            let v = (0..4).filter(|b| set.contains(&(d * 4 + b))).fold(0u32, |a, b| a | 1 << b);
            char::from_digit(v, 16).unwrap()
        })
        .collect()
}
