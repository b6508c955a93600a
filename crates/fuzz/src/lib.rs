//! Fuzzing of everything that a peer or a file can send: one target for each border, seeds made from real frames, and a
//! mutator that knows where frames keep their length.
//!
//! Each target reads its input as production does and asserts: no panic; what is accepted encodes to the same bytes
//! again; nothing is remembered or allocated because of a number that was not checked ([`Target::memory`], measured by
//! the bounded run). The bounded run (`cargo test -p lev-fuzz`) replays the corpus and then a fixed number of mutations
//! from fixed seeds; `make fuzz` runs the same targets under libFuzzer, guided by coverage, for as long as one likes.
#![deny(unsafe_code)]

mod mutator;
mod targets;

pub use mutator::{Mutator, Rng};

/// An input by name: the file in the corpus is called so.
pub type Seed = (String, Vec<u8>);

/// Where frames of a target keep the length of their payload: little-endian, 32 bits.
#[derive(Clone, Copy, Debug)]
pub struct Framing {
    /// Bytes before the payload.
    pub header: usize,
    /// Where the length stands.
    pub at: usize,
}

/// One border.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name: that of its folder in the corpus.
    pub name: &'static str,
    /// Reads one input.
    pub run: fn(&[u8]),
    /// Inputs that production makes.
    pub seeds: fn() -> Vec<Seed>,
    /// Frames with a length, if the input is one.
    pub framing: Option<Framing>,
    /// Bytes that are worth trying.
    pub words: &'static [&'static [u8]],
    /// Bytes of memory that may be in use at once while an input is read, beside [`PER_BYTE`] for each of its own.
    pub memory: usize,
    /// Mutations in the bounded run.
    pub rounds: u32,
}

/// Bytes of memory that a byte of input may take.
pub const PER_BYTE: usize = 64;

/// All targets.
#[must_use]
pub fn targets() -> Vec<Target> {
    targets::all()
}

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    targets().into_iter().find(|target| target.name == name)
}

/// The folder of a target's corpus.
#[must_use]
pub fn corpus(target: &Target) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name)
}

/// The corpus of a target, sorted by name.
///
/// # Errors
/// The folder cannot be read.
pub fn read_corpus(target: &Target) -> std::io::Result<Vec<Seed>> {
    let mut inputs = Vec::new();
    for entry in std::fs::read_dir(corpus(target))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        inputs.push((name.to_string_lossy().into_owned(), std::fs::read(&path)?));
    }
    inputs.sort();
    Ok(inputs)
}
