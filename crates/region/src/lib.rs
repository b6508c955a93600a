//! One run of memory that several processes, on one machine or many, share coherently: the engine of guest memory
//! without a guest.
//!
//! Every process makes a [`Seat`], hands its address round, and calls [`Seat::join`] with the same cluster
//! description; the [`Region`] that it gets is ordinary memory, in which a page fault now and then fetches a page from
//! another process. [`Region::barrier`] lets all of them meet.
//!
//! A process that is lost takes pages with it. Then memory of the region must not be read any more, by anybody: it
//! becomes inaccessible (touching it is a segmentation fault, never a wrong number) and every call fails with the
//! name of the lost node.

mod error;
mod members;
mod memory;
mod message;
mod pages;
mod region;
mod seat;

pub use error::RegionError;
pub use region::Region;
pub use seat::{Seat, Shape};
