//! A worker's virtual machine: a real KVM VM with the same memory slots as the head's, and the vCPUs given to it.

use crate::clock::Rate;
use crate::memory::Window;
use crate::probe::map_run_page;
use lev_dsm::{Backing, Engine, EngineConfig, PoolMapping, SegmentSpec};
use lev_kvmabi::bindings as k;
use lev_kvmabi::{ioctl, os};
use lev_mesh::interrupts::{InterruptPeers, Link};
use lev_mesh::message::{Configure, Segment};
use lev_mesh::pages::PagePeers;
use lev_mesh::peers::{OnLost, Parts, Peers};
use lev_mesh::vm_frame::{ClearDirtyLog, MsrFilter, VmCall};
use lev_vcpu::{Fabric, Vcpu};
use lev_wire::NodeId;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// Why a request to the worker failed: errno and a sentence for the user.
#[derive(Debug)]
pub struct Refusal {
    /// errno.
    pub errno: i32,
    /// One sentence; empty if the errno says it all.
    pub message: String,
}

impl Refusal {
    /// A refusal with a sentence.
    pub fn because(errno: i32, message: impl Into<String>) -> Self {
        Self {
            errno,
            message: message.into(),
        }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self {
            errno: error.raw_os_error().unwrap_or(libc::EIO),
            message: String::new(),
        }
    }
}

impl From<lev_dsm::DsmError> for Refusal {
    fn from(error: lev_dsm::DsmError) -> Self {
        Self::because(libc::EIO, error.to_string())
    }
}

/// The VM of this worker.
pub struct Worker {
    /// What the head said.
    pub configure: Configure,
    device: File,
    vm: OwnedFd,
    /// The time-stamp counter's rate.
    pub rate: Rate,
    /// The interrupt fabric.
    pub fabric: Arc<Fabric>,
    /// The coherence engine.
    pub engine: Arc<Engine>,
    /// Channels to the other nodes.
    pub peers: Arc<Peers>,
    window: Mutex<Window>,
    /// Bytes of each slot's dirty bitmap, by slot number.
    slots: Mutex<HashMap<u32, u64>>,
    vcpu_fds: Mutex<Vec<OwnedFd>>,
}

