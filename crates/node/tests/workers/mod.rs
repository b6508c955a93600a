//! Two workers as a head starts them: described, joined, without any vCPU.
#![allow(dead_code)] // Each test binary uses its part.

use lev_mesh::control::ControlClient;
use lev_mesh::message::{control, Configure, Event};
use lev_mesh::pulse::BEAT;
use lev_transport::{connect, Channel, Credentials, Encrypt, Purpose};
use lev_wire::cluster::{Cluster, EngineOptions, Node};
use lev_wire::NodeId;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
const RUN_ID: &str = "07070707070707070707070707070707";
const SECRET: &str = "2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a";

/// The workers' processes and the head's channels to them.
pub struct Workers {
    processes: Vec<Child>,
    clients: Vec<Arc<ControlClient>>,
    events: Receiver<(NodeId, Event)>,
    /// Channels that a head keeps open.
    _channels: Vec<Channel>,
}

impl Workers {
    /// Starts workers 1 and 2. Worker 1 reaches worker 2 at what `seen_by_1` makes of its address. `None`: this machine
    /// lacks what a worker needs.
    pub fn start(seen_by_1: impl Fn(&str) -> String) -> Option<Self> {
        let started: Vec<_> = [1, 2].map(start_one).into();
        let (processes, addresses): (Vec<_>, Vec<_>) = started.into_iter().unzip();
        let credentials = Credentials {
            run_id: [7; 16],
            secret: [0x2a; 32],
            me: NodeId::HEAD,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            encrypt: Encrypt::Auto,
        };
        let (sender, events) = channel();
        let open = |node: u16, purpose| {
            let address = &addresses[usize::from(node) - 1];
            connect(address, NodeId(node), purpose, &credentials, PATIENCE).unwrap()
        };
        let clients = [1, 2].map(|node| {
            let sender = sender.clone();
            let on_event = move |from, event| drop(sender.send((from, event)));
            ControlClient::start(open(node, Purpose::Control), on_event, |_, _| ()).unwrap()
        });
        let mut workers = Self {
            processes,
            clients: clients.into(),
            events,
            _channels: Vec::new(),
        };
        let tsc_khz = tsc_khz()?;
        for client in &workers.clients {
            let cluster = describe([addresses[0].clone(), seen_by_1(&addresses[1])]);
            let configure = Configure {
                cluster,
                node: client.node,
                pool_path: None,
                tsc_khz,
            };
            let bytes = serde_json::to_vec(&configure).unwrap();
            if let Err(error) = client.ask(control::CONFIGURE, 0, &[&bytes]) {
                println!("skipped: {error}");
                return None;
            }
        }
        for node in [1, 2] {
            for purpose in [Purpose::Interrupt, Purpose::Page] {
                workers._channels.push(open(node, purpose));
            }
        }
        let asked = workers.clients.iter().map(|client| {
            let number = client.begin(control::JOIN, 0, &[]).unwrap();
            (client, number)
        });
        for (client, number) in asked.collect::<Vec<_>>() {
            client.finish(control::JOIN, number).unwrap();
        }
        Some(workers)
    }

    fn signal(&self, node: u16, number: i32) {
        let pid = self.processes[usize::from(node) - 1].id() as i32;
        // SAFETY: numbers only; a child that has not been waited for keeps its id.
        assert_eq!(unsafe { libc::kill(pid, number) }, 0);
    }

    /// Asks a worker to connect to the others once more; nobody waits for the answer.
    pub fn ask_to_join(&self, node: u16) {
        let client = &self.clients[usize::from(node) - 1];
        client.begin(control::JOIN, 0, &[]).unwrap();
    }

    /// Stops a worker as a debugger does.
    pub fn stop(&self, node: u16) {
        self.signal(node, libc::SIGSTOP);
    }

