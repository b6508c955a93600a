//! The borders, and what is asserted at each.

mod agent;
mod engine;
mod kvm;
mod mesh;
mod protocol;
mod trace;

use crate::{Framing, Seed, Target};
use lev_transport::fuzzing as transport;
use lev_ucx::fuzzing as ucx;
use lev_wire::frame::{Header, HEADER_LEN};

/// Frames between nodes.
const FRAME: Option<Framing> = Some(Framing {
    header: HEADER_LEN,
    at: 4,
});
/// The same behind what UCX has in front of them.
const ENVELOPE: Option<Framing> = Some(Framing {
    header: 32 + HEADER_LEN,
    at: 32 + 4,
});
/// Room for buffers that are the same for every input.
const BUFFERS: usize = 64 << 10;
/// Two receive windows, of which one may grow to a frame's limit.
const WINDOWS: usize = 4 << 20;

const fn target(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Seed>) -> Target {
    Target {
        name,
        run,
        seeds,
        framing: None,
        words: &[],
        memory: BUFFERS,
        rounds: 20_000,
    }
}

pub(crate) fn all() -> Vec<Target> {
    let channel = |name, run, seeds| Target {
        memory: WINDOWS,
        rounds: 800,
        ..target(name, run, seeds)
    };
    let mut all = vec![
        target("wire-header", header, headers),
        Target {
            framing: FRAME,
            rounds: 30_000,
            ..target("dsm-frame", dsm_frame, lev_dsm::fuzzing::frames)
        },
        target("transport-hello", transport::hello, transport::hellos),
        Target {
            framing: FRAME,
            ..channel(
                "transport-plain",
                transport::plain_stream,
                transport::plain_streams,
            )
        },
        channel(
            "transport-sealed",
            transport::sealed_stream,
            transport::sealed_streams,
        ),
        channel("transport-accept", transport::accept, transport::strangers),
        channel(
            "transport-initiate",
            transport::initiate,
            transport::acceptors,
        ),
        Target {
            framing: ENVELOPE,
            ..target("ucx-message", ucx::message, ucx::messages)
        },
        target("ucx-order", ucx::arrivals, ucx::orders),
    ];
    all.extend(protocol::all());
    all.extend(engine::all());
    all.extend(mesh::all());
    all.extend(kvm::all());
    all.extend(agent::all());
    all.extend(trace::all());
    all
}

fn header(bytes: &[u8]) {
    if let Some(bytes) = bytes.first_chunk() {
        match Header::decode(bytes) {
            Some(header) => assert_eq!(header.encode(), *bytes),
            None => assert!(Header::announced(bytes) as usize > lev_wire::frame::MAX_PAYLOAD),
        }
    }
}

fn headers() -> Vec<Seed> {
    let header = |kind, len| Header {
        kind,
        tag: 3,
        len,
        arg: 0x7_F000_0000,
    };
    vec![
        ("empty".into(), header(1, 0).encode().to_vec()),
        ("longest".into(), header(2, 1 << 20).encode().to_vec()),
    ]
}

fn dsm_frame(bytes: &[u8]) {
    lev_dsm::fuzzing::frame(bytes);
}
