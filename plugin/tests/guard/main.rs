//! Steps 5 to 7 on this machine's kernel: the real shim, the real guard, and a program that behaves or does
//! not. Needs root, a bpffs and CPU 1; `make integration` runs it.

mod stand;
mod workload;
mod counts;
mod oracle;
mod signals;
mod arming;
mod leaving;
mod agent;
