//! What only a nohz_full kernel with BPF LSM shows.

use quietcore::{arm::plan::Provider, guard::detector::Detector};

use crate::stand::Stand;

#[test]
fn the_better_detector_and_provider_are_chosen_by_themselves() {
    let stand = Stand::new();
    assert_eq!((stand.guard().detector, stand.guard().provider), (Detector::Edge, Provider::Lsm));
}
