//! The commands: one starts the daemon, all others are clients of its API.
//!
//! Nothing here knows more than an SDK could: what a command does, it does by published actions, or
//! by our own ones for what the cloud does not have. Only `output.rs` prints.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

pub mod account;
mod alias;
pub mod arguments;
pub mod backup;
mod client;
mod disk;
mod disk_layers;
pub mod endpoint;
mod export;
pub mod failure;
mod find;
pub mod hsm;
mod image;
mod job;
mod key;
mod key_arguments;
mod key_import;
mod key_use;
mod layer;
mod leased_disk;
pub mod output;
mod progress;
mod qemu_img;
pub mod ram;
pub mod root;
mod root_source;
mod serve;
mod snapshot;
mod snapshot_backup;
mod stack_arguments;
pub mod trail;
mod trail_check;
pub mod upkeep;

use arguments::{Arguments, Command};
use client::Client;
use failure::Failure;
use output::Output;

/// Runs one command line. 0: done; 1: refused or failed; 2: not a command line we know.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are "errors" to the parser as well; it knows their exit code.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let output = Output::new(arguments.output);
    match execute(arguments, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn execute(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    let client = || Client::find(arguments.endpoint.clone());
    match arguments.command {
        Command::Serve(serve) => serve::run(&serve, output),
        Command::Disk { command } => disk::run(command, &client()?, output),
        Command::Snapshot { command } => snapshot::run(command, &client()?, output),
        Command::Image { command } => image::run(command, &client()?, output),
        Command::Job { command } => job::run(command, &client()?, output),
        Command::Key { command } => key::run(command, &client()?, output),
        Command::Alias { command } => alias::run(command, &client()?, output),
        Command::User { command } => ram::user::run(command, &client()?, output),
        Command::Role { command } => ram::role::run(command, &client()?, output),
        Command::Policy { command } => ram::policy::run(command, &client()?, output),
        Command::Layer { command } => layer::run(&command, output),
        Command::Trail { command } => trail::run(&command, client, output),
        Command::Account { command } => account::run(&command, &client()?, output),
        Command::Root { command } => root::run(&command, &client()?, output),
        Command::Hsm { command } => hsm::run(&command, client, output),
        Command::Catalog { command } => upkeep::catalog(&command, output),
        Command::Check(check) => upkeep::check(&check, client, output),
        Command::Backup { command } => backup::run(&command, client, output),
    }
}
