//! A stored response in one allocation: the values of its headers, then its body.
//!
//! What always holds: values and body are handed out as slices of that allocation, without copying, and nothing of the
//! connection that brought the response is kept alive. The names of headers are kept once for all responses that have
//! the same ones. Must not know keys or the cache. Never fails.

use std::{collections::HashSet, ops::Range, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;

use super::heap;

/// Lists of names that are shared at most, so that responses with random names do not fill the table.
const MAX_LISTS: usize = 256;

/// Bytes of the allocation that counts the slices of another (`bytes` makes one with the first slice).
const SLICE_COUNTER: usize = 24;

/// Bytes of the number that tells where a value ends.
const END: usize = 4;

/// Lists of the names of headers, each kept once.
#[derive(Debug, Default)]
pub(super) struct NameLists(Mutex<HashSet<Arc<[HeaderName]>>>);

impl NameLists {
    fn share(&self, names: impl AsRef<[HeaderName]> + Into<Arc<[HeaderName]>>) -> HeaderNames {
        let mut lists = self.0.lock();
        if let Some(list) = lists.get(names.as_ref()) {
            return HeaderNames { list: list.clone(), own: 0 };
        }
        if lists.len() >= MAX_LISTS {
            lists.retain(|list| Arc::strong_count(list) > 1);
        }
        let list: Arc<[HeaderName]> = names.into();
        if lists.len() < MAX_LISTS {
            lists.insert(list.clone());
            return HeaderNames { list, own: 0 };
        }
        let texts: usize = list.iter().map(|name| heap::block(name.as_str().len())).sum();
        HeaderNames { own: heap::arc(size_of_val(&*list)) + texts, list }
    }
}

/// The names of the headers of a response.
#[derive(Debug)]
struct HeaderNames {
    /// One for each value.
    list: Arc<[HeaderName]>,
    /// Bytes of heap, if no other response uses the list.
    own: usize,
}

/// Head and body of a response.
#[derive(Debug)]
pub(super) struct PackedResponse {
    names: HeaderNames,
    /// Where each value ends (little-endian), then the values, then the body. There is one value more than names: the id
    /// of the request that fetched the response.
    bytes: Bytes,
}

impl PackedResponse {
    /// A copy of a response.
    pub(super) fn new(headers: &HeaderMap, stored_from: &HeaderValue, body: &[u8], lists: &NameLists) -> Self {
        let names: Vec<_> = headers.iter().map(|(name, _)| name.clone()).collect();
        let values = || headers.iter().map(|(_, value)| value).chain([stored_from]);
        let head: usize = values().map(|value| END + value.len()).sum();
        let mut bytes = Vec::with_capacity(head + body.len());
        let mut end = (headers.len() + 1) * END;
        for value in values() {
            end += value.len();
            bytes.extend_from_slice(&u32::try_from(end).unwrap_or(u32::MAX).to_le_bytes());
        }
        values().for_each(|value| bytes.extend_from_slice(value.as_bytes()));
        bytes.extend_from_slice(body);
        PackedResponse::whole(names, bytes, lists)
    }

    /// The response that another process has packed; `None`: it cannot be one.
    pub(super) fn restored(names: Arc<[HeaderName]>, bytes: Vec<u8>, lists: &NameLists) -> Option<Self> {
        let first = (names.len() + 1) * END;
        let ends = bytes.get(..first)?.as_chunks::<END>().0;
        let mut start = first;
        for end in ends {
            let end = usize::try_from(u32::from_le_bytes(*end)).ok()?;
            HeaderValue::from_bytes(bytes.get(start..end)?).ok()?;
            start = end;
        }
        Some(PackedResponse::whole(names, bytes, lists))
    }

    fn whole(names: impl AsRef<[HeaderName]> + Into<Arc<[HeaderName]>>, mut bytes: Vec<u8>, lists: &NameLists) -> Self {
        bytes.shrink_to_fit();
        let bytes = Bytes::from(bytes);
        // Makes the allocation that counts slices, so that it is not made by a hit.
        drop(bytes.clone());
        PackedResponse { names: lists.share(names), bytes }
    }

    /// The headers, with room for `more`.
    pub(super) fn headers(&self, more: usize) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.names.list.len() + more);
        for (index, name) in self.names.list.iter().enumerate() {
            headers.append(name.clone(), self.value(index));
        }
        headers
    }

    /// Id of the request that fetched it.
    pub(super) fn stored_from(&self) -> HeaderValue {
        self.value(self.names.list.len())
    }

    pub(super) fn body(&self) -> Bytes {
        self.bytes.slice(self.end(self.names.list.len())..)
    }

    /// One for each header.
    pub(super) fn names(&self) -> &Arc<[HeaderName]> {
        &self.names.list
    }

    /// All values, and the body, as [`PackedResponse::restored`] takes them.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Bytes that it takes of the heap.
    pub(super) fn heap(&self) -> usize {
        heap::block(self.bytes.len()) + heap::block(SLICE_COUNTER) + self.names.own
    }

    fn value(&self, index: usize) -> HeaderValue {
        let start = index.checked_sub(1).map_or((self.names.list.len() + 1) * END, |before| self.end(before));
        let value = self.bytes.slice(start..self.end(index));
        // It was a header value before.
        HeaderValue::from_maybe_shared(value).unwrap_or(HeaderValue::from_static(""))
    }

    /// Where a value ends; values and ends were checked when the response was packed.
    fn end(&self, index: usize) -> usize {
        let number: Range<usize> = index * END..(index + 1) * END;
        let number = self.bytes[number].first_chunk().copied().unwrap_or_default();
        u32::from_le_bytes(number) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers() -> impl Strategy<Value = HeaderMap> {
        let name = prop::sample::select(vec!["content-type", "date", "x-powered-by", "vary", "x-limit"]);
        let value = prop::collection::vec(b' '..=b'~', 0..20);
        prop::collection::vec((name, value), 0..8).prop_map(|pairs| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(name, HeaderValue::from_bytes(&value).unwrap());
            }
            headers
        })
    }

    proptest! {
        #[test]
        fn gives_back_what_was_packed(headers in headers(), id in "[a-z0-9-]{0,40}", body: Vec<u8>) {
            let lists = NameLists::default();
            let id = HeaderValue::try_from(id).unwrap();
            let packed = PackedResponse::new(&headers, &id, &body, &lists);
            let again = PackedResponse::restored(packed.names().clone(), packed.bytes().to_vec(), &lists).unwrap();
            prop_assert!(Arc::ptr_eq(&packed.names.list, &again.names.list));
            for packed in [packed, again] {
                prop_assert_eq!(packed.headers(3), headers.clone());
                prop_assert_eq!(packed.stored_from(), id.clone());
                prop_assert_eq!(packed.body(), body.clone());
            }
        }

        #[test]
        fn bytes_of_any_kind_are_checked(bytes: Vec<u8>, names in 0..4_usize) {
            let names: Arc<[_]> = vec![http::header::DATE; names].into();
            if let Some(packed) = PackedResponse::restored(names.clone(), bytes, &NameLists::default()) {
                prop_assert_eq!(packed.headers(0).len(), names.len());
                let _ = (packed.stored_from(), packed.body());
            }
        }
    }

    #[test]
    fn lists_of_random_names_are_not_kept() {
        let lists = NameLists::default();
        let list = |number: usize| vec![HeaderName::try_from(format!("x-{number}")).unwrap()];
        let kept: Vec<_> = (0..MAX_LISTS).map(|number| lists.share(list(number))).collect();
        assert!(kept.iter().all(|names| names.own == 0));
        assert!(lists.share(list(MAX_LISTS)).own > 0);
        drop(kept);
        assert_eq!(lists.share(list(MAX_LISTS)).own, 0);
        assert_eq!(lists.0.lock().len(), 1);
    }
}
