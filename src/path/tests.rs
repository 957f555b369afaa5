//! Sizes of the path's futures: each is memory that every request of its kind moves or allocates.
//!
//! Limits are the sizes of a debug build on x86-64, rounded up to the next 128 bytes; a change that exceeds one should
//! box what is seldom needed, or raise the limit here knowingly.

use http_body_util::Full;

use super::*;

/// The size of the future that `make` returns. It is never called.
fn size<F>(_make: impl FnOnce() -> F) -> usize {
    size_of::<F>()
}

/// A value for a function that is never called.
fn never<T>() -> T {
    unreachable!("only its type counts")
}

fn exchange() -> &'static mut Exchange {
    never()
}

#[test]
fn futures_stay_small() {
    let hit = size(|| forward(exchange(), never(), never::<Full<Bytes>>()));
    let served = size(|| serve(never(), never(), never::<http::Request<Full<Bytes>>>(), never::<Arrival<()>>()));
    let fill = size(|| fill::fill(exchange(), never(), never(), never()));
    let fetch = size(|| fetch::fetch(never::<&UpstreamCall>(), never(), never()));
    let order = size(|| order::send(exchange(), never(), never(), never()));
    // In the order of a request: a hit is `served` alone; a miss has `fill` and a task with `fetch`.
    let sizes = [
        ("served", served, 2176),
        ("hit", hit, 1920),
        ("fill", fill, 720),
        ("fetch", fetch, 3984),
        ("order", order, 256),
    ];
    for (name, size, limit) in sizes {
        assert!(size <= limit, "{name}: {size} bytes, limit {limit}: {sizes:?}");
    }
}
