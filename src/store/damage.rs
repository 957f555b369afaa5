//! Panics of redb on a file that another program has written to: faults of that file, not of the gateway.
//!
//! Always holds: such a panic becomes a value, and [`is_expected`] says so to the panic hook while it is reported. Must not
//! know files. Cannot fail.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

thread_local! {
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Opens or reads a file that may be damaged; `None` if that panicked.
pub(super) fn catch<T>(read: impl FnOnce() -> T) -> Option<T> {
    EXPECTED.set(true);
    let read = catch_unwind(AssertUnwindSafe(read));
    EXPECTED.set(false);
    read.ok()
}

/// Whether a panic of this thread would say that a store's file is damaged, which is reported as an error.
pub fn is_expected() -> bool {
    EXPECTED.get()
}
