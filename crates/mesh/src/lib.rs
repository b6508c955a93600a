//! The channels of one node to its peers: interrupts and pages between all pairs, control between the head and each worker,
//! one channel for each vCPU that QEMU drives on another node. The same code serves the facade and the worker.

pub mod control;
pub mod drift;
pub mod error;
pub mod hints;
pub mod host;
pub mod interrupts;
pub mod loss;
pub mod message;
pub mod pages;
pub mod peers;
pub mod pulse;
pub mod report;
pub mod run_frame;
pub mod trace;
pub mod vm_frame;

pub use error::MeshError;
pub use loss::Loss;
pub use peers::Peers;
