//! Building the machine when QEMU makes its VM.

use crate::entry::kernel;
use crate::fail::{self, die, NOT_STARTED};
use crate::table::{self, Object};
use crate::vm::{self, Shared, Vm};
use crate::{clock, tape, watch};
use lev_dsm::{Engine, EngineConfig, PageLink, PoolMapping};
use lev_kvmabi::ioctl;
use lev_mesh::control::{ask_all, ControlClient};
use lev_mesh::interrupts::{InterruptPeers, Link};
use lev_mesh::message::{control, Configure, Configured};
use lev_mesh::pages::PagePeers;
use lev_mesh::peers::Parts;
use lev_mesh::{host, Peers};
use lev_transport::{connect, Channel, Credentials, Purpose};
use lev_vcpu::Fabric;
use lev_wire::cluster::{Cluster, Pool, Transport};
use lev_wire::NodeId;
use std::fmt::Display;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Longest time to reach a worker.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
fn or_die<T, E: Display>(what: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| die(NOT_STARTED, &format!("{what}: {error}"), None))
}

/// `KVM_CREATE_VM`: a real VM here, and one on every worker.
pub fn create_vm(device: i32, argument: usize) -> Result<i32, i32> {
    // SAFETY: CREATE_VM takes a number.
    let fd = unsafe { kernel(device, ioctl::CREATE_VM, argument)? };
    if !lev_vcpu::x2apic::enable(fd) {
        die(
            NOT_STARTED,
            "this kernel's KVM cannot report invalid MSR accesses",
            Some("Linux 5.10 or newer is needed"),
        );
    }
    let cluster = read_cluster();
    if let Some(path) = &cluster.events {
        or_die(&format!("events file {path}"), fail::open_events(path));
    }
    or_die("signal handler", lev_vcpu::kick::install());
    let credentials = or_die(
        "cluster description",
        Credentials::from_cluster(&cluster, NodeId::HEAD),
    );
    let fabric = Arc::new(Fabric::new(NodeId::HEAD, owners(&cluster)));
    let shared = (cluster.nodes.len() > 1).then(|| join(fd, &cluster, &credentials, &fabric));
    let vm = vm::establish(Vm {
        device,
        fd,
        cluster,
        credentials,
        fabric,
        shared,
        memory: Default::default(),
        routes: Default::default(),
        doorbells: Default::default(),
        irqfds: Default::default(),
        kept: Default::default(),
    });
    if !table::insert(fd, Object::Vm) {
        return Err(libc::EMFILE);
    }
    clock::set(vm);
    tape::start(vm);
    watch::start(vm);
    fail::event(&serde_json::json!({"event": "ready", "nodes": vm.cluster.nodes.len()}));
    Ok(fd)
}

fn read_cluster() -> Cluster {
    let path = std::env::var("LEV_CLUSTER").unwrap_or_default();
    let text = or_die(
        &format!("cluster description {path}"),
        std::fs::read_to_string(&path),
    );
    let cluster: Cluster = or_die(
        &format!("cluster description {path}"),
        serde_json::from_str(&text),
    );
    if cluster.transport != Transport::Tcp {
        let text = format!("cluster description {path}: VMs over nodes use the transport \"tcp\"");
        die(NOT_STARTED, &text, None);
    }
    if cluster.schema != 1 || cluster.nodes.is_empty() {
        die(
            NOT_STARTED,
            &format!("cluster description {path}: schema 1 with at least one node expected"),
            None,
        );
    }
    cluster
}

/// The node of each vCPU.
fn owners(cluster: &Cluster) -> Vec<NodeId> {
    let count = cluster
        .nodes
        .iter()
        .flat_map(|node| &node.vcpus)
        .max()
        .map_or(0, |last| *last as usize + 1);
    let mut owners = vec![None; count];
    for (index, node) in cluster.nodes.iter().enumerate() {
        for vcpu in &node.vcpus {
            if owners[*vcpu as usize]
                .replace(NodeId(index as u16))
                .is_some()
            {
                die(
                    NOT_STARTED,
                    &format!("cluster description: vCPU {vcpu} is on two nodes"),
                    None,
                );
            }
        }
    }
    owners
        .into_iter()
        .map(|owner| owner.unwrap_or(NodeId::HEAD))
        .collect()
}

fn open(cluster: &Cluster, credentials: &Credentials, node: NodeId, purpose: Purpose) -> Channel {
    let description = &cluster.nodes[node.index()];
    let Some(address) = &description.address else {
        die(
            NOT_STARTED,
            &format!(
                "cluster description: node {} has no address",
                description.name
            ),
            None,
        );
    };
    connect(address, node, purpose, credentials, CONNECT_LIMIT).unwrap_or_else(|error| {
        die(
            NOT_STARTED,
            &format!("node {} ({}): {error}", node.0, description.name),
            error.hint(),
        )
    })
}

/// Opens the channel of one vCPU.
pub fn open_vcpu(vm: &Vm, node: NodeId, vcpu: u32) -> Channel {
    open(&vm.cluster, &vm.credentials, node, Purpose::Vcpu(vcpu))
}

