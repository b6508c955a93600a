//! The agent from outside: the built program, served over a socket pair.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{json, Value};

#[allow(dead_code)]
#[path = "../src/frame.rs"]
mod frame;

use frame::{encode, Decoder, Frame, Kind, WINDOW};

const PROGRAM: &str = env!("CARGO_BIN_EXE_lev-agent");
const LIMIT: Duration = Duration::from_secs(20);

struct Agent {
    process: Child,
    socket: UnixStream,
    decoder: Decoder,
}

/// What a stream gave until its exit.
#[derive(Default)]
struct Seen {
    out: Vec<u8>,
    err: Vec<u8>,
    code: Option<i64>,
}

impl Agent {
    fn start() -> Agent {
        let (socket, theirs) = UnixStream::pair().unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let process = Command::new(PROGRAM)
            .arg("serve-socket")
            .stdin(OwnedFd::from(theirs))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let decoder = Decoder::default();
        Agent {
            process,
            socket,
            decoder,
        }
    }

    fn send(&mut self, kind: Kind, stream: u32, payload: &[u8]) {
        let mut bytes = Vec::new();
        encode(&mut bytes, kind, stream, payload);
        self.socket.write_all(&bytes).unwrap();
    }

    fn next(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return frame;
            }
            let mut buffer = [0; 65536];
            // A read with a limit is not begun again by the system when a signal ends it (signal(7)).
            let length = match self.socket.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                length => length.expect("nothing came in time"),
            };
            assert_ne!(length, 0, "the agent closed the channel");
            self.decoder.push(&buffer[..length]);
        }
    }

    fn call(&mut self, stream: u32, call: Value) -> Value {
        self.send(Kind::Call, stream, call.to_string().as_bytes());
        let frame = self.next();
        assert_eq!((frame.kind, frame.stream), (Kind::Reply, stream));
        serde_json::from_slice(&frame.payload).unwrap()
    }

    fn shell(&mut self, stream: u32, script: &str) -> u32 {
        let argv = ["sh", "-c", script];
        let call =
            json!({"call": "spawn", "argv": argv, "stdin": true, "stdout": true, "stderr": true});
        let reply = self.call(stream, call);
        reply["started"]["pid"].as_u64().expect("started") as u32
    }

    /// Reads until a stream's exit; gives credit for what came.
    fn finish(&mut self, stream: u32) -> Seen {
        let mut seen = Seen::default();
        while seen.code.is_none() {
            let frame = self.next();
            if frame.stream != stream {
                continue;
            }
            match frame.kind {
                Kind::Output => seen.out.extend(&frame.payload),
                Kind::Error => seen.err.extend(&frame.payload),
                Kind::Exit => {
                    let exit: Value = serde_json::from_slice(&frame.payload).unwrap();
                    seen.code = exit["code"].as_i64();
                    continue;
                }
                _ => continue,
            }
            let credit = (frame.payload.len() as u32).to_le_bytes();
            self.send(Kind::OutputCredit, stream, &credit);
        }
        seen
    }

    fn close(mut self) -> i32 {
        drop(self.socket);
        self.process.wait().unwrap().code().unwrap()
    }
}

fn alive(pid: u32) -> bool {
    // A zombie has ended, too.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn streams_and_exit_code_are_the_programs_own() {
    let mut agent = Agent::start();
    agent.shell(5, "cat; echo problem >&2; exit 3");
    agent.send(Kind::Input, 5, b"one\0two");
    agent.send(Kind::InputEnd, 5, b"");
    let seen = agent.finish(5);
    assert_eq!(seen.out, b"one\0two");
    assert_eq!(seen.err, b"problem\n");
    assert_eq!(seen.code, Some(3));
    assert_eq!(agent.close(), 0);
}

