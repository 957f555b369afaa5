//! What a command prints: its result to stdout, messages to stderr.
//!
//! A reader that has closed the pipe, as `head` does, is no failure: the command does its work and returns its own exit
//! code. `println!` and `eprintln!` would panic.

use std::{
    fmt::Display,
    io::{self, BufWriter, ErrorKind, StdoutLock, Write as _},
};

use crate::record::print_message;

/// Prints a command's result.
///
/// # Errors
/// If it can't be written, unless nobody reads it any more.
pub(super) fn print(write: impl FnOnce(&mut BufWriter<StdoutLock<'_>>) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// Prints a message, if anybody reads it.
pub(super) fn message(text: impl Display) {
    print_message(text);
}

/// Prints an error message with the program's name.
pub(super) fn error(text: impl Display) {
    message(format_args!("fastrac-gateway: {text}"));
}
