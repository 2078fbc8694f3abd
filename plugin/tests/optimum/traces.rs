//! Random requests and releases on random small machines, and the best answer to each by trying all.
//!
//! Sets of cores are bits here: nothing of the allocator's own way to count.

use std::collections::BTreeSet;

use quietcore::cores::{
    allocator::Free,
    set::{CpuId, CpuSet},
    topology::{Core, Kind, Topology},
};

/// Of a trace: enough to fill a machine and to make holes in it.
const N_STEPS: usize = 12;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Chooser {
    Allocator,
    LowestNumbers,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Quality {
    pub(crate) n_choices: u32,
    /// Choices with a cost above the least.
    pub(crate) n_worse: u32,
    /// Nodes, L3 domains and packages that a choice is spread over, in percent of what the best is.
    pub(crate) mean_percent: f64,
    pub(crate) worst_percent: f64,
}

/// The same machines and requests for each chooser, until their choices differ.
pub(crate) fn measure(n_traces: u32, chooser: Chooser) -> Quality {
    let (mut quality, mut sum) = (Quality::default(), 0.0);
    for seed in 1..=n_traces {
        let mut random = Random(u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Machine::random(&mut random).run(&mut random, chooser, |chosen, best| {
            quality.n_choices += 1;
            quality.n_worse += u32::from(best < chosen);
            let percent = 100.0 * f64::from(chosen.spread()) / f64::from(best.spread());
            sum += percent;
            quality.worst_percent = quality.worst_percent.max(percent);
        });
    }
    Quality { mean_percent: sum / f64::from(quality.n_choices), ..quality }
}

/// xorshift64*: the same traces on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        u32::try_from(high).unwrap() % n
    }
}

type Mask = u16;

/// In the order of importance that the allocator promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    held: u32,
    efficient: u32,
    nodes: u32,
    l3s: u32,
    packages: u32,
    holes: [u32; 3],
}

impl Cost {
    fn spread(&self) -> u32 {
        self.nodes + self.l3s + self.packages
    }
}

/// At most 12 cores of two threads each; core N has the CPUs N and N + 12.
struct Machine {
    topology: Topology,
    n_cores: u32,
    efficient: Mask,
    packages: Vec<Mask>,
    nodes: Vec<Mask>,
    l3s: Vec<Mask>,
}

impl Machine {
    /// One or two packages of one or two nodes of one to three L3 domains of one to four cores, numbered in order
    /// or, as some firmware does, in turn.
    fn random(random: &mut Random) -> Machine {
        let mut places = Vec::new();
        let (mut node, mut l3) = (0, 0);
        for package in 0..=random.below(2) {
            for _ in 0..=random.below(2) {
                for _ in 0..=random.below(3) {
                    places.extend((0..=random.below(4)).map(|_| (package, node, l3)));
                    l3 += 1;
                }
                node += 1;
            }
        }
        places.truncate(12);
        if random.below(2) == 0 {
            places.sort_by_key(|(_, node, l3)| (l3 % 2, *node));
        }
        let n_cores = u32::try_from(places.len()).unwrap();
        let is_hybrid = random.below(4) == 0;
        let n_fast = if is_hybrid { 1 + random.below(n_cores) } else { n_cores };
        let groups = |of: fn(&(u32, u32, u32)) -> u32| {
            let keys: BTreeSet<u32> = places.iter().map(of).collect();
            let mask = |key: u32| {
                let bits = places.iter().enumerate().filter(|(_, place)| of(place) == key);
                bits.fold(0, |mask, (idx, _)| mask | 1 << idx)
            };
            keys.into_iter().map(mask).collect::<Vec<Mask>>()
        };
        let cores = places.iter().zip(0..).map(|(&(package, node, l3), number)| Core {
            cpus: CpuSet::from(cpu(number)).union(&cpu(number + 12).into()),
            package,
            die: 0,
            node: Some(node),
            l3: cpu(l3),
            kind: if number < n_fast { Kind::Performance } else { Kind::Efficient },
        });
        let cores: Vec<Core> = cores.collect();
        let online = cores.iter().map(|core| core.cpus.clone()).reduce(|one, other| one.union(&other));
        Machine {
            topology: Topology::of_cores(online.unwrap(), vec![], cores),
            n_cores,
            efficient: (n_fast..n_cores).fold(0, |mask, core| mask | 1 << core),
            packages: groups(|place| place.0),
            nodes: groups(|place| place.1),
            l3s: groups(|place| place.2),
        }
    }

    fn run(&self, random: &mut Random, chooser: Chooser, mut each: impl FnMut(Cost, Cost)) {
        let all = (0..self.n_cores).fold(0, |mask: Mask, core| mask | 1 << core);
        let (mut free, mut held, mut taken) = (all, 0, Vec::new());
        for _ in 0..N_STEPS {
            if free == 0 || (!taken.is_empty() && random.below(3) == 0) {
                let which = random.below(u32::try_from(taken.len()).unwrap());
                let released: Mask = taken.swap_remove(which as usize);
                free |= released;
                // Its container still ends, sometimes.
                held = if random.below(4) == 0 { released } else { 0 };
                continue;
            }
            let n_cores = 1 + random.below(free.count_ones().min(6));
            let must = if random.below(8) == 0 { 1 << free.trailing_zeros() } else { 0 };
            let chosen = match chooser {
                Chooser::Allocator => self.ask(free, held, must, n_cores as usize),
                Chooser::LowestNumbers => lowest(free, n_cores),
            };
            let answers = |one: Mask| one & !free == 0 && must & !one == 0 && one.count_ones() == n_cores;
            assert!(answers(chosen), "{chosen:b} of {free:b} with {must:b}");
            let costs = (1..=all).filter(|one| answers(*one)).map(|one| self.cost(one, free, held));
            each(self.cost(chosen, free, held), costs.min().unwrap());
            free &= !chosen;
            taken.push(chosen);
        }
    }

    fn ask(&self, free: Mask, held: Mask, must: Mask, n_cores: usize) -> Mask {
        // Of a held core its second thread may be all that is still in use.
        let held = ids(held).map(|core| cpu(core + 12)).collect();
        let free = Free { cores: ids(free).map(cpu).collect(), held, topology: &self.topology };
        let chosen = free.choose(&ids(must).map(cpu).collect(), n_cores);
        chosen.into_iter().fold(0, |mask, core| mask | 1 << core.number())
    }

    fn cost(&self, chosen: Mask, free: Mask, held: Mask) -> Cost {
        let touched = |groups: &[Mask]| groups.iter().map(|group| u32::from(group & chosen != 0)).sum();
        let square = |mask: Mask| mask.count_ones().pow(2);
        let lost = |group: &Mask| square(group & free) - square(group & free & !chosen);
        let holes = |groups: &[Mask]| groups.iter().map(lost).sum();
        Cost {
            held: (chosen & held).count_ones(),
            efficient: (chosen & self.efficient).count_ones(),
            nodes: touched(&self.nodes),
            l3s: touched(&self.l3s),
            packages: touched(&self.packages),
            holes: [holes(&self.nodes), holes(&self.l3s), holes(&self.packages)],
        }
    }
}

/// What must be in it is the lowest that is free.
fn lowest(free: Mask, n_cores: u32) -> Mask {
    ids(free).take(n_cores as usize).fold(0, |mask, core| mask | 1 << core)
}

fn ids(mask: Mask) -> impl Iterator<Item = u32> {
    (0..Mask::BITS).filter(move |bit| mask >> bit & 1 == 1)
}

fn cpu(number: u32) -> CpuId {
    CpuId::new(number).unwrap()
}
