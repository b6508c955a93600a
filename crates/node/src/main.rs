//! `lev-node`: a worker of the giant VM, and the probe of what a host can do.

mod clock;
mod control_server;
mod events;
mod memory;
mod probe;
mod probe_guest;
mod serve;
mod vcpu_thread;
mod worker;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "lev-node", version, about = "A node of a Leviathan giant VM")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run vCPUs and hold memory for the head of a giant VM
    Serve {
        /// Where to listen, HOST:PORT; port 0: any free one (it is printed)
        #[arg(long)]
        listen: String,
        /// File with the run's identity and secret (JSON, private to the user)
        #[arg(long)]
        secret_file: PathBuf,
        /// Name in messages
        #[arg(long, default_value = "worker")]
        name: String,
        /// Where to write a trace of guest memory, when the head asks for one
        #[arg(long)]
        trace: Option<PathBuf>,
    },
    /// Print what this host can do, as JSON
    Probe,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Serve {
            listen,
            secret_file,
            name,
            trace,
        } => serve::run(&listen, &secret_file, &name, trace),
        Command::Probe => {
            println!("{}", probe::report());
            ExitCode::SUCCESS
        }
    }
}
