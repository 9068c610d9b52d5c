//! Prints lines, each at once. Unlike with `println!`, a write that fails does not end the program:
//! the log's disk may be full, or the reader of a pipe, such as `head`, may have ended. There is no
//! place to report the failure.

use std::fmt::Arguments;
use std::io::{Write as _, stderr, stdout};

/// Prints a line to standard output.
#[macro_export]
macro_rules! say {
    ($($part:tt)*) => { $crate::output::to_stdout(format_args!($($part)*)) };
}

/// Prints a line to standard error.
#[macro_export]
macro_rules! complain {
    ($($part:tt)*) => { $crate::output::to_stderr(format_args!($($part)*)) };
}

pub fn to_stdout(line: Arguments<'_>) {
    drop(stdout().write_all(format!("{line}\n").as_bytes()));
}

pub fn to_stderr(line: Arguments<'_>) {
    drop(stderr().write_all(format!("{line}\n").as_bytes()));
}
