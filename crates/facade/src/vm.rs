//! The one virtual machine of this process.

use crate::doorbell::Doorbells;
use crate::fail;
use crate::irqfd::Irqfds;
use crate::kept::Kept;
use crate::memory::Memory;
use crate::routes::Routes;
use lev_dsm::Engine;
use lev_mesh::control::{ask_all, ControlClient};
use lev_mesh::{MeshError, Peers};
use lev_transport::Credentials;
use lev_vcpu::Fabric;
use lev_wire::cluster::Cluster;
use lev_wire::NodeId;
use std::sync::{Arc, OnceLock};

/// The machine: a real KVM VM here, a worker's on every other node.
pub struct Vm {
    /// Descriptor of `/dev/kvm` as QEMU opened it.
    pub device: i32,
    /// Descriptor of the VM.
    pub fd: i32,
    /// The cluster as the control plane described it.
    pub cluster: Cluster,
    /// For channels to the workers.
    pub credentials: Credentials,
    /// The interrupt fabric.
    pub fabric: Arc<Fabric>,
    /// The coherence engine and the channels; none with a single node.
    pub shared: Option<Shared>,
    /// Guest memory.
    pub memory: Memory,
    /// Interrupt lines.
    pub routes: Routes,
    /// Eventfds that guest writes signal.
    pub doorbells: Doorbells,
    /// Eventfds that raise interrupt lines.
    pub irqfds: Irqfds,
    /// Guest memory that is written back to files.
    pub kept: Kept,
}

/// What exists only with several nodes.
pub struct Shared {
    /// The coherence engine.
    pub engine: Arc<Engine>,
    /// Interrupt and page channels.
    pub peers: Arc<Peers>,
    /// Control channels, by node, the head left out.
    pub workers: Vec<Arc<ControlClient>>,
}

static VM: OnceLock<Vm> = OnceLock::new();
static ENABLED: OnceLock<bool> = OnceLock::new();

/// The facade is in use: the process was started with a cluster description.
pub fn enabled() -> bool {
    *ENABLED.get_or_init(|| std::env::var_os("LEV_CLUSTER").is_some())
}

/// The machine, once it exists.
pub fn current() -> Option<&'static Vm> {
    VM.get()
}

/// Makes `vm` the machine of this process.
pub fn establish(vm: Vm) -> &'static Vm {
    VM.get_or_init(|| vm)
}

impl Vm {
    /// Control channels of all workers.
    pub fn workers(&self) -> &[Arc<ControlClient>] {
        self.shared.as_ref().map_or(&[], |shared| &shared.workers)
    }

    /// Name of a node as the user knows it.
    pub fn name_of(&self, node: NodeId) -> &str {
        self.cluster
            .nodes
            .get(node.index())
            .map_or("?", |node| &node.name)
    }

    /// Asks every worker; what one of them refuses ends the machine, because it no longer is one.
    pub fn tell_all(&self, what: &str, kind: u16, parts: &[&[u8]]) {
        if let Err(error) = ask_all(self.workers(), kind, 0, parts) {
            self.fail(what, &error);
        }
    }

    /// A worker could not do what the machine needs.
    pub fn fail(&self, what: &str, error: &MeshError) -> ! {
        fail::die(fail::GUEST_DIED, &format!("{what}: {error}"), None)
    }
}
