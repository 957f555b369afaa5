//! Why the remembered orders cannot be used at a start, and what to do. Data only.

use std::io;

use crate::store::{OpenError, StoreError};

/// Why the remembered orders cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OrdersOpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the system cannot create a thread: {0}")]
    System(io::Error),
    /// The archive lacks orders that have left the journal, or is another one.
    #[error(
        "orders.redb is missing, older than state.redb, or that of another gateway: repeats of the orders in it would be sent again; put the file \
         back that belongs to this state.redb, or restore a copy of both. To go on without the ended orders (compare with \
         Fastrac before callers repeat any): fastrac-gateway state forget-ended-orders DIR"
    )]
    ArchiveLost,
}