#[test]
fn the_environment_is_small_and_clean() {
    let mut agent = Agent::start();
    let call = json!({"call": "spawn", "argv": ["env"], "env": {"A": "b c"}, "stdout": true});
    agent.call(1, call);
    let out = String::from_utf8(agent.finish(1).out).unwrap();
    assert!(out.lines().any(|line| line == "A=b c"), "{out}");
    assert!(out.lines().any(|line| line == "HOME=/root"), "{out}");
    assert!(!out.contains("CARGO"), "{out}");
}

#[test]
fn a_slow_reader_holds_up_only_its_own_program() {
    let mut agent = Agent::start();
    let size = 3 * WINDOW + 77;
    agent.shell(1, &format!("head -c {size} /dev/zero"));
    let mut got = 0;
    while got < WINDOW {
        let frame = agent.next();
        assert_eq!((frame.kind, frame.stream), (Kind::Output, 1));
        got += frame.payload.len();
    }
    assert_eq!(got, WINDOW);
    // Nothing more of it comes without credit, the rest goes on.
    assert!(agent.call(2, json!({"call": "info"}))["info"]["cpus"].as_u64() > Some(0));
    agent.shell(3, "echo other");
    assert_eq!(agent.finish(3).out, b"other\n");
    agent.send(Kind::OutputCredit, 1, &(WINDOW as u32).to_le_bytes());
    let seen = agent.finish(1);
    assert_eq!((got + seen.out.len(), seen.code), (size, Some(0)));
}

