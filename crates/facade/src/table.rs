//! Which file descriptors are ours: looked up on every ioctl, so an array of atomic pointers.

use crate::local_vcpu::LocalVcpu;
use crate::remote_vcpu::RemoteVcpu;
use std::sync::atomic::{AtomicPtr, Ordering};

/// What a descriptor stands for.
pub enum Object {
    /// The VM.
    Vm,
    /// A vCPU of this node.
    Local(LocalVcpu),
    /// A vCPU of another node.
    Remote(RemoteVcpu),
}

const SIZE: usize = 65536;

static TABLE: [AtomicPtr<Object>; SIZE] = [const { AtomicPtr::new(std::ptr::null_mut()) }; SIZE];

/// Remembers a descriptor for the life of the process; false if its number is too large.
pub fn insert(fd: i32, object: Object) -> bool {
    let Some(slot) = usize::try_from(fd).ok().and_then(|fd| TABLE.get(fd)) else {
        return false;
    };
    // An older object of the same number is leaked: another thread may still use it.
    slot.store(Box::into_raw(Box::new(object)), Ordering::SeqCst);
    true
}

/// What a descriptor stands for.
pub fn get(fd: i32) -> Option<&'static Object> {
    let pointer = TABLE.get(usize::try_from(fd).ok()?)?.load(Ordering::SeqCst);
    // SAFETY: either null or a leaked box, never freed.
    unsafe { pointer.as_ref() }
}
