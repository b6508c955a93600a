//! Control channels: the head asks, the worker answers; the head's beat finds a worker that no longer does.

use crate::error::MeshError;
use crate::message::{control as kind, Event};
use crate::peers::spawn_first;
use crate::pulse::Pulse;
use lev_transport::{Channel, Sender};
use lev_wire::NodeId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Longest time for any answer.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// An answer: errno or 0, payload, and when it arrived (host TSC).
#[derive(Debug)]
pub struct Answer {
    /// Payload.
    pub payload: Vec<u8>,
    /// Host TSC when the answer was read.
    pub arrived_tsc: u64,
}

/// The head's end of one worker's control channel.
pub struct ControlClient {
    /// The worker.
    pub node: NodeId,
    sender: Sender,
    sequence: AtomicU64,
    answers: Mutex<HashMap<u64, (u16, Answer)>>,
    changed: Condvar,
    pulse: Pulse,
}

impl ControlClient {
    /// Takes over a control channel; `on_event` gets what the worker says by itself, `on_end` the reason why the
    /// channel ended.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start(
        channel: Channel,
        on_event: impl Fn(NodeId, Event) + Send + 'static,
        on_end: impl FnOnce(NodeId, String) + Send + 'static,
    ) -> Result<Arc<Self>, String> {
        let node = channel.peer();
        let (sender, mut receiver) = channel.split();
        let client = Arc::new(Self {
            node,
            sender,
            sequence: AtomicU64::new(1),
            answers: Mutex::new(HashMap::new()),
            changed: Condvar::new(),
            pulse: Pulse::default(),
        });
        let this = Arc::clone(&client);
        // First, as the beat that counts its silence: else a busy machine counts and does not listen.
        spawn_first(&format!("lev-ctl-{}", node.0), move || {
            let reason = loop {
                match receiver.recv() {
                    Ok((header, payload)) => {
                        let arrived_tsc = lev_vcpu::clock::host_tsc();
                        this.pulse.heard();
                        match header.kind {
                            kind::REPLY => this.answered(
                                header.arg,
                                header.tag,
                                Answer {
                                    payload: payload.to_vec(),
                                    arrived_tsc,
                                },
                            ),
                            kind::EVENT => match serde_json::from_slice(payload) {
                                Ok(event) => on_event(node, event),
                                Err(error) => break format!("bad event: {error}"),
                            },
                            other => break format!("control frame of kind {other}"),
                        }
                    }
                    Err(error) => break error.to_string(),
                }
            };
            on_end(node, reason);
        })?;
        Ok(client)
    }

    fn answered(&self, number: u64, status: u16, answer: Answer) {
        // Number 0: a beat, nobody waits.
        if number != 0 {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.insert(number, (status, answer));
            drop(answers);
            self.changed.notify_all();
        }
    }

    /// Sends a beat; the length of the silence if the worker is lost.
    pub fn beat(&self) -> Option<Duration> {
        let _ = self.sender.send(kind::PING, 0, 0, &[]);
        self.pulse.beat()
    }

    /// Sends a message that has no answer.
    pub fn tell(&self, kind: u16) {
        let _ = self.sender.send(kind, 0, 0, &[]);
    }

    /// Sends a request; its number goes to [`Self::finish`].
    ///
    /// # Errors
    /// The channel is gone.
    pub fn begin(&self, kind: u16, tag: u16, parts: &[&[u8]]) -> Result<u64, MeshError> {
        let number = self.sequence.fetch_add(1, Ordering::Relaxed);
        self.sender.send(kind, tag, number, parts)?;
        Ok(number)
    }

    /// Waits for the answer to a request.
    ///
    /// # Errors
    /// The worker refused or did not answer in time.
    pub fn finish(&self, kind: u16, number: u64) -> Result<Answer, MeshError> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut answers, _) = self
            .changed
            .wait_timeout_while(answers, ANSWER_LIMIT, |answers| {
                !answers.contains_key(&number)
            })
            .unwrap_or_else(PoisonError::into_inner);
        match answers.remove(&number) {
            Some((0, answer)) => Ok(answer),
            Some((errno, answer)) => Err(MeshError::Refused {
                node: self.node,
                errno: i32::from(errno),
                message: String::from_utf8_lossy(&answer.payload).into_owned(),
            }),
            None => Err(MeshError::Silent {
                node: self.node,
                request: kind,
                seconds: ANSWER_LIMIT.as_secs(),
            }),
        }
    }

    /// Asks and waits.
    ///
    /// # Errors
    /// See [`Self::finish`].
    pub fn ask(&self, kind: u16, tag: u16, parts: &[&[u8]]) -> Result<Answer, MeshError> {
        let number = self.begin(kind, tag, parts)?;
        self.finish(kind, number)
    }
}

/// Asks every worker at once and waits for all answers.
///
/// # Errors
/// The first refusal; the others have been asked all the same.
pub fn ask_all(
    clients: &[Arc<ControlClient>],
    kind: u16,
    tag: u16,
    parts: &[&[u8]],
) -> Result<Vec<Answer>, MeshError> {
    let numbers: Vec<_> = clients
        .iter()
        .map(|client| client.begin(kind, tag, parts))
        .collect();
    let answers: Vec<_> = clients
        .iter()
        .zip(numbers)
        .map(|(client, number)| client.finish(kind, number?))
        .collect();
    answers.into_iter().collect()
}
