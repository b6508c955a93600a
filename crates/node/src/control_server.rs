//! The worker's end of the control channel: beats and clocks are answered where they arrive, all else by a thread of its
//! own. A request may take seconds on a busy machine (a memory slot, a dirty log), and must not look like silence.

use crate::events;
use crate::worker::{Refusal, Worker};
use lev_mesh::message::{control as kind, Configure, Configured, DoorbellMessage, Event};
use lev_mesh::pulse::Pulse;
use lev_mesh::report;
use lev_mesh::vm_frame;
use lev_mesh::Loss;
use lev_transport::{connect, Credentials, Purpose, Sender};
use lev_vcpu::clock::host_tsc;
use lev_wire::frame::Header;
use lev_wire::NodeId;
use std::path::PathBuf;
use std::process;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

const JOIN_LIMIT: Duration = Duration::from_secs(20);

/// The worker's VM, once the head has described it; channels that come earlier wait for it.
#[derive(Default)]
pub struct Place {
    trace: Option<PathBuf>,
    worker: Mutex<Option<Arc<Worker>>>,
    changed: Condvar,
}

impl Place {
    /// For a VM whose trace of guest memory goes to `trace`, if anywhere.
    pub fn new(trace: Option<PathBuf>) -> Self {
        Self {
            trace,
            ..Self::default()
        }
    }

    fn set(&self, worker: Arc<Worker>) {
        *self.worker.lock().unwrap_or_else(PoisonError::into_inner) = Some(worker);
        self.changed.notify_all();
    }

    /// The VM, if it is there within `limit`.
    pub fn wait(&self, limit: Duration) -> Option<Arc<Worker>> {
        let guard = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) = self
            .changed
            .wait_timeout_while(guard, limit, |worker| worker.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        guard.clone()
    }
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// Nothing is left to do.
    Answered,
    /// A request, which may take its time.
    Request,
}

/// Answers the head's requests.
pub struct ControlServer {
    /// Where the VM is put.
    pub place: Arc<Place>,
    /// For the channels to other workers.
    pub credentials: Arc<Credentials>,
    /// To the head.
    pub sender: Sender,
    /// Whether the head lives; its beats tell.
    pub pulse: Arc<Pulse>,
}

impl ControlServer {
    /// Notes what has arrived, and answers what cannot wait. What can is the caller's, for [`Self::serve`].
    ///
    /// # Errors
    /// The channel to the head is gone.
    pub fn on_frame(&self, header: &Header) -> Result<Arrived, String> {
        match header.kind {
            kind::PING => {
                self.pulse.heard();
                self.reply(header.arg, 0, &[])?;
            }
            // The time between the head's two readings is the error of the clock.
            kind::CLOCK_SAMPLE => {
                let now = host_tsc();
                self.pulse.heard_aside();
                let worker = self.place.wait(Duration::ZERO);
                let now = worker.map_or(now, |worker| worker.rate.apply(now));
                self.reply(header.arg, 0, &now.to_le_bytes())?;
            }
            _ => {
                self.pulse.heard_aside();
                return Ok(Arrived::Request);
            }
        }
        Ok(Arrived::Answered)
    }

    /// Performs one request and answers it.
    ///
    /// # Errors
    /// The channel to the head is gone.
    pub fn serve(&self, header: &Header, payload: &[u8]) -> Result<(), String> {
        match self.perform(header, payload) {
            Ok(answer) => self.reply(header.arg, 0, &answer),
            Err(refusal) => self.reply(header.arg, refusal.errno, refusal.message.as_bytes()),
        }
    }

    fn reply(&self, number: u64, errno: i32, payload: &[u8]) -> Result<(), String> {
        self.sender
            .send(kind::REPLY, errno as u16, number, &[payload])
            .map_err(|error| error.to_string())
    }

    fn perform(&self, header: &Header, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        match header.kind {
            kind::GOODBYE => self.leave(),
            kind::CONFIGURE => return self.configure(payload),
            _ => {}
        }
        let worker = self
            .place
            .wait(Duration::ZERO)
            .ok_or_else(|| Refusal::because(libc::EINVAL, "the worker has not been configured"))?;
        match header.kind {
            kind::JOIN => self.join(&worker)?,
            kind::CREATE_VCPU => worker.create_vcpu(u32::from(header.tag))?,
            kind::SEGMENT => worker.add_segment(&parse(payload)?)?,
            kind::SLOT => {
                let region = vm_frame::decode_slot(payload)
                    .ok_or_else(|| Refusal::because(libc::EINVAL, "bad memory slot"))?;
                worker.set_slot(region)?
            }
            kind::VM_CALL => worker.vm_call(payload)?,
            kind::MSR_FILTER => worker.msr_filter(payload)?,
            kind::DIRTY_LOG => {
                let slot = payload
                    .first_chunk::<4>()
                    .ok_or_else(|| Refusal::because(libc::EINVAL, "bad request for a dirty log"))?;
                return worker.dirty_log(u32::from_le_bytes(*slot));
            }
            kind::CLEAR_DIRTY_LOG => worker.clear_dirty_log(payload)?,
            kind::DOORBELLS => {
                let bells: Vec<DoorbellMessage> = parse(payload)?;
                worker
                    .fabric
                    .set_doorbells(bells.into_iter().map(Into::into).collect());
            }
            kind::SET_CLOCK => {
                let offset = payload
                    .first_chunk::<8>()
                    .ok_or_else(|| Refusal::because(libc::EINVAL, "bad clock"))?;
                if !worker.fabric.set_clock(u64::from_le_bytes(*offset)) {
                    let message = "the guest's clock would go back";
                    return Err(Refusal::because(libc::EINVAL, message));
                }
            }
            kind::REPORT => return Ok(report_of(&worker)),
            kind::TRACE => {
                let path = self.place.trace.as_deref();
                return lev_mesh::trace::serve(&worker.engine, path, header.tag, payload)
                    .map_err(|message| Refusal::because(libc::EINVAL, message));
            }
            other => {
                return Err(Refusal::because(
                    libc::EINVAL,
                    format!("unknown control request {other}"),
                ));
            }
        }
        Ok(Vec::new())
    }

