//! A small receiver of webhooks that prints each body and responds with 200. It is a loopback server like a
//! merchant's own, so what it prints is what really arrives.

use std::{convert::Infallible, fmt, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

/// Maximum length of a printed body, in bytes.
const MAX_BODY: usize = 1 << 20;

/// Called with the body of each webhook, as one line.
#[derive(Clone)]
pub struct WebhookPrinter(Arc<dyn Fn(&str) + Send + Sync>);

impl WebhookPrinter {
    /// Calls a function.
    pub fn to(show: impl Fn(&str) + Send + Sync + 'static) -> Self {
        WebhookPrinter(Arc::new(show))
    }
}

impl fmt::Debug for WebhookPrinter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookPrinter")
    }
}

/// Receives until dropped.
pub(crate) async fn run(listener: TcpListener, show: WebhookPrinter, tasks: TaskTracker) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            continue;
        };
        let show = show.clone();
        tasks.spawn(async move {
            let service = service_fn(|request| receive(show.clone(), request));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn receive(show: WebhookPrinter, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if let Ok(body) = Limited::new(request.into_body(), MAX_BODY).collect().await {
        show.0(&String::from_utf8_lossy(&body.to_bytes()).replace(['\r', '\n'], " "));
    }
    Ok(Response::new(Full::new(Bytes::from_static(b"ok"))))
}
