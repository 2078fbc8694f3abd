//! The cluster that a test runs against: whichever KUBECONFIG names.

/// Names the testbed's cluster that KUBECONFIG leads to; unset for any other cluster.
pub const NAME_VARIABLE: &str = "QUIETCORE_TESTBED";
/// `podman` or `docker`: what runs that cluster's nodes.
pub const ENGINE_VARIABLE: &str = "QUIETCORE_ENGINE";