    /// How often the worker's threads went to sleep by themselves so far.
    pub fn wake_ups(&self, node: u16) -> u64 {
        let pid = self.processes[usize::from(node) - 1].id();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let count = |task: std::io::Result<std::fs::DirEntry>| -> u64 {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let field = |line: &str| {
                Some(
                    line.strip_prefix("voluntary_ctxt_switches:")?
                        .trim()
                        .parse()
                        .unwrap(),
                )
            };
            status.lines().find_map(field).unwrap()
        };
        tasks.map(count).sum()
    }

    /// Beats like a head for so long; everybody lives.
    pub fn keep_beating(&self, time: Duration) {
        let told = self.beat_until(time, |node, _| panic!("{node} is silent"));
        assert!(told.is_none(), "{told:?}");
    }

    /// Beats like a head until a worker says something, or for `limit`. `silent`: the head itself misses a worker.
    pub fn beat_until(
        &self,
        limit: Duration,
        mut silent: impl FnMut(NodeId, Duration),
    ) -> Option<(NodeId, Event, Duration)> {
        let start = Instant::now();
        let mut said = None;
        let mut next_beat = start;
        while start.elapsed() < limit {
            for client in &self.clients {
                if let Some(silence) = client.beat() {
                    silent(client.node, silence);
                }
            }
            // A fixed rhythm, as a head keeps it: a worker's word must not put off the next beat.
            next_beat += BEAT;
            while let Ok((from, event)) = {
                let left = next_beat.saturating_duration_since(Instant::now());
                self.events.recv_timeout(left)
            } {
                said.get_or_insert((from, event, start.elapsed()));
            }
        }
        said
    }

    /// The exit code of a worker that ends within `limit`.
    pub fn exit_code(&mut self, node: u16, limit: Duration) -> Option<i32> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            let process = &mut self.processes[usize::from(node) - 1];
            if let Some(status) = process.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The rate of this host's counter, as a head tells it; `None` without KVM.
fn tsc_khz() -> Option<u32> {
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    // SAFETY: CREATE_VM takes a number and gives a new descriptor.
    let vm = device.and_then(|device| unsafe {
        let fd = lev_kvmabi::os::ioctl(device.as_raw_fd(), lev_kvmabi::ioctl::CREATE_VM, 0)?;
        Ok(OwnedFd::from_raw_fd(fd))
    });
    let khz = vm.and_then(|vm| lev_mesh::host::tsc_khz(vm.as_raw_fd()));
    khz.map_err(|error| println!("skipped: {error}")).ok()
}

fn describe(addresses: [String; 2]) -> Cluster {
    let node = |name: &str, address| Node {
        name: name.to_owned(),
        address,
        vcpus: Vec::new(),
    };
    let [first, second] = addresses;
    Cluster {
        schema: 1,
        run_id: RUN_ID.to_owned(),
        secret: String::new(),
        nodes: vec![
            node("head", None),
            node("first", Some(first)),
            node("second", Some(second)),
        ],
        memory: Vec::new(),
        pool: None,
        encrypt: Encrypt::Auto,
        transport: Default::default(),
        engine: EngineOptions::default(),
        events: None,
        report: None,
        kept: Vec::new(),
        trace: None,
    }
}

/// A worker's process and where it listens.
fn start_one(node: u16) -> (Child, String) {
    let path = secret_file(node);
    let mut process = Command::new(env!("CARGO_BIN_EXE_lev-node"))
        .args(["serve", "--listen", "127.0.0.1:0", "--secret-file"])
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    std::fs::remove_file(path).unwrap();
    // What comes later must find a reader.
    std::thread::spawn(move || lines.for_each(drop));
    let event: serde_json::Value = serde_json::from_str(&first).unwrap();
    let address = event["address"].as_str().expect(&first).to_owned();
    (process, address)
}

fn secret_file(node: u16) -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("secret-{}-{count}", std::process::id());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let text = serde_json::json!({"run_id": RUN_ID, "secret": SECRET, "node": node});
    std::fs::write(&path, text.to_string()).unwrap();
    path
}
