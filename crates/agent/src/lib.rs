//! What the control plane and the agent inside a lab machine say to each other: frames, and calls and replies in them.

pub mod frame;
pub mod message;
