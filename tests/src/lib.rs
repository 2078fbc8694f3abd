//! The testbed: a real Kubernetes cluster on one machine, and the verbs that tests act on it with.
//!
//! It never links the plugin: what it knows of the product is what a user knows, the chart, the CRD
//! and the names in the README.
//!
//! ```text
//!  testbed run -- cargo test          a test
//!   │ cluster: node image, kind        │ Testbed::from_env: any cluster that KUBECONFIG names
//!   │ interrupt, logs: always down     │ kube, pod, node, agent, chart: verbs
//!   └─ engine: podman or docker        └─ node: how to be root on a node of that cluster
//! ```

// what a test calls
pub mod agent;
pub mod api_server;
pub mod chart;
pub mod image;
pub mod kube;
pub mod lab;
pub mod node;
pub mod pod;
pub mod product;
pub mod testbed;
pub mod wait;

// how a cluster comes and goes
pub mod cache;
pub mod cluster;
pub mod components;
pub mod engine;
pub mod leftovers;
pub mod logs;
pub mod network;
pub mod node_image;
pub mod packages;

// how any of it runs a program
pub mod command;
pub mod interrupt;
pub mod progress;