    fn configure(&self, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        let configure: Configure = parse(payload)?;
        if configure.node.index() >= configure.cluster.nodes.len() {
            return Err(Refusal::because(
                libc::EINVAL,
                format!("{} is not in the cluster", configure.node),
            ));
        }
        if self.place.wait(Duration::ZERO).is_some() {
            return Err(Refusal::because(
                libc::EBUSY,
                "the worker already serves a VM",
            ));
        }
        let sender = self.sender.clone();
        let on_lost = Box::new(move |node: NodeId, loss: Loss| {
            events::emit(
                &serde_json::json!({"event": "lost", "node": node.0, "message": loss.reason}),
            );
            tell(&sender, &Event::NodeLost { node, loss });
        });
        let sender = self.sender.clone();
        let on_fatal = Box::new(move |error: lev_dsm::DsmError| {
            events::error(&error.to_string(), None);
            tell(
                &sender,
                &Event::Failed {
                    message: error.to_string(),
                },
            );
        });
        let worker = Worker::new(configure, on_lost, on_fatal)?;
        let sender = self.sender.clone();
        worker
            .engine
            .on_room(move |event| tell(&sender, &event.into()));
        let configured = Configured {
            memory_available: memory_available(),
            pid: process::id(),
        };
        self.place.set(Arc::new(worker));
        Ok(serde_json::to_vec(&configured).unwrap_or_default())
    }

    /// Connects to the workers with higher numbers; the others connect to this one.
    fn join(&self, worker: &Arc<Worker>) -> Result<(), Refusal> {
        let me = worker.configure.node;
        for (index, node) in worker
            .configure
            .cluster
            .nodes
            .iter()
            .enumerate()
            .skip(me.index() + 1)
        {
            let to = NodeId(index as u16);
            let address = node
                .address
                .as_deref()
                .ok_or_else(|| Refusal::because(libc::EINVAL, format!("{to} has no address")))?;
            for purpose in [Purpose::Interrupt, Purpose::Page] {
                let channel = connect(address, to, purpose, &self.credentials, JOIN_LIMIT)
                    .map_err(|error| Refusal::because(libc::ECONNREFUSED, error.to_string()))?;
                worker
                    .peers
                    .attach(channel)
                    .map_err(|what| Refusal::because(libc::EPROTO, what))?;
            }
        }
        let missing = worker.peers.wait_all(JOIN_LIMIT);
        if missing.is_empty() {
            let beats = worker.peers.beat();
            beats.map_err(|what| Refusal::because(libc::EAGAIN, what))
        } else {
            let names: Vec<_> = missing.iter().map(NodeId::to_string).collect();
            Err(Refusal::because(
                libc::ETIMEDOUT,
                format!("no connection from {}", names.join(", ")),
            ))
        }
    }

    fn leave(&self) -> ! {
        if let Some(worker) = self.place.wait(Duration::ZERO) {
            worker.peers.close();
        }
        events::emit(&serde_json::json!({"event": "goodbye"}));
        process::exit(0);
    }
}

fn tell(sender: &Sender, event: &Event) {
    if let Ok(bytes) = serde_json::to_vec(event) {
        let _ = sender.send(kind::EVENT, 0, 0, &[&bytes]);
    }
}

fn parse<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(payload)
        .map_err(|error| Refusal::because(libc::EINVAL, format!("bad control message: {error}")))
}

fn report_of(worker: &Worker) -> Vec<u8> {
    let node = worker.configure.node;
    let name = &worker.configure.cluster.nodes[node.index()].name;
    let report = report::collect(
        node.0,
        name,
        &worker.fabric,
        Some(&worker.engine),
        Some(&worker.peers.interrupts),
    );
    serde_json::to_vec(&report).unwrap_or_default()
}

fn memory_available() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| {
            rest.trim()
                .trim_end_matches(" kB")
                .trim()
                .parse::<u64>()
                .ok()
        })
        .map_or(0, |kib| kib * 1024)
}
