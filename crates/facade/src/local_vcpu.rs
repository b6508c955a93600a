//! A vCPU that runs in this process, on QEMU's own thread.

use crate::fail;
use crate::vm::{self, Vm};
use lev_kvmabi::ioctl;
use lev_vcpu::call::{call, CallError};
use lev_vcpu::{Caller, Outcome, Runner, Vcpu};
use std::sync::{Arc, Mutex, PoisonError};

/// The vCPU and the thread that runs it.
pub struct LocalVcpu {
    vcpu: Arc<Vcpu>,
    /// Made on the first run, by the thread that runs.
    runner: Mutex<Option<Runner>>,
}

impl LocalVcpu {
    /// Wraps a vCPU.
    pub fn new(vcpu: Arc<Vcpu>) -> Self {
        Self {
            vcpu,
            runner: Mutex::new(None),
        }
    }

    /// Answers an ioctl on the vCPU's descriptor.
    ///
    /// # Safety
    /// `argument` is what `request` expects.
    pub unsafe fn call(&self, request: u32, argument: usize) -> Result<i32, i32> {
        let Some(vm) = vm::current() else {
            return Err(libc::ENXIO);
        };
        if request == ioctl::RUN {
            return self.run(vm);
        }
        // SAFETY: the caller's contract; QEMU's structures are aligned as C aligns them, which suffices here.
        match unsafe { call(&self.vcpu, &vm.fabric, request, argument) } {
            Ok(value) => Ok(value),
            Err(CallError::Errno(errno)) => Err(errno),
            Err(CallError::MissingFeatures(missing)) => fail::die(
                fail::NOT_STARTED,
                &format!(
                    "the processor of {} lacks features that the guest was given: {}",
                    vm.name_of(lev_wire::NodeId::HEAD),
                    missing.join(", ")
                ),
                Some("use -cpu host, or a CPU model that every node has"),
            ),
        }
    }

    fn run(&self, vm: &Vm) -> Result<i32, i32> {
        let mut runner = self.runner.lock().unwrap_or_else(PoisonError::into_inner);
        let runner = match &mut *runner {
            Some(runner) => runner,
            empty => {
                let made = Runner::for_this_thread(&self.vcpu)
                    .map_err(|error| crate::entry::errno(&error))?;
                empty.insert(made)
            }
        };
        match runner.run(&self.vcpu, &vm.fabric, Caller::Qemu) {
            Outcome::Exit => Ok(0),
            Outcome::Interrupted => Err(libc::EINTR),
            Outcome::Failed(errno) => Err(errno),
        }
    }
}
