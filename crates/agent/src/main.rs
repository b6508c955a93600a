//! `lev-agent`: the hands of the control plane inside a lab machine, and its guard outside.
//!
//! - `lev-agent serve NAME` answers calls on the virtio-serial port of that name until the host
//!   goes or asks for the end, then switches the machine off.
//! - `lev-agent serve-socket` does the same on the socket at standard input, without the switch (tests).
//! - `lev-agent guard PROGRAM ARGUMENTS…` runs a program that dies with whoever holds our
//!   standard input.

mod family;
mod guard;
mod info;
mod program;
mod serve;
mod sys;

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

const USAGE: &str =
    "usage: lev-agent serve PORT | serve-socket | guard PROGRAM [ARGUMENT...] | --version";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lev-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[OsString]) -> io::Result<ExitCode> {
    let words: Vec<&str> = arguments.iter().map(|a| a.to_str().unwrap_or("")).collect();
    match words.as_slice() {
        ["serve", name] => {
            let ended = serve::serve(serve::open_port(name)?);
            match &ended {
                Ok(why) => eprintln!("lev-agent: {why:?}"),
                Err(error) => eprintln!("lev-agent: {error}"),
            }
            Err(sys::power_off())
        }
        ["serve-socket"] => {
            let socket = io::stdin().as_fd().try_clone_to_owned()?;
            serve::serve(socket.into())?;
            Ok(ExitCode::SUCCESS)
        }
        ["guard", ..] => Ok(ExitCode::from(guard::guard(&arguments[1..])? as u8)),
        ["--version"] => {
            println!("lev-agent {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!("{USAGE}");
            Ok(ExitCode::from(2))
        }
    }
}