fn join(vm_fd: i32, cluster: &Cluster, credentials: &Credentials, fabric: &Arc<Fabric>) -> Shared {
    let nodes = cluster.nodes.len();
    let others = || (1..nodes).map(|index| NodeId(index as u16));
    let names: Arc<Vec<String>> =
        Arc::new(cluster.nodes.iter().map(|node| node.name.clone()).collect());
    let workers: Vec<Arc<ControlClient>> = others()
        .map(|node| {
            let channel = open(cluster, credentials, node, Purpose::Control);
            let (for_event, for_end) = (Arc::clone(&names), Arc::clone(&names));
            or_die(
                "control channel",
                ControlClient::start(
                    channel,
                    move |from, event| watch::on_event(&for_event, from, event),
                    move |node, reason| watch::lost(node, &for_end[node.index()], &reason.into()),
                ),
            )
        })
        .collect();
    let (pool, pool_path) = open_pool(cluster.pool.as_ref());
    configure(vm_fd, cluster, &workers, pool_path.as_deref());

    let interrupts = Arc::new(InterruptPeers::new(NodeId::HEAD, nodes));
    fabric.connect(Box::new(Link(Arc::clone(&interrupts))));
    let pages = Arc::new(PagePeers::new(nodes));
    let config = EngineConfig {
        me: NodeId::HEAD,
        nodes: nodes as u16,
        options: cluster.engine.clone(),
        pool,
        on_fatal: Box::new(|error| die(fail::GUEST_DIED, &error.to_string(), None)),
    };
    let engine = or_die(
        "guest memory",
        Engine::start(config, Arc::clone(&pages) as Arc<dyn PageLink>),
    );
    let lost_names = Arc::clone(&names);
    lev_mesh::hints::exchange(&engine, fabric);
    let own_names = Arc::clone(&names);
    engine.on_room(move |event| watch::on_event(&own_names, NodeId::HEAD, event.into()));
    let peers = Peers::new(Parts {
        me: NodeId::HEAD,
        nodes,
        interrupts,
        pages,
        fabric: Arc::clone(fabric),
        engine: Arc::clone(&engine),
        on_lost: Box::new(move |node, loss| watch::lost(node, &lost_names[node.index()], &loss)),
        on_doorbell: Box::new(|index| {
            if let Some(vm) = vm::current() {
                vm.doorbells.ring(index);
            }
        }),
    });
    for node in others() {
        for purpose in [Purpose::Interrupt, Purpose::Page] {
            or_die(
                "channel",
                peers.attach(open(cluster, credentials, node, purpose)),
            );
        }
    }
    or_die(
        "joining the nodes",
        ask_all(&workers, control::JOIN, 0, &[]),
    );
    Shared {
        engine,
        peers,
        workers,
    }
}

/// Describes the VM to every worker and checks what they answer.
fn configure(
    vm_fd: i32,
    cluster: &Cluster,
    workers: &[Arc<ControlClient>],
    pool_path: Option<&str>,
) {
    let mut public = cluster.clone();
    public.secret.clear();
    // Of this machine only.
    public.kept.clear();
    public.trace = None;
    let head_khz = or_die(
        "rate of the time-stamp counter (Linux 5.18 or newer tells)",
        host::tsc_khz(vm_fd),
    );
    for worker in workers {
        let message = Configure {
            cluster: public.clone(),
            node: worker.node,
            pool_path: pool_path.map(str::to_owned),
            tsc_khz: head_khz,
        };
        let bytes = or_die("cluster description", serde_json::to_vec(&message));
        let what = format!(
            "node {} ({})",
            worker.node.0,
            cluster.nodes[worker.node.index()].name
        );
        let answer = or_die(&what, worker.ask(control::CONFIGURE, 0, &[&bytes]));
        let _: Configured = or_die(&what, serde_json::from_slice(&answer.payload));
    }
}

/// Opens the pool's memory; on one host it is made here, and the workers find it through this process.
fn open_pool(pool: Option<&Pool>) -> (Option<PoolMapping>, Option<String>) {
    let Some(pool) = pool else {
        return (None, None);
    };
    let (fd, path): (OwnedFd, String) = match &pool.path {
        Some(path) => {
            let mapping = PoolMapping::open(path, pool.len)
                .unwrap_or_else(|error| die(NOT_STARTED, &error.to_string(), None));
            // Another VM of this machine must not write into it; those of other machines we cannot see.
            // SAFETY: a descriptor of ours and a number.
            if unsafe { libc::flock(mapping.fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
                die(
                    NOT_STARTED,
                    &format!("pool {path} is in use by another VM"),
                    None,
                );
            }
            return (Some(mapping), Some(path.clone()));
        }
        None => {
            let fd = or_die("shared memory", anonymous_file(pool.len));
            // SAFETY: no arguments.
            let pid = unsafe { libc::getpid() };
            let path = format!("/proc/{pid}/fd/{}", fd.as_raw_fd());
            (fd, path)
        }
    };
    (
        Some(PoolMapping {
            fd,
            offset: 0,
            len: pool.len,
        }),
        Some(path),
    )
}

/// A memfd of `len` bytes.
pub fn anonymous_file(len: u64) -> std::io::Result<OwnedFd> {
    // SAFETY: a name and flags; the result is a new descriptor or an error.
    unsafe {
        let fd = libc::memfd_create(c"leviathan".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let fd = OwnedFd::from_raw_fd(fd);
        if libc::ftruncate(fd.as_raw_fd(), len as i64) != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(fd)
    }
}
