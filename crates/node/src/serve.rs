//! `lev-node serve`: listen, let in who proves the secret, work until the head says goodbye or is lost.

use crate::control_server::{Arrived, ControlServer, Place};
use crate::{events, vcpu_thread};
use lev_mesh::peers::{spawn, spawn_first};
use lev_mesh::pulse::{Pulse, BEAT};
use lev_transport::{Channel, Credentials, Listener, Purpose, TransportError};
use lev_wire::cluster::Encrypt;
use lev_wire::frame::Header;
use lev_wire::NodeId;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::sync::mpsc::{sync_channel, SyncSender};
use std::sync::Arc;
use std::time::Duration;

/// Exit code of a worker that lost its head.
const LOST: i32 = 123;
/// Requests that may wait. The head asks for one at a time and for each clock, so more are never there.
const REQUESTS: usize = 64;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// How long a channel waits for the head's description of the VM.
const CONFIGURE_LIMIT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct SecretFile {
    run_id: String,
    secret: String,
    node: u16,
    #[serde(default)]
    encrypt: Encrypt,
}

/// Runs the worker.
pub fn run(listen: &str, secret_file: &Path, name: &str, trace: Option<PathBuf>) -> ExitCode {
    match start(listen, secret_file, name, trace) {
        Ok(()) => ExitCode::SUCCESS,
        Err((message, hint)) => {
            events::error(&message, hint);
            eprintln!("lev-node: {message}");
            if let Some(hint) = hint {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(125)
        }
    }
}

type Failure = (String, Option<&'static str>);

fn start(
    listen: &str,
    secret_file: &Path,
    name: &str,
    trace: Option<PathBuf>,
) -> Result<(), Failure> {
    let credentials = Arc::new(read_secret(secret_file)?);
    // SAFETY: a signal disposition; a peer that has gone must be an error, not the end of the worker.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    lev_vcpu::kick::install().map_err(|error| (format!("signal handler: {error}"), None))?;
    let listener = Listener::bind(listen)
        .map_err(|error| (format!("cannot listen on {listen}: {error}"), error.hint()))?;
    events::emit(&serde_json::json!({
        "event": "listening",
        "address": listener.local_address().to_string(),
        "name": name,
        "pid": process::id(),
    }));
    let place = Arc::new(Place::new(trace));
    loop {
        match listener.accept(&credentials, HANDSHAKE_LIMIT) {
            Ok(accepted) => {
                let (place, credentials) = (Arc::clone(&place), Arc::clone(&credentials));
                let (from, purpose) = (accepted.from, accepted.purpose);
                let channel = accepted.channel;
                let result = spawn(&thread_name(purpose, from), move || {
                    admit(&place, &credentials, from, purpose, channel);
                });
                if let Err(message) = result {
                    return Err((message, None));
                }
            }
            Err(TransportError::Timeout { .. }) => {}
            Err(error) => events::log(&format!("refused: {error}")),
        }
    }
}

fn thread_name(purpose: Purpose, from: NodeId) -> String {
    match purpose {
        Purpose::Vcpu(vcpu) => format!("lev-vcpu-{vcpu}"),
        _ => format!("lev-in-{}", from.0),
    }
}

fn read_secret(path: &Path) -> Result<Credentials, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| (format!("secret file {}: {error}", path.display()), None))?;
    let bad = |what: &str| (format!("secret file {}: {what}", path.display()), None);
    let file: SecretFile = serde_json::from_str(&text).map_err(|error| bad(&error.to_string()))?;
    Ok(Credentials {
        run_id: hex(&file.run_id).ok_or_else(|| bad("run_id must be 32 hexadecimal digits"))?,
        secret: hex(&file.secret).ok_or_else(|| bad("secret must be 64 hexadecimal digits"))?,
        me: NodeId(file.node),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        encrypt: file.encrypt,
    })
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(out)
}

/// Serves one channel of a peer that has proved the secret.
fn admit(
    place: &Arc<Place>,
    credentials: &Arc<Credentials>,
    from: NodeId,
    purpose: Purpose,
    channel: Channel,
) {
    if let Purpose::Control = purpose {
        if from == NodeId::HEAD {
            serve_control(place, credentials, channel);
        }
        return;
    }
    let Some(worker) = place.wait(CONFIGURE_LIMIT) else {
        events::log(&format!("{from}: channel before any description of the VM"));
        return;
    };
    match purpose {
        Purpose::Vcpu(number) => {
            let Some(vcpu) = worker.fabric.local(number).cloned() else {
                events::log(&format!(
                    "{from}: channel for vCPU {number}, which is not here"
                ));
                return;
            };
            let reason = vcpu_thread::serve(&worker, &vcpu, channel);
            worker
                .peers
                .lost(NodeId::HEAD, format!("vCPU {number}: {reason}").into());
        }
        _ => {
            if let Err(what) = worker.peers.attach(channel) {
                events::log(&format!("{from}: {what}"));
            }
        }
    }
}

fn serve_control(place: &Arc<Place>, credentials: &Arc<Credentials>, channel: Channel) {
    let (sender, mut receiver) = channel.split();
    let pulse = Arc::new(Pulse::default());
    let server = Arc::new(ControlServer {
        place: Arc::clone(place),
        credentials: Arc::clone(credentials),
        sender,
        pulse: Arc::clone(&pulse),
    });
    let requests = match perform_requests(&server) {
        Ok(requests) => requests,
        Err(message) => end(&message),
    };
    let _ = spawn_first("lev-watch", move || loop {
        std::thread::sleep(BEAT);
        if let Some(silence) = pulse.beat() {
            end(&format!(
                "the head has been silent for {:.1} s",
                silence.as_secs_f64()
            ));
        }
    });
    // As the watch does, which counts what is not heard here.
    lev_dsm::threads::serve_first();
    let reason = loop {
        match receiver.recv() {
            Ok((header, payload)) => match server.on_frame(&header) {
                Ok(Arrived::Answered) => {}
                // Its receiver ends with the process only.
                Ok(Arrived::Request) => drop(requests.send((header, payload.to_vec()))),
                Err(reason) => break reason,
            },
            Err(error) => break error.to_string(),
        }
    };
    end(&format!("the head is gone: {reason}"));
}

/// The thread that performs the head's requests, one after another.
fn perform_requests(server: &Arc<ControlServer>) -> Result<SyncSender<(Header, Vec<u8>)>, String> {
    let (requests, received) = sync_channel::<(Header, Vec<u8>)>(REQUESTS);
    let server = Arc::clone(server);
    spawn("lev-requests", move || {
        for (header, payload) in received {
            if let Err(reason) = server.serve(&header, &payload) {
                end(&format!("the head is gone: {reason}"));
            }
        }
    })?;
    Ok(requests)
}

/// A worker without its head has nothing to keep: the guest is one machine, and part of it is lost.
fn end(message: &str) -> ! {
    events::emit(&serde_json::json!({"event": "lost", "node": 0, "message": message}));
    process::exit(LOST);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_of_the_right_length_only() {
        assert_eq!(hex::<2>("0aff"), Some([10, 255]));
        assert_eq!(hex::<2>("0af"), None);
        assert_eq!(hex::<2>("0axf"), None);
    }
}
