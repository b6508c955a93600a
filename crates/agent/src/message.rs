//! Calls and replies, as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the control plane asks for.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "call", rename_all = "lowercase", deny_unknown_fields)]
pub enum Call {
    /// Starts a program; its stream is the call's. Answered with [`Reply::Started`].
    Spawn(Spawn),
    /// Sends a signal to a program started here; no error if it has ended.
    Signal {
        /// Stream of the program.
        target: u32,
        /// Signal number.
        number: i32,
    },
    /// Sets the size of a program's terminal.
    Resize {
        /// Stream of the program.
        target: u32,
        /// New size.
        size: TerminalSize,
    },
    /// Writes a file, folders included; `size` bytes follow as input frames of this stream.
    Put {
        /// Absolute path.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Bytes that follow.
        size: u64,
    },
    /// Reads a file: output frames of this stream, then an exit frame.
    Get {
        /// Absolute path.
        path: String,
    },
    /// What this machine is. Answered with [`Reply::Info`].
    Info {},
    /// Ends every program started here and removes every file put here.
    Clear {},
    /// Ends every program and the machine.
    Shutdown {},
}

/// A program to start.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Spawn {
    /// Program and arguments; the program is looked up in `PATH`.
    pub argv: Vec<String>,
    /// Added to the small clean environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Whether input frames follow.
    #[serde(default)]
    pub stdin: bool,
    /// Whether standard output is wanted.
    #[serde(default)]
    pub stdout: bool,
    /// Whether standard error is wanted.
    #[serde(default)]
    pub stderr: bool,
    /// Gives the program a terminal of this size: input and output are its bytes, raw.
    #[serde(default)]
    pub pty: Option<TerminalSize>,
}

/// Rows and columns.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// Answer to a call.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// Done; nothing to say.
    Done {},
    /// A program runs.
    Started {
        /// Its process id.
        pid: u32,
    },
    /// What this machine is.
    Info(Info),
    /// It could not be done.
    Error {
        /// Why.
        text: String,
        /// `errno`, 0 if there is none.
        errno: i32,
    },
}

/// What this machine is.
#[derive(Debug, Serialize)]
pub struct Info {
    /// Version of the agent.
    pub version: &'static str,
    /// CPUs that are on line.
    pub cpus: u32,
    /// Bytes that new processes may take.
    pub memory_free: u64,
    /// `AuthenticAMD` or `GenuineIntel`.
    pub cpu_vendor: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Why `/dev/kvm` does not open; absent if it does.
    pub kvm: Option<String>,
    /// Why `/dev/userfaultfd` does not open; absent if it does.
    pub userfaultfd: Option<String>,
    /// Memory shared with the other lab machines: a file to map, absent if there is none.
    pub shared_pool: Option<String>,
}

/// How a program ended: exit code, or minus the signal's number.
#[derive(Debug, Serialize)]
pub struct Exit {
    /// The code.
    pub code: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_strictly() {
        let call: Call =
            serde_json::from_str(r#"{"call":"spawn","argv":["true"],"stdin":true}"#).unwrap();
        let Call::Spawn(spawn) = call else {
            panic!("{call:?}")
        };
        assert!(spawn.stdin && !spawn.stdout && spawn.pty.is_none());
        for bad in [
            r#"{"call":"spawn","argv":["true"],"user":"me"}"#,
            r#"{"call":"fly"}"#,
            r#"{"call":"put","path":"/x","mode":-1,"size":0}"#,
        ] {
            assert!(serde_json::from_str::<Call>(bad).is_err(), "{bad}");
        }
    }
}
