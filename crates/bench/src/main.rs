//! `lev-bench`: one node of a measurement. Reads one command (a JSON object) a line on standard input and answers each
//! with one line on standard output; `lev bench dsm` starts as many of these as it needs and tells them what to do.
//!
//! Times are taken here, next to what is measured, and go back as they are: nanoseconds, one number a sample.

mod census;
mod clock;
mod command;
mod local;
mod node;
mod soak;
mod tcp;
mod touch;

use command::{Answer, Command};
use node::Node;
use std::io::{BufRead, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--version") {
        println!("lev-bench {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let mut node = Node::default();
    let (input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    for line in input.lines() {
        let Ok(line) = line else { break };
        let answer = match serde_json::from_str::<Command>(&line) {
            Ok(command) => node
                .run(command)
                .unwrap_or_else(|error| Answer::Error { error }),
            Err(error) => Answer::Error {
                error: format!("command not understood: {error}"),
            },
        };
        let Ok(mut text) = serde_json::to_vec(&answer) else {
            break;
        };
        text.push(b'\n');
        if output
            .write_all(&text)
            .and_then(|()| output.flush())
            .is_err()
        {
            break; // whoever asked has gone
        }
    }
    ExitCode::SUCCESS
}
