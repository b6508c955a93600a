//! A network between two nodes that can be cut: connections stay open, and nothing goes through any more.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// Forwards connections until it is cut.
#[derive(Clone)]
pub struct Forwarder {
    cut: Arc<AtomicBool>,
    shut: Arc<AtomicBool>,
}

impl Forwarder {
    /// A whole network.
    pub fn start() -> Self {
        Self {
            cut: Arc::default(),
            shut: Arc::default(),
        }
    }

    /// An address at which connections to `target` are forwarded.
    pub fn to(&self, target: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (target, cut) = (target.to_owned(), Arc::clone(&self.cut));
        let shut = Arc::clone(&self.shut);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                if shut.load(Ordering::SeqCst) {
                    // Open, and nobody answers.
                    std::mem::forget(near);
                    continue;
                }
                let far = TcpStream::connect(&target).unwrap();
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let ends = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let cut = Arc::clone(&cut);
                    std::thread::spawn(move || pump(ends, &cut));
                }
            }
        });
        address
    }

    /// New connections lead nowhere from now on; those that are there go on.
    pub fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
    }

    /// From now on bytes are swallowed.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }
}

fn pump((mut from, mut to): (TcpStream, TcpStream), cut: &AtomicBool) {
    let mut buffer = [0; 65536];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 {
            break;
        }
        if !cut.load(Ordering::SeqCst) && to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
}