#[test]
fn input_is_credited_as_the_program_takes_it() {
    let mut agent = Agent::start();
    agent.shell(1, "sleep 0.2; exec wc -c");
    for _ in 0..WINDOW / 65536 {
        agent.send(Kind::Input, 1, &[b'x'; 65536]);
    }
    agent.send(Kind::InputEnd, 1, b"");
    let mut credit = 0;
    let mut out = Vec::new();
    loop {
        let frame = agent.next();
        match frame.kind {
            Kind::InputCredit => {
                credit += u32::from_le_bytes(frame.payload.try_into().unwrap()) as usize;
            }
            Kind::Output => out.extend(frame.payload),
            Kind::Exit => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(credit, WINDOW);
    assert_eq!(out, format!("{WINDOW}\n").as_bytes());
}

#[test]
fn input_beyond_the_window_ends_the_channel() {
    let mut agent = Agent::start();
    agent.shell(1, "sleep 60");
    let mut bytes = Vec::new();
    for _ in 0..=(WINDOW / 65536) + 2 {
        encode(&mut bytes, Kind::Input, 1, &[b'x'; 65536]);
    }
    // The agent may be gone before it has all of it.
    let _ = agent.socket.write_all(&bytes);
    assert_eq!(agent.process.wait().unwrap().code(), Some(1));
}

#[test]
fn signals_and_what_a_program_leaves_behind() {
    let mut agent = Agent::start();
    agent.shell(1, "exec sleep 60");
    agent.call(2, json!({"call": "signal", "target": 1, "number": 15}));
    assert_eq!(agent.finish(1).code, Some(-15));
    agent.call(3, json!({"call": "signal", "target": 1, "number": 15}));

    // The exit comes although the sleeper still holds the pipes; clearing ends the rest.
    agent.shell(4, "echo first; sleep 60 & echo $!");
    let seen = agent.finish(4);
    let text = String::from_utf8(seen.out).unwrap();
    assert!(text.starts_with("first\n"), "{text}");
    let left: u32 = text.lines().last().unwrap().parse().unwrap();
    assert!(alive(left));
    agent.close();
    wait_until("the leftover lives on", || !alive(left));
}

#[test]
fn programs_end_with_the_channel() {
    let mut agent = Agent::start();
    let pid = agent.shell(1, "trap '' TERM HUP; sleep 61 & wait");
    assert!(alive(pid));
    agent.close();
    wait_until("the program lives on", || !alive(pid));
}

#[test]
fn files_go_and_come_and_are_cleared() {
    let folder = std::env::temp_dir().join(format!("lev-agent-put-{}", std::process::id()));
    let path = folder.join("a/b");
    let mut agent = Agent::start();
    let data: Vec<u8> = (0..500_000u32).map(|i| i as u8).collect();
    let call = json!({"call": "put", "path": path, "mode": 0o750, "size": data.len()});
    agent.send(Kind::Call, 1, call.to_string().as_bytes());
    for piece in data.chunks(65536) {
        agent.send(Kind::Input, 1, piece);
    }
    let frame = agent.next();
    assert_eq!(frame.payload, br#"{"done":{}}"#);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o750);
    agent.call(2, json!({"call": "get", "path": path}));
    let seen = agent.finish(2);
    assert!(seen.out == data && seen.code == Some(0));
    let refused = agent.call(3, json!({"call": "get", "path": "/no/such"}));
    assert_eq!(refused["error"]["errno"], 2);
    agent.call(4, json!({"call": "clear"}));
    assert!(!path.exists());
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_terminal_has_the_size_that_was_asked_for() {
    let mut agent = Agent::start();
    let call = json!({"call": "spawn", "argv": ["sh", "-c", "stty size; read x; stty size; echo got $x"],
        "pty": {"rows": 31, "cols": 99}});
    agent.call(1, call);
    let first = agent.next();
    assert_eq!(first.payload, b"31 99\r\n");
    agent.call(
        2,
        json!({"call": "resize", "target": 1, "size": {"rows": 7, "cols": 8}}),
    );
    agent.send(Kind::Input, 1, b"word\n");
    let text = String::from_utf8(agent.finish(1).out).unwrap();
    assert!(
        text.contains("7 8\r\n") && text.contains("got word\r\n"),
        "{text:?}"
    );
}

#[test]
fn what_is_no_call_is_refused_and_what_is_no_frame_ends_the_channel() {
    let mut agent = Agent::start();
    assert!(agent.call(1, json!({"call": "dance"}))["error"]["text"].is_string());
    let missing = agent.call(2, json!({"call": "spawn", "argv": ["/no/such/program"]}));
    assert_eq!(missing["error"]["errno"], 2);
    agent.socket.write_all(&[0xff; 12]).unwrap();
    assert_eq!(agent.process.wait().unwrap().code(), Some(1));
}

fn guard(arguments: &[&str]) -> Child {
    Command::new(PROGRAM)
        .arg("guard")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The guarded program says its process id first.
fn guarded_pid(guard: &mut Child) -> u32 {
    let mut text = String::new();
    let out = guard.stdout.as_mut().unwrap();
    while !text.ends_with('\n') {
        let mut byte = [0];
        out.read_exact(&mut byte).unwrap();
        text.push(byte[0] as char);
    }
    text.trim().parse().unwrap()
}

#[test]
fn a_guarded_program_ends_with_its_asker_or_its_guard() {
    let script = "echo $$; exec sleep 60";
    let mut first = guard(&["sh", "-c", script]);
    let pid = guarded_pid(&mut first);
    assert!(alive(pid));
    drop(first.stdin.take());
    assert_eq!(first.wait().unwrap().code(), Some(137));
    assert!(!alive(pid));

    let mut second = guard(&["sh", "-c", script]);
    let pid = guarded_pid(&mut second);
    second.kill().unwrap();
    assert_eq!(second.wait().unwrap().signal(), Some(9));
    wait_until("the program outlives its guard", || !alive(pid));
}

#[test]
fn a_guard_passes_exit_codes_on() {
    for (script, code) in [("exit 9", 9), ("kill -11 $$", 139)] {
        let mut guard = guard(&["sh", "-c", script]);
        // Waiting would close it.
        let _alive = guard.stdin.take();
        assert_eq!(guard.wait().unwrap().code(), Some(code));
    }
    let missing = guard(&["/no/such"]).wait_with_output().unwrap();
    assert_eq!(missing.status.code(), Some(127));
    let said = String::from_utf8(missing.stderr).unwrap();
    assert!(said.contains("cannot start /no/such"), "{said}");
}