impl Worker {
    /// Makes the VM.
    ///
    /// # Errors
    /// KVM, userfaultfd or the pool cannot be used; the sentence names which.
    pub fn new(
        configure: Configure,
        on_lost: OnLost,
        on_fatal: Box<dyn Fn(lev_dsm::DsmError) + Send + Sync>,
    ) -> Result<Self, Refusal> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .map_err(|error| Refusal::because(libc::ENODEV, format!("/dev/kvm: {error}")))?;
        // SAFETY: CREATE_VM takes a number; the result is a new descriptor.
        let vm =
            unsafe { OwnedFd::from_raw_fd(os::ioctl(device.as_raw_fd(), ioctl::CREATE_VM, 0)?) };
        if !lev_vcpu::x2apic::enable(vm.as_raw_fd()) {
            let message = "this kernel's KVM cannot report invalid MSR accesses: Linux 5.10 or newer is needed";
            return Err(Refusal::because(libc::EOPNOTSUPP, message));
        }
        let rate = Rate::new(vm.as_raw_fd(), host_khz(&vm)?, configure.tsc_khz)?;
        let cluster = &configure.cluster;
        let nodes = cluster.nodes.len();
        let vcpus = cluster
            .nodes
            .iter()
            .flat_map(|node| &node.vcpus)
            .max()
            .map_or(0, |last| last + 1);
        let mut owners = vec![NodeId::HEAD; vcpus as usize];
        for (index, node) in cluster.nodes.iter().enumerate() {
            for vcpu in &node.vcpus {
                owners[*vcpu as usize] = NodeId(index as u16);
            }
        }
        let fabric = Arc::new(Fabric::new(configure.node, owners));
        let interrupts = Arc::new(InterruptPeers::new(configure.node, nodes));
        fabric.connect(Box::new(Link(Arc::clone(&interrupts))));
        let pages = Arc::new(PagePeers::new(nodes));
        let config = EngineConfig {
            me: configure.node,
            nodes: nodes as u16,
            options: cluster.engine.clone(),
            pool: open_pool(&configure)?,
            on_fatal,
        };
        let engine = Engine::start(config, Arc::clone(&pages) as Arc<dyn lev_dsm::PageLink>)?;
        lev_mesh::hints::exchange(&engine, &fabric);
        let peers = Peers::new(Parts {
            me: configure.node,
            nodes,
            interrupts,
            pages,
            fabric: Arc::clone(&fabric),
            engine: Arc::clone(&engine),
            on_lost,
            on_doorbell: Box::new(|_| ()),
        });
        let window = Window::reserve().map_err(|error| {
            Refusal::because(libc::ENOMEM, format!("cannot reserve addresses: {error}"))
        })?;
        Ok(Self {
            configure,
            device,
            vm,
            rate,
            fabric,
            engine,
            peers,
            window: Mutex::new(window),
            slots: Mutex::new(HashMap::new()),
            vcpu_fds: Mutex::new(Vec::new()),
        })
    }

    /// Adds one of this node's vCPUs.
    ///
    /// # Errors
    /// KVM's errno, or the number is not this node's.
    pub fn create_vcpu(&self, id: u32) -> Result<(), Refusal> {
        // SAFETY: CREATE_VCPU takes a number; the result is a new descriptor.
        let fd = unsafe {
            OwnedFd::from_raw_fd(os::ioctl(
                self.vm.as_raw_fd(),
                ioctl::CREATE_VCPU,
                id as usize,
            )?)
        };
        self.rate.give(fd.as_raw_fd())?;
        let page = map_run_page(self.device.as_raw_fd(), &fd)?;
        let vcpu = Arc::new(Vcpu::new(id, fd.as_raw_fd(), page));
        if !self.fabric.add(vcpu) {
            return Err(Refusal::because(
                libc::EEXIST,
                format!("vCPU {id} is not this node's"),
            ));
        }
        self.vcpu_fds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(fd);
        Ok(())
    }

    /// Bytes of extended state of a vCPU (`KVM_CAP_XSAVE2`).
    pub fn xsave_len(&self) -> usize {
        // SAFETY: CHECK_EXTENSION takes a number.
        let len = unsafe {
            os::ioctl(
                self.vm.as_raw_fd(),
                ioctl::CHECK_EXTENSION,
                k::KVM_CAP_XSAVE2 as usize,
            )
        };
        len.map_or(4096, |len| (len as usize).max(4096))
    }

    /// Makes a range of guest memory coherent.
    ///
    /// # Errors
    /// The range overlaps another one, or userfaultfd refuses.
    pub fn add_segment(&self, segment: &Segment) -> Result<(), Refusal> {
        let pages = segment.pages().ok_or_else(|| {
            Refusal::because(libc::EINVAL, "a segment of more pages than there can be")
        })?;
        let local = self
            .window
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .map(segment.first_page, pages)
            .map_err(|error| Refusal::because(libc::ENOMEM, format!("guest memory: {error}")))?;
        self.engine.prepare(SegmentSpec {
            first_page: segment.first_page,
            pages,
            local,
            homes: segment.homes.clone(),
            backing: Backing::Anonymous,
        })?;
        self.engine
            .activate(segment.first_page, &segment.populated)?;
        Ok(())
    }

    /// Adds, changes or removes a memory slot; `userspace_addr` is QEMU's.
    ///
    /// # Errors
    /// KVM's errno, or part of the slot is no coherent memory.
    pub fn set_slot(&self, mut region: k::kvm_userspace_memory_region) -> Result<(), Refusal> {
        if region.memory_size > 0 {
            let first = region.userspace_addr / 4096;
            let pages = region.memory_size / 4096;
            let covered: u64 = self
                .engine
                .contains(first, pages)
                .iter()
                .map(|range| range.end - range.start)
                .sum();
            if covered != pages {
                let message = format!(
                    "slot {:#x}: {covered} of {pages} pages are known",
                    region.guest_phys_addr
                );
                return Err(Refusal::because(libc::EFAULT, message));
            }
            region.userspace_addr = crate::memory::Window::translate(region.userspace_addr);
        }
        // SAFETY: the memory behind the slot is mapped in the window (every page is a segment's) and stays.
        unsafe {
            os::ioctl_with(
                self.vm.as_raw_fd(),
                ioctl::SET_USER_MEMORY_REGION,
                &mut region,
            )?
        };
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // The kernel rounds a bitmap up to 64-bit words.
        slots.insert(region.slot, (region.memory_size / 4096).div_ceil(64) * 8);
        Ok(())
    }

    /// Fetches (and resets) a slot's dirty bitmap.
    ///
    /// # Errors
    /// KVM's errno.
    pub fn dirty_log(&self, slot: u32) -> Result<Vec<u8>, Refusal> {
        let len = self.slot_bitmap(slot)?;
        let mut bitmap = vec![0u64; len / 8];
        let mut log = k::kvm_dirty_log {
            slot,
            ..Default::default()
        };
        log.__bindgen_anon_1.dirty_bitmap = bitmap.as_mut_ptr().cast();
        // SAFETY: the bitmap has room for every page of the slot.
        unsafe { os::ioctl_with(self.vm.as_raw_fd(), ioctl::GET_DIRTY_LOG, &mut log)? };
        Ok(bitmap.iter().flat_map(|word| word.to_le_bytes()).collect())
    }

    /// Clears bits of a slot's dirty bitmap. `payload`: slot, number of pages, first page, bitmap.
    ///
    /// # Errors
    /// KVM's errno, or a bitmap of the wrong length.
    pub fn clear_dirty_log(&self, payload: &[u8]) -> Result<(), Refusal> {
        let mut clear = ClearDirtyLog::decode(payload)
            .ok_or_else(|| Refusal::because(libc::EINVAL, "bad request to clear a dirty log"))?;
        let mut log = k::kvm_clear_dirty_log {
            slot: clear.slot,
            num_pages: clear.pages,
            first_page: clear.first_page,
            ..Default::default()
        };
        log.__bindgen_anon_1.dirty_bitmap = clear.bitmap.as_mut_ptr().cast();
        // SAFETY: the bitmap covers `num_pages` (checked).
        unsafe { os::ioctl_with(self.vm.as_raw_fd(), ioctl::CLEAR_DIRTY_LOG, &mut log)? };
        Ok(())
    }

    fn slot_bitmap(&self, slot: u32) -> Result<usize, Refusal> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        match slots.get(&slot) {
            Some(len) if *len > 0 => Ok(*len as usize),
            _ => Err(Refusal::because(
                libc::ENOENT,
                format!("no memory slot {slot:#x}"),
            )),
        }
    }

    /// A VM ioctl whose argument has no pointers. `payload`: ioctl number, argument.
    ///
    /// # Errors
    /// KVM's errno, or an ioctl that this call is not for.
    pub fn vm_call(&self, payload: &[u8]) -> Result<(), Refusal> {
        let call = VmCall::decode(payload).map_err(|request| {
            let message = format!("VM call {request:#x} cannot be sent");
            Refusal::because(libc::EINVAL, message)
        })?;
        // SAFETY: one of four calls; the argument has the call's size (checked) and no pointers, and lives on.
        unsafe { os::ioctl(self.vm.as_raw_fd(), call.request, call.argument())? };
        Ok(())
    }

    /// Sets the MSR filter: the structure with its bitmaps behind it.
    ///
    /// # Errors
    /// KVM's errno, or lengths that do not fit.
    pub fn msr_filter(&self, payload: &[u8]) -> Result<(), Refusal> {
        let mut given = MsrFilter::decode(payload)
            .ok_or_else(|| Refusal::because(libc::EINVAL, "bad MSR filter"))?;
        let mut filter = k::kvm_msr_filter {
            flags: given.flags,
            ..Default::default()
        };
        for (range, given) in filter.ranges.iter_mut().zip(&mut given.ranges) {
            range.flags = given.flags;
            range.nmsrs = given.count;
            range.base = given.base;
            if given.count > 0 {
                // The kernel copies whole words.
                given.bits.resize(given.bits.len().next_multiple_of(8), 0);
                range.bitmap = given.bits.as_mut_ptr();
            }
        }
        // SAFETY: every bitmap covers its range's MSRs and lives until after the call.
        unsafe { os::ioctl_with(self.vm.as_raw_fd(), ioctl::X86_SET_MSR_FILTER, &mut filter)? };
        drop(given);
        Ok(())
    }
}

/// Rate of this host's time-stamp counter, kHz.
fn host_khz(vm: &OwnedFd) -> Result<u32, Refusal> {
    lev_mesh::host::tsc_khz(vm.as_raw_fd()).map_err(|error| {
        let message =
            format!("rate of the time-stamp counter (Linux 5.18 or newer tells): {error}");
        Refusal::because(libc::EOPNOTSUPP, message)
    })
}

fn open_pool(configure: &Configure) -> Result<Option<PoolMapping>, Refusal> {
    let (Some(pool), Some(path)) = (&configure.cluster.pool, &configure.pool_path) else {
        return Ok(None);
    };
    let pool = PoolMapping::open(path, pool.len);
    pool.map(Some)
        .map_err(|error| Refusal::because(libc::ENXIO, error.to_string()))
}
