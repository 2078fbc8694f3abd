//! Wiring: builds the steps, starts their tasks, stops them in reverse order.

pub mod http;
