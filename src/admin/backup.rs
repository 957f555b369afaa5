//! `POST /state/backup`: consistent copies of the state store and of the archive of ended orders, while the gateway runs.
//!
//! A copy is made in `state.dir`, in a file without a name, and streamed from there, so no store is too large for the
//! memory. It holds responses of orders: as secret as the store. A copy that breaks off is shorter than it says.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::{
        StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
    response::{IntoResponse as _, Response},
};
use http_body::Frame;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{
    AdminState,
    error::{AdminError, off_thread},
};

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

/// Which store is copied.
#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BackupStore {
    #[default]
    State,
    /// The archive of ended orders. It must be copied after the state store.
    Orders,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackupQuery {
    #[serde(default)]
    store: BackupStore,
}

pub(super) async fn backup(
    State(state): State<Arc<AdminState>>,
    query: Result<Query<BackupQuery>, QueryRejection>,
) -> Result<Response, AdminError> {
    let failed = |error: &dyn std::fmt::Display| {
        let message = format!("the state store could not be copied: {error}");
        AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "state.backup", message)
    };
    let Ok(Query(BackupQuery { store })) = query else {
        let message = "`store` is `state` or `orders`; nothing else can be asked for";
        return Err(AdminError::new(StatusCode::BAD_REQUEST, "request.query", message));
    };
    let dir = state.admin.gateway.in_force.load().config.state.dir.clone();
    let mut file = off_thread(move || tempfile::tempfile_in(dir)).await?.map_err(|error| failed(&error))?;
    let to = file.try_clone().map_err(|error| failed(&error))?;
    match store {
        BackupStore::State => {
            let copying = state.admin.store.snapshot().await.map_err(|error| failed(&error))?;
            off_thread(move || copying.write(to)).await?.map_err(|error| failed(&error))?;
        }
        BackupStore::Orders => {
            let archive = state.admin.gateway.live.orders.archive().clone();
            archive.copy_file(to).await.map_err(|error| failed(&error))?;
        }
    }
    let length = file.rewind().and_then(|()| Ok(file.metadata()?.len())).map_err(|error| failed(&error))?;
    let body = Body::new(FileBody::start(file).map_err(|error| failed(&error))?);
    let headers = [(CONTENT_TYPE, "application/octet-stream".to_owned()), (CONTENT_LENGTH, length.to_string())];
    Ok((headers, body).into_response())
}

/// A file that a thread of its own reads.
struct FileBody(mpsc::Receiver<io::Result<Bytes>>);

impl FileBody {
    fn start(mut file: File) -> io::Result<Self> {
        let (pieces, body) = mpsc::channel(2);
        std::thread::Builder::new().name("backup".to_owned()).spawn(move || {
            let mut piece = vec![0; PIECE];
            loop {
                let read = match file.read(&mut piece) {
                    Ok(0) => return,
                    Ok(length) => Ok(Bytes::copy_from_slice(&piece[..length])),
                    Err(error) => Err(error),
                };
                // Ends when the client has left, or after an error.
                let failed = read.is_err();
                if pieces.blocking_send(read).is_err() || failed {
                    return;
                }
            }
        })?;
        Ok(FileBody(body))
    }
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
